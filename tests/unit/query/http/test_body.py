from __future__ import annotations

from typing import Any, cast

import pytest

from query.client import ClientLeftError
from query.http.body import MAX_BODY_BYTES, read_arguments
from shared.errors import BadRequestError, TooLargeError


async def read(
    *pieces: bytes, method: str = "POST", leaves: bool = False, **headers: bytes
) -> dict[str, object]:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": leaves or number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Any:
        return messages.pop(0)

    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    scope = {"method": method, "headers": [(n.encode(), v) for n, v in named]}
    return dict(await read_arguments(cast(Any, scope), receive))


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        ([b""], {}),
        ([b"  \n"], {}),
        ([b"a=1&b=x%20y&a=2&empty="], {"a": "1,2", "b": "x y", "empty": ""}),
        ([b'{"a": 1, ', b'"b": [1, 2], "c": null}'], {"a": 1, "b": [1, 2], "c": None}),
        ([b' {"a": "x"}'], {"a": "x"}),
        ([b'\xef\xbb\xbf{"a": 1}'], {"a": 1}),
    ],
)
async def test_a_body_is_a_form_or_a_json_object(
    pieces: list[bytes], arguments: dict[str, object]
) -> None:
    assert await read(*pieces) == arguments


async def test_only_a_post_has_arguments_in_its_body() -> None:
    assert await read(b"a=1", method="GET") == {}


async def test_broken_json_is_refused_with_the_place() -> None:
    with pytest.raises(BadRequestError, match=r"not a JSON object.*byte"):
        await read(b'{"a": }')


@pytest.mark.parametrize("body", [b"[1]", b' [{"a": 1}]', b"[]"])
async def test_a_list_is_no_parameters(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="not a JSON object"):
        await read(body)


@pytest.mark.parametrize(
    "body", [b'"a=1"', b"5", b"null", b"a", b"\x1f\x8b", b'{"a":' + b"[" * 9999]
)
async def test_what_is_neither_is_refused_and_not_overlooked(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="not a JSON object"):
        await read(body)


async def test_a_compressed_body_is_refused_and_not_overlooked() -> None:
    with pytest.raises(BadRequestError, match=r"compressed \(gzip\)"):
        await read(b"\x1f\x8b=", content_encoding=b"gzip")
    assert await read(b"a=1", content_encoding=b"identity") == {"a": "1"}


async def test_a_form_with_files_is_refused_and_not_overlooked() -> None:
    with pytest.raises(BadRequestError, match="multipart"):
        await read(b"--x\r\n\r\n", content_type=b"Multipart/Form-Data; boundary=x")


async def test_a_body_is_bounded() -> None:
    half = b"x" * (MAX_BODY_BYTES // 2)
    assert await read(b"a=" + half[2:], half)
    with pytest.raises(TooLargeError, match="larger than"):
        await read(half, half, b"x")


async def test_a_caller_who_leaves_half_way_is_no_mistake_of_the_request() -> None:
    with pytest.raises(ClientLeftError):
        await read(b"a=1", leaves=True)
