from __future__ import annotations

import pytest

from query.schemas import column_schema, parameter_schema
from query.template.describe import Parameter


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("UInt8", {"type": "integer", "minimum": 0, "maximum": 255}),
        ("Int64", {"type": "integer", "format": "int64"}),
        ("Float64", {"type": ["number", "null"]}),
        ("LowCardinality(Nullable(String))", {"type": ["string", "null"]}),
        ("Nullable(Float32)", {"type": ["number", "null"]}),
        ("Enum8('a' = 1, 'b' = 2)", {"type": "string", "enum": ["a", "b"]}),
        ("Nullable(Enum8('a' = 1))", {"type": ["string", "null"], "enum": ["a", None]}),
        ("Array(Date)", {"type": "array", "items": {"type": "string", "format": "date"}}),
        ("Map(String, Bool)", {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (
            "Tuple(a Bool, b UUID)",
            {
                "type": "object",
                "properties": {
                    "a": {"type": "boolean"},
                    "b": {"type": "string", "format": "uuid"},
                },
                "required": ["a", "b"],
            },
        ),
        (
            "Tuple(Bool, String)",
            {
                "type": "array",
                "prefixItems": [{"type": "boolean"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        ("SimpleAggregateFunction(sum, Decimal(9, 2))", {"type": "number"}),
        ("Variant(String, Bool)", {}),
        ("Nullable(Dynamic)", {}),
        ("SomethingNewer(3)", {}),
    ],
)
def test_a_column_has_the_schema_of_what_the_engine_writes(
    type_: str, expected: dict[str, object]
) -> None:
    assert column_schema(type_) == expected


def schema(**said: object) -> dict[str, object]:
    return parameter_schema(Parameter(name="p", **said))  # type: ignore[arg-type]


def test_defaults_enums_and_examples_have_the_type_of_the_parameter() -> None:
    assert schema(type="Int8", default=5, enum=("5", "7"), example="7") == {
        "type": "integer",
        "minimum": -128,
        "maximum": 127,
        "enum": [5, 7],
        "default": 5,
        "examples": [7],
    }
    assert schema(type="Boolean", default="0")["default"] is False
    assert schema(type="Array(Int64)", default="1,2", enum=("1", "2"), example="2") == {
        "type": "array",
        "items": {"type": "integer", "format": "int64", "enum": [1, 2]},
        "default": [1, 2],
        "examples": [[2]],
    }


def test_what_is_not_of_the_type_is_left_out() -> None:
    assert "default" not in schema(type="Int8", default=1000)
    assert "default" not in schema(type="Date", default="yesterday")
    assert "examples" not in schema(type="Array(Int8)", example="1,many")
    assert "default" not in schema(type="Float64", default="inf")


def test_a_default_that_the_listed_values_lack_is_listed_too() -> None:
    found = schema(type="String", default="all", enum=("a", "b"))
    assert found["enum"] == ["a", "b", "all"]
    # An empty text stands for no choice at all.
    empty = schema(type="String", default="", enum=("a", "b"))
    assert empty["enum"] == ["a", "b"]
    assert "default" not in empty


def test_the_format_that_a_template_states_is_passed_on() -> None:
    assert schema(type="String", format="email")["format"] == "email"
    assert schema(type="Int64", format="seconds")["format"] == "int64"
