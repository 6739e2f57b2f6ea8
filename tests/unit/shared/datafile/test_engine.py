from __future__ import annotations

import pytest

from shared.datafile.datasource import parse_datasource
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.engine import key_items, simple_names
from shared.datafile.source import source_file
from shared.model.resources import EngineSpec

SCHEMA = """SCHEMA >
    id String,
    `at` DateTime,
    sign Int8,
    n UInt64,
    note Nullable(String),
    state AggregateFunction(sum, UInt64)
"""


def engine(lines: str) -> tuple[EngineSpec | None, list[str]]:
    diagnostics = Diagnostics()
    parsed = parse_datasource(source_file("e.datasource", SCHEMA + lines), diagnostics)
    return parsed.engine if parsed else None, [d.code for d in diagnostics.sorted()]


def test_without_an_engine_it_is_a_merge_tree_without_keys() -> None:
    assert engine("") == (EngineSpec(), [])


def test_every_engine_line_has_its_place() -> None:
    spec, codes = engine(
        'ENGINE "ReplacingMergeTree"\nENGINE_PARTITION_KEY "toYYYYMM(at)"\n'
        'ENGINE_SORTING_KEY "id, at"\nENGINE_PRIMARY_KEY id\nENGINE_SAMPLING_KEY ""\n'
        "ENGINE_TTL at + interval 1 day\nENGINE_SETTINGS index_granularity = 1024\nENGINE_VER n\n"
    )
    assert codes == []
    assert spec == EngineSpec(
        name="ReplacingMergeTree",
        partition_key="toYYYYMM(at)",
        sorting_key="id, at",
        primary_key="id",
        ttl="at + interval 1 day",
        settings="index_granularity = 1024",
        ver="n",
    )


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ("ENGINE_SORTING_KEY tuple()", []),
        ("ENGINE_SORTING_KEY (id, `at`)", []),
        ("ENGINE_SORTING_KEY id, toDate(at), intDiv(n, 3)", []),
        ("ENGINE_SORTING_KEY id, toStartOfInterval(whatever, INTERVAL 1 hour)", []),
        ("ENGINE_SORTING_KEY cityHash64(note)", []),
        ("ENGINE_SORTING_KEY __timestamp, id.sub", []),
        ("ENGINE_SORTING_KEY note\nENGINE_SETTINGS allow_nullable_key=1", []),
        ("ENGINE_SORTING_KEY note", ["key_column"]),
        ("ENGINE_SORTING_KEY state", ["key_column"]),
        ("ENGINE_SORTING_KEY id, sum(n)", ["key_column"]),
        ("ENGINE_SORTING_KEY id, toDate(ad)", ["unknown_column"]),
        ("ENGINE_PARTITION_KEY ad", ["unknown_column"]),
        ("ENGINE SummingMergeTree\nENGINE_COLUMNS (n, m)", ["unknown_column"]),
        ("ENGINE SummingMergeTree\nENGINE_COLUMNS n", []),
        ("ENGINE CollapsingMergeTree\nENGINE_SIGN sign", []),
        ("ENGINE CollapsingMergeTree", ["engine_column"]),
        ("ENGINE CollapsingMergeTree\nENGINE_SIGN n", ["engine_column"]),
        ("ENGINE ReplacingMergeTree\nENGINE_SORTING_KEY id, n\nENGINE_VER n", ["key_column"]),
        (
            "ENGINE ReplacingMergeTree\nENGINE_SORTING_KEY id\nENGINE_IS_DELETED sign",
            ["engine_column", "engine_column"],
        ),
        ("ENGINE_VER n", ["engine_option_ignored"]),
        ("ENGINE Log", ["unknown_engine"]),
        ("ENGINE mergetree", ["unknown_engine"]),
    ],
)
def test_keys_and_columns_are_compared_with_the_schema(lines: str, codes: list[str]) -> None:
    assert engine(lines)[1] == codes


def test_an_option_of_another_engine_is_left_out() -> None:
    spec, _ = engine("ENGINE_SIGN sign")
    assert spec == EngineSpec()


def test_a_key_is_cut_into_its_expressions() -> None:
    assert key_items("(a, f(b, c))") == ("a", "f(b, c)")
    assert key_items("(a), (b)") == ("(a)", "(b)")
    assert key_items("tuple()") == ()
    assert key_items("tuple(a, b)") == ("a", "b")


def test_names_are_found_in_simple_expressions_only() -> None:
    assert simple_names("f(a, g(`b c`), 'x', 3) + c.d") == ("a", "`b c`", "c.d")
    assert simple_names("a DESC") == ()
    assert simple_names("arrayMap(x -> x, a)") == ()
    assert simple_names("if(isNull(a), null, b)") == ("a", "b")
