"""OpenAPI 3.1 of exactly what one token can read; pure.

Each endpoint is one path, ``/v0/pipes/<name>.{format}``. Parameters come from its templates and
those of everything it reads, the columns of its answer from the engine. What a token fixes is not
shown: the caller could not change it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec

from query.columns import OutputColumn
from query.endpoints import Endpoint, endpoint_formats
from query.formats import OutputFormat
from query.schemas import Schema, column_schema, parameter_schema
from query.template.describe import Parameter

_ERROR_TEXTS = {
    "400": "A parameter, the template or the SQL is wrong.",
    "403": "No token, or one that may not read this.",
    "404": "No such endpoint or format.",
    "408": "The query took longer than it may.",
    "413": "The request or the answer is too large.",
    "429": "Too many requests; Retry-After says when to come back.",
    "503": "The engine does not answer; Retry-After says when to come back.",
    "default": "Anything else that went wrong.",
}


def openapi(
    endpoints: Sequence[Endpoint], *, server: str, has_free_sql: bool = False
) -> dict[str, object]:
    """The document.

    Args:
        endpoints: What the token can read.
        server: Where the API is served, without a slash at the end; empty where it is unknown.
        has_free_sql: Whether the token may use ``/v0/sql``.
    """
    paths: dict[str, object] = {}
    for endpoint in endpoints:
        paths[f"/v0/pipes/{endpoint.name}.{{format}}"] = _path(endpoint)
    if has_free_sql:
        paths["/v0/sql"] = _sql_path()
    # Clients that generate code can tell by it whether anything changed.
    version = hashlib.sha256(msgspec.json.encode(paths, order="sorted")).hexdigest()[:12]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pipehouse endpoints",
            "version": version,
            "description": (
                "What this token can read. Every endpoint also takes `q`, a SELECT over its"
                " result under the name `_`."
            ),
        },
        "servers": [{"url": server or "/"}],
        "security": [{"bearer": []}, {"token": []}],
        "paths": paths,
        "components": _COMPONENTS,
    }


# Paths --------------------------------------------------------------------------------------------


def _path(endpoint: Endpoint) -> Schema:
    formats = endpoint_formats(endpoint)
    answer: Schema = {
        "summary": _first_sentence(endpoint.description) or endpoint.name,
        "description": endpoint.description,
        "tags": list(endpoint.tags) or ["endpoints"],
        "responses": {"200": _answer(endpoint, formats), **_errors(endpoint)},
    }
    body = _body(endpoint)
    return {
        "parameters": [
            {
                "name": "format",
                "in": "path",
                "required": True,
                "description": "How the answer is written.",
                "schema": {"type": "string", "enum": [f.ending for f in formats]},
                "example": "json",
            }
        ],
        "get": {
            "operationId": endpoint.name,
            **answer,
            "parameters": [_parameter(p) for p in endpoint.parameters],
        },
        "post": {"operationId": f"{endpoint.name}-post", **answer, **body},
    }


def _first_sentence(text: str) -> str:
    """The first sentence without its stop; the lines of a file are not those of a reader."""
    return re.split(r"[.!?](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def _parameter(parameter: Parameter) -> Schema:
    schema = parameter_schema(parameter)
    found: Schema = {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "schema": schema,
        "x-type": parameter.type,
    }
    if parameter.description:
        found["description"] = parameter.description
    if schema.get("type") == "array":
        found |= {"style": "form", "explode": False}
    return found


def _body(endpoint: Endpoint) -> Schema:
    """The same parameters in the body, for values that are too long for a URL."""
    if not endpoint.parameters:
        return {}
    properties = {}
    for parameter in endpoint.parameters:
        schema = parameter_schema(parameter)
        if parameter.description:
            schema["description"] = parameter.description
        properties[parameter.name] = schema
    schema = {"type": "object", "properties": properties}
    required = [p.name for p in endpoint.parameters if p.required]
    if required:
        schema["required"] = required
    lists = {n: s for n, s in properties.items() if s.get("type") == "array"}
    form: Schema = {"schema": schema}
    if lists:
        form["encoding"] = {name: {"style": "form", "explode": False} for name in lists}
    return {
        "requestBody": {
            "required": bool(required),
            "content": {
                "application/json": {"schema": schema},
                "application/x-www-form-urlencoded": form,
            },
        }
    }


def _answer(endpoint: Endpoint, formats: Sequence[OutputFormat]) -> Schema:
    content: dict[str, Schema] = {}
    for format_ in formats:
        media_type = format_.media_type.partition(";")[0]
        if format_.ending == "json":
            content[media_type] = {"schema": _json_answer(endpoint.columns)}
        elif format_.ending == "parquet":
            # OpenAPI 3.1 describes raw bytes by the absence of a schema.
            content[media_type] = {}
        else:
            content[media_type] = {"schema": {"type": "string"}}
    return {"description": "The rows.", "content": content, "headers": _REQUEST_ID}


def _json_answer(columns: tuple[OutputColumn, ...] | None) -> Schema:
    row: Schema = {"type": "object"}
    if columns is not None:
        row["properties"] = {
            c.name: {**column_schema(c.type), "x-clickhouse-type": c.type} for c in columns
        }
        row["required"] = [c.name for c in columns]
    return {
        "type": "object",
        "required": ["meta", "data", "rows"],
        "properties": {
            "meta": {"type": "array", "items": _ref("schemas", "Column")},
            "data": {"type": "array", "items": row},
            "rows": {"type": "integer", "minimum": 0},
            "rows_before_limit_at_least": {"type": "integer", "minimum": 0},
            "statistics": _ref("schemas", "Statistics"),
        },
    }


def _errors(endpoint: Endpoint | None = None) -> dict[str, Schema]:
    found = {status: _ref("responses", f"Error{status}") for status in _ERROR_TEXTS}
    if endpoint is not None and endpoint.has_own_errors:
        own: Schema = {
            "description": "A parameter is wrong, or the endpoint refuses in words of its own.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
        found["400"] = found["default"] = own
    return found


def _sql_path() -> Schema:
    answer: Schema = {
        "summary": "One SELECT over what the token can read",
        "description": "A FORMAT clause chooses the format, tab-separated values without one.",
        "tags": ["sql"],
        "responses": {
            "200": {
                "description": "The answer in the format asked for.",
                "content": {"*/*": {}},
                "headers": _REQUEST_ID,
            },
            **_errors(),
        },
    }
    query: Schema = {"type": "string", "minLength": 1, "examples": ["SELECT 1 AS one FORMAT JSON"]}
    return {
        "get": {
            "operationId": "run-sql",
            **answer,
            "parameters": [
                {
                    "name": "q",
                    "in": "query",
                    "required": True,
                    "description": "The statement.",
                    "schema": query,
                }
            ],
        },
        "post": {
            "operationId": "run-sql-post",
            **answer,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {"q": query},
                            "required": ["q"],
                        }
                    },
                    "text/plain": {"schema": query},
                },
            },
        },
    }


# Components ---------------------------------------------------------------------------------------


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


_REQUEST_ID: Schema = {
    "X-Request-Id": {
        "description": "Names the request in the server's log.",
        "schema": {"type": "string"},
    }
}
_SECONDS: Schema = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}


def _error_response(status: str, text: str) -> Schema:
    retry = {"Retry-After": _SECONDS} if status in ("429", "503") else {}
    return {
        "description": text,
        "content": {"application/json": {"schema": _ref("schemas", "Error")}},
        "headers": {**_REQUEST_ID, **retry},
    }


_COMPONENTS: Mapping[str, object] = {
    "securitySchemes": {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token or a JWT."},
        "token": {"type": "apiKey", "in": "query", "name": "token"},
    },
    "schemas": {
        "Error": {
            "type": "object",
            "required": ["error", "code"],
            "properties": {
                "error": {"type": "string", "description": "What is wrong and what to do."},
                "code": {"type": "string", "description": "Stable; see documentation."},
                "errors": {
                    "type": "array",
                    "items": {"type": "object"},
                    "description": "Each mistake of the request.",
                },
                "documentation": {"type": "string", "format": "uri-reference"},
            },
        },
        "Column": {
            "type": "object",
            "required": ["name", "type"],
            "properties": {"name": {"type": "string"}, "type": {"type": "string"}},
        },
        "Statistics": {
            "type": "object",
            "properties": {
                "elapsed": {"type": "number", "description": "Seconds."},
                "rows_read": {"type": "integer"},
                "bytes_read": {"type": "integer"},
            },
        },
    },
    "responses": {
        f"Error{status}": _error_response(status, text) for status, text in _ERROR_TEXTS.items()
    },
}
