from __future__ import annotations

from shared.datafile.datasource import parse_datasource
from shared.datafile.diagnostics import Diagnostics
from shared.datafile.source import source_file
from shared.model.resources import Datasource, Index, KafkaSource, Span, TokenGrant

FULL = """
# made by hand
DESCRIPTION >
    Page views
      of all shops

tags "shop, team=web"
TOKEN "the tracker" append
TOKEN dashboard READ

SCHEMA >
    `id` String `json:$.id`,
    `at` DateTime `json:$.at`

INDEXES >
    by_id id TYPE bloom_filter GRANULARITY 2

ENGINE “MergeTree”
ENGINE_SORTING_KEY "at"

SHARED_WITH >
    sales,
    support
FORWARD_QUERY >
    SELECT id,
      toDateTime(at) AS at
BACKFILL skip

KAFKA_CONNECTION_NAME broker
KAFKA_TOPIC {{ tb_secret("PREFIX") }}.views -- the topic of the shop
KAFKA_GROUP_ID "${PREFIX}_views"
KAFKA_AUTO_OFFSET_RESET Earliest
KAFKA_STORE_HEADERS true
"""


def parse(text: str, **secrets: str) -> tuple[Datasource | None, list[str]]:
    diagnostics = Diagnostics()
    parsed = parse_datasource(source_file("d/views.datasource", text), diagnostics, secrets)
    return parsed, [d.code for d in diagnostics.sorted()]


def test_every_part_of_a_data_source_is_read() -> None:
    parsed, codes = parse(FULL, PREFIX="shop")
    assert codes == []
    assert parsed is not None
    assert parsed.name == "views"
    assert parsed.description == "Page views\n  of all shops"
    assert [(c.name, c.type, c.jsonpath) for c in parsed.columns] == [
        ("id", "String", "$.id"),
        ("at", "DateTime", "$.at"),
        ("__topic", "LowCardinality(String)", None),
        ("__partition", "Int32", None),
        ("__offset", "Int64", None),
        ("__timestamp", "DateTime", None),
        ("__key", "String", None),
        ("__value", "String", None),
        ("__headers", "Map(String, String)", None),
    ]
    assert parsed.engine.name == "MergeTree"
    assert parsed.indexes == (
        Index(
            name="by_id",
            expression="id",
            type="bloom_filter",
            granularity=2,
            span=Span("d/views.datasource", 16, 11),
        ),
    )
    assert parsed.tokens == (TokenGrant("the tracker", "APPEND"), TokenGrant("dashboard", "READ"))
    assert parsed.tags == ("shop", "team=web")
    assert parsed.shared_with == ("sales", "support")
    assert parsed.forward_query == "SELECT id,\n  toDateTime(at) AS at"
    assert parsed.backfill == "skip"
    assert parsed.kafka == KafkaSource(
        connection="broker",
        topic="shop.views",
        group_id="shop_views",
        auto_offset_reset="earliest",
        store_headers=True,
    )


def test_an_offset_reset_of_none_stops_as_error_does() -> None:
    parsed, codes = parse(FULL.replace("Earliest", "None"), PREFIX="shop")
    assert codes == []
    assert parsed is not None and parsed.kafka is not None
    assert parsed.kafka.auto_offset_reset == "error"


def test_a_format_that_is_not_decoded_is_told() -> None:
    lines = "KAFKA_KEY_FORMAT Avro\nKAFKA_VALUE_FORMAT json_with_schema\n"
    parsed, codes = parse(FULL + lines, PREFIX="shop")
    assert codes == ["bad_option", "bad_option"]
    assert parsed is not None
    lines = "KAFKA_KEY_FORMAT String\nKAFKA_VALUE_FORMAT json_without_schema\n"
    assert parse(FULL + lines, PREFIX="shop")[1] == []


def test_the_last_of_two_lines_wins() -> None:
    parsed, codes = parse("SCHEMA >\n  a Strin\nSCHEMA >\n  b String\n")
    assert codes == []
    assert parsed is not None
    assert [c.name for c in parsed.columns] == ["b"]


def test_import_settings_are_kept_by_command() -> None:
    parsed, codes = parse(
        "SCHEMA >\n  a String\nIMPORT_CONNECTION_NAME store\nIMPORT_SCHEDULE @auto\n"
        'IMPORT_BUCKET_URI "s3://bucket/*.csv"\nIMPORT_FORMAT CSV\n'
    )
    assert codes == []
    assert parsed is not None
    assert dict(parsed.imports) == {
        "IMPORT_CONNECTION_NAME": "store",
        "IMPORT_SCHEDULE": "@auto",
        "IMPORT_BUCKET_URI": "s3://bucket/*.csv",
        "IMPORT_FORMAT": "csv",
    }


def test_other_imports_need_no_bucket() -> None:
    dynamo = "IMPORT_CONNECTION_NAME c\nIMPORT_TABLE_ARN arn\nIMPORT_EXPORT_BUCKET b\n"
    postgres = "PG_CONNECTION_NAME c\nPG_TABLE t\n"
    for lines in (dynamo, postgres):
        assert parse("SCHEMA >\n  a String\n" + lines)[1] == []


def test_the_json_form_says_the_same_as_the_text_form() -> None:
    as_json, json_codes = parse(
        """{
        "description": "Page views",
        "SCHEMA": [
            {"name": "id", "type": "String", "json_path": "$.id", "codec": "ZSTD(1)"},
            {"name": "n", "type": "UInt8", "nullable": true, "default": "3"}
        ],
        "INDEXES": ["by_id id TYPE minmax"],
        "ENGINE": "MergeTree",
        "ENGINE_SORTING_KEY": "id",
        "TOKEN": ["tracker APPEND"],
        "TAGS": ["shop", "web"]
        }"""
    )
    as_text, text_codes = parse(
        "DESCRIPTION Page views\nSCHEMA >\n  id String `json:$.id` CODEC(ZSTD(1)),\n"
        "  n Nullable(UInt8) DEFAULT 3\nINDEXES by_id id TYPE minmax\nENGINE MergeTree\n"
        "ENGINE_SORTING_KEY id\nTOKEN tracker APPEND\nTAGS shop, web\n"
    )
    assert json_codes == text_codes == []
    assert as_json is not None
    assert as_text is not None
    assert without_spans(as_json) == without_spans(as_text)


def without_spans(datasource: Datasource) -> object:
    columns = [(c.name, c.type, c.jsonpath, c.default, c.codec) for c in datasource.columns]
    indexes = [(i.name, i.expression, i.type, i.granularity) for i in datasource.indexes]
    rest = (datasource.description, datasource.engine, indexes)
    return columns, rest, datasource.tokens, datasource.tags


def test_json_that_no_text_could_hold_is_refused() -> None:
    for text in ('{"DESCRIPTION": "\\ud800"}', "[" * 10, '{"a": ' * 20_000, "{}"):
        parsed, codes = parse(text)
        assert parsed is None, text[:40]
        assert codes, text[:40]
