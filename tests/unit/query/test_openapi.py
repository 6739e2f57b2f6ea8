from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from openapi_spec_validator import OpenAPIV31SpecValidator

from query.columns import OutputColumn
from query.endpoints import (
    Endpoint,
    describe_endpoint,
    endpoint_formats,
    may_use_sql,
    readable_endpoints,
)
from query.openapi import openapi
from query.template.compile import Template, compile_template
from query.template.describe import Parameter
from shared.auth.tokens import ADMIN, DATASOURCES_APPEND, PIPES_READ, Grant, Scope
from shared.model.resources import Node, Pipe
from shared.model.workspace import Workspace


def node(name: str, sql: str, *, endpoint: bool = False) -> Node:
    return Node(name=name, sql=sql, kind="endpoint" if endpoint else "standard", is_template=True)


def template_of(pipe: Pipe, node: Node) -> Template:
    return compile_template(node.sql)


def workspace(*pipes: Pipe) -> Workspace:
    return Workspace(pipes={pipe.name: pipe for pipe in pipes})


def reader(pipe: str, **fixed: object) -> Grant:
    scope = Scope(type=PIPES_READ, resource=pipe, fixed_params=fixed)
    return Grant(name="reader", scopes=(scope,))


def names(found: Endpoint) -> list[str]:
    return [p.name for p in found.parameters]


TOP = Pipe(
    name="top",
    description="The first.\nAnd more.",
    nodes=(
        node("unread", "SELECT {{Int32(never)}}"),
        node("base", "SELECT 1 AS n WHERE 1 = {{Int32(one, 1)}}"),
        node(
            "answer",
            "SELECT n FROM base JOIN other USING n WHERE n IN {{Array(many, 'Int32', '1,2')}}"
            " {% if defined(day) %} AND {{Date(day, description='Which day')}} = '' {% end %}",
            endpoint=True,
        ),
    ),
)
OTHER = Pipe(name="other", nodes=(node("a", "SELECT {{String(far, required=True)}} AS n"),))
COLUMNS = (OutputColumn("n", "UInt64"), OutputColumn("t", "Nullable(DateTime)"))


def document(*endpoints: Endpoint, has_free_sql: bool = False) -> Any:
    found = openapi(endpoints, server="http://h:1", has_free_sql=has_free_sql)
    # As it is sent: no tuples, keys in text.
    return msgspec.json.decode(msgspec.json.encode(found))


def described() -> Endpoint:
    found = describe_endpoint(workspace(TOP, OTHER), TOP, template_of)
    return msgspec.structs.replace(found, columns=COLUMNS)


def test_parameters_are_those_of_everything_the_answer_reads() -> None:
    assert names(described()) == ["many", "day", "one", "far"]


def test_what_a_token_fixes_is_hidden() -> None:
    assert "one" not in names(describe_endpoint(workspace(TOP, OTHER), TOP, template_of, ["one"]))


def test_a_name_that_requests_use_themselves_is_no_parameter() -> None:
    pipe = Pipe(name="p", nodes=(node("a", "SELECT {{String(token, '')}}, {{String(b, '')}}"),))
    assert names(describe_endpoint(workspace(pipe), pipe, template_of)) == ["b"]


def test_a_token_sees_what_it_can_read_and_nothing_else() -> None:
    plain = Pipe(name="plain", nodes=(node("a", "SELECT 1"),))
    pipes = workspace(TOP, OTHER, plain)

    def seen(grant: Grant) -> list[str]:
        return [pipe.name for pipe in readable_endpoints(pipes, grant)]

    assert seen(Grant(name="admin", scopes=(Scope(type=ADMIN),))) == ["top"]
    assert seen(reader("top")) == ["top"]
    assert seen(reader("other")) == []
    assert not may_use_sql(
        Grant(name="w", scopes=(Scope(type=DATASOURCES_APPEND, resource="top"),))
    )
    assert may_use_sql(reader("top"))


def test_the_document_is_valid_openapi() -> None:
    odd = Parameter(name="odd", type="Array(Float64)", default="1,x", enum=("1", "2"))
    one = msgspec.structs.replace(described(), parameters=(*described().parameters, odd))
    bare = Endpoint(name="bare")
    found = document(one, bare, has_free_sql=True)
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []
    assert document()["paths"] == {}


def test_a_request_is_described_with_types_defaults_and_texts() -> None:
    get = document(described())["paths"]["/v0/pipes/top.{format}"]["get"]
    assert get["summary"] == "The first"
    by_name: Mapping[str, Any] = {p["name"]: p for p in get["parameters"]}
    assert by_name["many"]["schema"]["items"]["type"] == "integer"
    assert by_name["many"]["explode"] is False
    assert by_name["one"]["schema"]["default"] == 1
    assert by_name["day"]["description"] == "Which day"
    assert [name for name, p in by_name.items() if p["required"]] == ["far"]


def test_the_body_of_a_post_has_the_same_parameters() -> None:
    post = document(described())["paths"]["/v0/pipes/top.{format}"]["post"]
    body = post["requestBody"]
    assert body["required"] is True
    schema = body["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == ["many", "day", "one", "far"]
    assert schema["required"] == ["far"]


def test_the_answer_has_the_columns_of_the_engine() -> None:
    answers = document(described())["paths"]["/v0/pipes/top.{format}"]["get"]["responses"]
    row = answers["200"]["content"]["application/json"]["schema"]["properties"]["data"]["items"]
    assert row["required"] == ["n", "t"]
    assert row["properties"]["t"]["type"] == ["string", "null"]
    assert row["properties"]["t"]["x-clickhouse-type"] == "Nullable(DateTime)"


def test_errors_in_words_of_a_template_are_not_said_to_have_our_envelope() -> None:
    sql = "{% if not defined(a) %}{{ custom_error({'no': 1}) }}{% end %} SELECT {{String(a)}}"
    pipe = Pipe(name="p", nodes=(node("a", sql, endpoint=True),))
    found = describe_endpoint(workspace(pipe), pipe, template_of)
    assert found.has_own_errors
    answers = document(found)["paths"]["/v0/pipes/p.{format}"]["get"]["responses"]
    assert answers["400"]["content"]["application/json"]["schema"] == {"type": "object"}
    assert answers["403"] == {"$ref": "#/components/responses/Error403"}


def test_prometheus_is_offered_where_the_columns_allow_it() -> None:
    metric = (OutputColumn("name", "String"), OutputColumn("value", "Float64"))

    def endings(columns: tuple[OutputColumn, ...] | None) -> set[str]:
        return {f.ending for f in endpoint_formats(Endpoint(name="e", columns=columns))}

    assert endings(metric) - endings(COLUMNS) <= {"prometheus"}
    assert "prometheus" not in endings(None)


def test_the_version_changes_with_what_is_described_and_only_then() -> None:
    before = document(described())["info"]["version"]
    assert before == document(described())["info"]["version"]
    assert before != document(Endpoint(name="top"))["info"]["version"]
