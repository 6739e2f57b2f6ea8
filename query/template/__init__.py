"""The template language: SQL with tags to SQL with bindings; pure, and no ``eval``.

A caller's value never becomes SQL text. Each file imports only from those above it:

- ``source.py``: places in the SQL, and errors that say where
- ``values.py``: what a value is, and how a text is read as one
- ``state.py``: one render while it runs: names, output, bindings, problems, limits
- ``nodes.py``, ``lexer.py``, ``syntax.py``, ``parser.py``: text to a tree
- ``sql_context.py``: whether a tag stands in code, in a comment, in quotes, right of LIKE
- ``emit.py``: values to placeholders; the only place that writes anything but the template's text
- ``calls.py``, ``functions_*.py``, ``registry.py``: everything that can be called
- ``operators.py``, ``comprehension.py``, ``expression.py``: expressions to closures
- ``compile.py``: a tree to closures: ``compile_template``
- ``describe.py``: the parameters of a template: ``parameters``
- ``needs.py``: the secrets and names it cannot do without: ``needed_secrets``, ``needed_names``
- ``render.py``: a template and arguments to SQL and bindings: ``render``
"""
