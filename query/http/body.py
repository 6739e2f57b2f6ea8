"""Small request bodies of the query API: parameters as a form or as a JSON object."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from litestar.types import HTTPScope, Receive

from query.client import ClientLeftError
from shared.errors import BadRequestError, TooLargeError
from shared.web.guards import query_pairs

MAX_BODY_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def read_arguments(scope: HTTPScope, receive: Receive) -> Mapping[str, object]:
    """Parameters in the body of a POST; a name that a form repeats has its values joined by commas.

    Raises:
        BadRequestError: The body is neither a form nor a JSON object.
        TooLargeError: It is longer than a megabyte.
        ClientLeftError: The caller left before its end.
    """
    if scope["method"] != "POST":
        return {}
    refuse_unreadable(scope)
    body = (await read_small_body(receive)).strip()
    if not body:
        return {}
    # What is neither would be overlooked as a form of one odd name.
    if body[:1] not in (b"{", b"[", b'"') and b"=" in body:
        return form_parameters(body)
    return json_parameters(body)


def form_parameters(body: bytes) -> dict[str, object]:
    """A form; a name that it repeats has its values joined by commas."""
    joined: dict[str, object] = {}
    for name, value in query_pairs(body):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def json_parameters(body: bytes) -> Mapping[str, object]:
    """A JSON object.

    Raises:
        BadRequestError: It is none.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequestError(
            f"The body is not a JSON object: {error}.",
            hint="Send parameters as a JSON object or as a form.",
        ) from error


def refuse_unreadable(scope: HTTPScope) -> None:
    """Refuse file uploads and compressed bodies: their parameters would be overlooked.

    Raises:
        BadRequestError: The body is one.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise BadRequestError(
                f"The body is compressed ({value.decode('latin-1')}).", hint="Send it as it is."
            )
        if name == b"content-type" and value.lower().startswith(b"multipart/"):
            raise BadRequestError(
                "The body is a multipart form.",
                hint="Send parameters as application/x-www-form-urlencoded or as a JSON object.",
            )


async def read_small_body(receive: Receive) -> bytes:
    """The whole body of a request that has no reason to be large.

    Raises:
        TooLargeError: It is longer than a megabyte.
        ClientLeftError: The caller left before its end.
    """
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        parts.append(message["body"])
        size += len(message["body"])
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
        if not message.get("more_body"):
            return b"".join(parts).removeprefix(_BYTE_ORDER_MARK)
