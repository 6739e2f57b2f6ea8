"""``/v0/tokens``: who may do what, read and changed over HTTP.

``<ref>`` is a name or an id. Arguments come in the query string, a form or a JSON object.

- ``GET /v0/tokens`` → ``{"tokens": [<token>, …]}``, by name; the admin token is the first.
- ``GET /v0/tokens/<ref>`` → ``<token>``; every token may read itself, also as ``<ref>`` ``me``.
- ``POST /v0/tokens?name=&scope=&scope=…[&description=]`` → ``<token>``; 409 where the name is taken.
- ``POST /v0/tokens?name=&expiration_time=<unix seconds>`` with a JSON body
  ``{"scopes": [{"type", "resource", "fixed_params"?, "filter"?}], "limits"?: {"rps": n}}``
  → ``{"token": "<jwt>"}``. A JWT is not kept, so it is never listed and cannot be taken back.
- ``PUT /v0/tokens/<ref>?[name=][&description=][&scope=…]`` → ``<token>``; what is not given stays.
- ``DELETE /v0/tokens/<ref>`` → ``{"ok": true}``.
- ``POST /v0/tokens/<ref>/refresh`` → ``<token>`` with a new secret; the old one is void.

A scope in text is ``TYPE[:resource[:row filter]]``. ``<token>`` is ``{"id", "token", "name",
"description", "scopes": [{"type", "resource"?, "filter"?, "fixed_params"?}], "origin": {"type",
"resource_name"?}, "host", "is_internal", "limits"?, "created_at", "updated_at"}``; the origin's
type is ``C`` (this API), ``DS`` or ``P`` (a datafile of a data source or pipe) or ``ADMIN``.

The scope ADMIN is needed, or TOKENS for tokens that hold neither of the two.
"""
