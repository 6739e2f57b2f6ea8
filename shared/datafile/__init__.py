"""Datafiles to the model. Read in this order: source, diagnostics, quoting, lexer, then
``datasource``, ``pipe`` and ``connection`` with the files they use, then links and project.
"""
