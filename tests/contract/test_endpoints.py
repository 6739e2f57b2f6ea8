"""Endpoints over HTTP on the real engine: statuses, headers, formats, streams, who leaves."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest

from shared.web.errors import error_codes
from tests.contract.endpoint_rig import ADMIN, Rig, serving_rig, until
from tests.contract.engines import AnyEngine, either, target

__all__ = ["either", "target"]

MEGABYTE = 1 << 20


@pytest.fixture
async def rig(either: AnyEngine) -> AsyncIterator[Rig]:
    async with serving_rig(either) as rig:
        yield rig


# Parameters and formats ---------------------------------------------------------------------------


async def test_parameters_come_from_query_string_form_and_json(rig: Rig) -> None:
    rig.endpoint("some", "SELECT n FROM EV WHERE n IN {{Array(ns, 'UInt32')}} ORDER BY n")

    def found(response: httpx.Response) -> list[int]:
        assert response.status_code == 200, response.text
        return [row["n"] for row in response.json()["data"]]

    url = "/v0/pipes/some.json"
    assert found(await rig.client.get(url + "?ns=1,2")) == [1, 2]
    assert found(await rig.client.get(url + "?ns=1&ns=2")) == [1, 2]
    assert found(await rig.client.post(url, data={"ns": ["3", "4"]})) == [3, 4]
    assert found(await rig.client.post(url, json={"ns": "5,6"})) == [5, 6]
    assert found(await rig.client.post(url + "?ns=1", json={"ns": [7]})) == [7]


@pytest.mark.parametrize(
    ("ending", "media_type", "start"),
    [
        ("json", "application/json; charset=utf-8", '{\n\t"meta"'),
        ("csv", "text/csv; charset=utf-8", '"name","value"\n"up",1\n'),
        ("csvwithnames", "text/csv; charset=utf-8", '"name","value"\n"up",1\n'),
        ("ndjson", "application/x-ndjson; charset=utf-8", '{"name":"up","value":1}\n'),
        ("parquet", "application/vnd.apache.parquet", "PAR1"),
        ("prometheus", "text/plain; version=0.0.4; charset=utf-8", "up 1\n"),
    ],
)
async def test_the_ending_of_the_url_chooses_the_format(
    rig: Rig, ending: str, media_type: str, start: str
) -> None:
    rig.endpoint("up", "SELECT 'up' AS name, toFloat64(1) AS value")
    for _ in range(2):  # streamed at first, fetched whole afterwards
        response = await rig.get(f"/up.{ending}")
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == media_type
        assert response.content.decode("latin-1").startswith(start)
        statistics = json.loads(response.headers["x-db-statistics"])
        assert statistics.keys() == {"elapsed", "rows_read", "bytes_read"}


async def test_output_settings_shape_the_answer(rig: Rig) -> None:
    rig.endpoint("big", "SELECT toUInt64(7) AS n")
    name = "output_format_json_quote_64bit_integers"
    assert (await rig.get("/big.json")).json()["data"] == [{"n": 7}]
    assert (await rig.get(f"/big.json?{name}=1")).json()["data"] == [{"n": "7"}]
    assert (await rig.get("/big.json")).json()["data"] == [{"n": 7}]
    refused = await rig.get(f"/big.json?{name}=maybe")
    assert (refused.status_code, refused.json()["code"]) == (400, "parameter_error")
    assert "expected 0 or 1" in refused.json()["error"]


async def test_what_a_template_refuses_has_a_code_unless_its_author_says_more(rig: Rig) -> None:
    rig.endpoint("picky", "SELECT 1{% if not defined(a) %}{{error('need a')}}{% end %}")
    rig.endpoint("own", "SELECT 1{% if not defined(a) %}{{custom_error({'why': 3}, 403)}}{% end %}")
    picky, own = await rig.get("/picky.json"), await rig.get("/own.json")
    assert (picky.status_code, picky.json()["error"]) == (400, "need a")
    assert picky.json()["code"] == "template_raised"
    assert (own.status_code, own.json()) == (403, {"why": 3})


async def test_a_field_that_nobody_filled_in_is_no_sql(rig: Rig) -> None:
    rig.endpoint("one", "SELECT 1 AS n")
    assert (await rig.get("/one.csv?q=")).text == '"n"\n1\n'


async def test_q_is_sql_over_the_result_and_over_nothing_else(rig: Rig) -> None:
    rig.endpoint("some", "SELECT n FROM EV WHERE n < {{UInt32(below, 5)}}")
    counted = await rig.get("/some.json", params={"q": "SELECT count() AS c FROM _", "below": "3"})
    assert counted.json()["data"] == [{"c": 3}]
    for sql, status in [
        (f"SELECT * FROM {rig.table}", 403),
        ("SELECT * FROM system.tables", 403),
        ("SELECT file('/etc/passwd') FROM _", 400),
        ("SELECT 1 FROM _ FORMAT CSV", 400),
        ("INSERT INTO x SELECT 1", 400),
        ("SELECT {p1:UInt32} FROM _", 400),
        ("SELEC", 400),
        (" ", 400),
    ]:
        refused = await rig.get("/some.json", params={"q": sql})
        assert refused.status_code == status, (sql, refused.text)
        assert refused.json()["error"]


# HTTP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taken", "encoding"), [("gzip, br", "gzip"), ("gzip, zstd", "zstd")])
async def test_large_answers_are_compressed_for_those_who_take_it(
    rig: Rig, taken: str, encoding: str
) -> None:
    rig.endpoint("rows", "SELECT number FROM numbers({{UInt32(rows, 1000)}})")
    for rows in (1000, 1000, 400_000):  # streamed, whole, and too large to be whole
        plain = await rig.get(f"/rows.ndjson?rows={rows}")
        packed = await rig.get(f"/rows.ndjson?rows={rows}", headers={"Accept-Encoding": taken})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == encoding
        assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
        assert packed.content == plain.content
        assert packed.num_bytes_downloaded < len(plain.content) / 2
    tiny = await rig.get("/rows.ndjson?rows=1", headers={"Accept-Encoding": taken})
    assert "content-encoding" not in tiny.headers


async def test_a_form_may_carry_the_token(rig: Rig) -> None:
    rig.endpoint("one", "SELECT {{Int32(n)}} AS n")
    async with httpx.AsyncClient(base_url=str(rig.client.base_url)) as client:
        url = "/v0/pipes/one.json"
        sent = await client.post(url, data={"token": ADMIN, "n": "4"})
        assert (sent.status_code, sent.json()["data"]) == (200, [{"n": 4}])
        refused = await client.post(url + "?token=wrong", data={"token": ADMIN, "n": "4"})
        assert refused.status_code == 403
        assert (await client.post(url, data={"n": "4"})).status_code == 403


async def test_head_has_the_headers_and_no_body(rig: Rig) -> None:
    rig.endpoint("one", "SELECT 1 AS n")
    expected = await rig.get("/one.csv")
    head = await rig.client.head("/v0/pipes/one.csv")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(expected.content))


async def test_options_says_what_is_possible_and_other_methods_are_refused(rig: Rig) -> None:
    options = await rig.client.options("/v0/pipes/one.json")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")
    refused = await rig.client.delete("/v0/pipes/one.json")
    assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        ("/one.json", "none", 403, "bad_token"),
        ("/one.json", "p.nobody-knows-this", 403, "bad_token"),
        ("/one.json", "other", 403, "missing_scope"),
        ("/nothing.json", "other", 403, "missing_scope"),
        ("/nothing.json", ADMIN, 404, "not_found"),
        ("/plain.json", ADMIN, 404, "not_found"),
        ("/one.xml", ADMIN, 404, "not_found"),
        ("/needs.json", ADMIN, 400, "parameter_error"),
        ("/broken.json", ADMIN, 400, "query_error"),
        ("/slow.json", ADMIN, 408, "query_timeout"),
        ("/slow.json", "hasty", 408, "query_timeout"),
        ("/hungry.json", "modest", 413, "too_large"),
        ("/large.json", "modest", 413, "too_large"),
        ("/raises.json", ADMIN, 400, "template_error"),
        ("/one.json?q=SELEC", ADMIN, 400, "query_error"),
        ("/one.json?output_format_json_quote_denormals=x", ADMIN, 400, "parameter_error"),
    ],
)
async def test_what_a_caller_can_do_wrong_has_a_status_and_a_code(
    rig: Rig, path: str, token: str, status: int, code: str
) -> None:
    rig.endpoint("one", "SELECT 1 AS n")
    rig.endpoint("plain", "SELECT 1 AS n", kind="standard")
    rig.endpoint("raises", "SELECT {{nothing()}} AS n")
    rig.endpoint("needs", "SELECT {{Int32(a)}} + {{Int32(b)}} AS n")
    rig.endpoint("broken", "SELECT nothing FROM EV")
    rig.endpoint(
        "slow", "SELECT count() AS c FROM numbers(100000000000) WHERE cityHash64(number) = 1"
    )
    rig.endpoint("hungry", "SELECT length(groupArray(number)) AS c FROM numbers(50000000)")
    rig.endpoint("large", "SELECT number FROM numbers(100000)")
    rig.allow("other", "else")
    rig.allow("hasty", "slow", timeout_s=0.2)
    rig.allow("modest", "hungry", "large", max_memory_bytes=50_000_000, max_result_bytes=100_000)
    if (path, token) == ("/slow.json", ADMIN):
        rig.allow("hasty-too", "slow", timeout_s=0.3)
        token = "hasty-too"
    for _ in range(2):
        response = await rig.get(path, headers={"Authorization": f"Bearer {token}"})
        answer = response.json()
        assert (response.status_code, answer["code"]) == (status, code), response.text
        assert answer["documentation"] == f"/docs/errors#{code}"
        assert (code, status) in {(known.code, known.status) for known in error_codes()}
        assert response.headers["x-request-id"]


async def test_no_text_in_a_request_is_a_mistake_of_ours(rig: Rig) -> None:
    rig.endpoint("some", "SELECT {{String(a, 'x')}} AS a, {{Array(b, 'Int32', '1')}} AS b")
    texts = ["\x00", "\ud800", "'", "\\", "{{a}}", "%", "%ff", ",", "1,,2", "é\u2028", "9" * 400]
    for text in texts:
        raw = quote(text.encode("utf-8", "surrogatepass"))
        for sent in (f"a={raw}", f"b={raw}", f"q={raw}", f"{raw}={raw}", raw, f"token={raw}"):
            for path in (f"/some.json?{sent}", f"/some.{raw}?{sent}", f"/{raw}.csv?{sent}"):
                response = await rig.get(path)
                assert response.status_code in (200, 400, 403, 404), (path, response.text)
            posted = await rig.client.post("/v0/pipes/some.json", content=sent)
            assert posted.status_code in (200, 400, 403), (sent, posted.text)
            document = json.dumps({"a": text + "z", "b": [text]})
            posted = await rig.client.post("/v0/pipes/some.json", content=document)
            assert posted.status_code in (200, 400), (sent, posted.text)


# Streams ------------------------------------------------------------------------------------------


async def test_a_large_answer_is_streamed_whole(rig: Rig) -> None:
    rig.endpoint("rows", "SELECT number FROM numbers(2000000)")
    response = await rig.get("/rows.ndjson")
    assert response.headers["transfer-encoding"] == "chunked"
    assert len(response.content) > 10 * MEGABYTE
    assert response.content.endswith(b'{"number":1999999}\n')


async def test_an_error_in_the_middle_breaks_the_answer_visibly(rig: Rig) -> None:
    rig.endpoint("late", "SELECT throwIf(number = 1900000) AS n FROM numbers(2000000)")
    with pytest.raises(httpx.RemoteProtocolError):
        await rig.get("/late.ndjson")
    # An answer over the limit is broken off as well, once it has begun.
    rig.endpoint("endless", "SELECT number FROM numbers(1000000000)")
    with pytest.raises(httpx.RemoteProtocolError):
        answer = await rig.get("/endless.ndjson")
        pytest.fail(f"{answer.status_code}, {len(answer.content)}: {answer.text[:300]}")


async def test_an_error_before_the_first_megabyte_has_its_own_status(rig: Rig) -> None:
    rig.endpoint("early", "SELECT throwIf(number = 60000) AS n FROM numbers(2000000)")
    response = await rig.get("/early.ndjson")
    assert (response.status_code, response.json()["code"]) == (400, "query_error")


async def test_a_small_answer_after_large_ones_and_the_other_way_round(rig: Rig) -> None:
    rig.endpoint("rows", "SELECT number FROM numbers({{UInt32(rows)}})")
    for rows in (3, 3, 300_000, 3, 300_000, 300_000, 3):
        response = await rig.get(f"/rows.csv?rows={rows}")
        assert response.text.count("\n") == rows + 1


# Callers that leave -------------------------------------------------------------------------------


async def test_the_statement_of_a_caller_who_leaves_is_ended(rig: Rig) -> None:
    sql = "SELECT count() AS left_alone FROM numbers({}) WHERE number % 7 = 9"
    rig.endpoint("slow", sql.format("100000000000"))
    # The engine treats statements with parameters differently.
    rig.endpoint("chosen", sql.format("{{UInt64(many)}}"))

    async def is_running() -> bool:
        return await rig.running("left_alone")

    async def is_gone() -> bool:
        return not await is_running()

    async def leave(path: str) -> None:
        asking = asyncio.ensure_future(rig.get(path))
        await until(is_running)
        asking.cancel()
        await until(is_gone, timeout_s=3.0)

    await leave("/slow.json")
    await leave("/chosen.json?many=100000000000")
    # After a small answer the next one is fetched and not streamed.
    assert (await rig.get("/chosen.json?many=10")).status_code == 200
    await leave("/chosen.json?many=100000000000")


async def test_a_stream_that_nobody_reads_any_more_is_ended(rig: Rig) -> None:
    rig.endpoint("rows", "SELECT number AS unread FROM numbers(1000000000)")

    async def is_gone() -> bool:
        return not await rig.running("unread")

    async with rig.client.stream("GET", "/v0/pipes/rows.ndjson") as response:
        async for _ in response.aiter_bytes():
            assert await rig.running("unread")
            break
    await until(is_gone, timeout_s=3.0)


async def test_a_slow_reader_neither_holds_the_engine_nor_runs_into_its_time_limit(
    rig: Rig,
) -> None:
    rig.endpoint("rows", "SELECT number AS slowly, repeat('x', 100) AS s FROM numbers(250000)")
    rig.allow("hasty", "rows", timeout_s=1.0)
    bearer = {"Authorization": "Bearer hasty"}

    async def is_gone() -> bool:
        return not await rig.running("slowly")

    async with rig.client.stream("GET", "/v0/pipes/rows.csv", headers=bearer) as response:
        pieces = response.aiter_bytes()
        size = len(await anext(pieces))
        await until(is_gone)
        # Longer than the query may run, and than it takes to end what does.
        await asyncio.sleep(1.7)
        async for piece in pieces:
            size += len(piece)
    assert size > 25 * MEGABYTE


async def test_a_large_answer_is_held_in_flat_memory_however_slowly_it_is_read(rig: Rig) -> None:
    rig.endpoint("wide", "SELECT repeat('x', 1000) AS held FROM numbers(38000)")

    async def is_gone() -> bool:
        return not await rig.running("held")

    tracemalloc.start()
    try:
        async with rig.client.stream("GET", "/v0/pipes/wide.csv") as response:
            pieces = response.aiter_bytes()
            size = len(await anext(pieces))
            # Everything has been taken from the engine, and next to nothing sent.
            await until(is_gone)
            async for piece in pieces:
                size += len(piece)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 36 * MEGABYTE
    assert peak_bytes < 12 * MEGABYTE


# The list -----------------------------------------------------------------------------------------


async def test_the_list_shows_what_the_token_can_read(rig: Rig) -> None:
    rig.endpoint("one", "SELECT {{Int32(a, 3, description='How many')}} AS n")
    rig.endpoint("two", "SELECT 2 AS n")
    rig.endpoint("inner", "SELECT 3 AS n", kind="standard")
    rig.allow("reader", "one")
    bearer = {"Authorization": "Bearer reader"}

    every = (await rig.get("")).json()["pipes"]
    assert [(p["name"], p["type"]) for p in every] == [
        ("inner", "default"),
        ("one", "endpoint"),
        ("two", "endpoint"),
    ]
    (seen,) = (await rig.get("/", headers=bearer)).json()["pipes"]
    assert (seen["name"], seen["url"]) == ("one", "/v0/pipes/one.json")
    (node,) = seen["nodes"]
    assert "sql" not in node
    assert node["params"] == [
        {
            "name": "a",
            "type": "Int32",
            "default": 3,
            "required": False,
            "description": "How many",
            "enum": None,
            "example": None,
            "format": None,
            "used_in": [],
        }
    ]
    by_id = (await rig.get(f"/{seen['id']}", headers=bearer)).json()
    assert by_id == (await rig.get("/one", headers=bearer)).json() == seen
    assert (await rig.get(f"/{seen['id']}.json", headers=bearer)).json()["data"] == [{"n": 3}]
    assert (await rig.get("/two", headers=bearer)).status_code == 403
    assert (await rig.get("/missing")).status_code == 404
    assert "SELECT 2" in (await rig.get("/two")).json()["nodes"][0]["sql"]
