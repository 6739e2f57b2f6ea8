"""Small request bodies of the query API: parameters as a form or as a JSON object."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from litestar.types import HTTPScope, Receive

from query.client import ClientLeftError
from shared.errors import BadRequestError, TooLargeError
from shared.web.guards import query_pairs

MAX_BODY_BYTES = 1 << 20


async def read_arguments(scope: HTTPScope, receive: Receive) -> Mapping[str, object]:
    """Parameters in the body of a POST; a name that a form repeats has its values joined by commas.

    Raises:
        BadRequestError: The body is neither a form nor a JSON object.
        TooLargeError: It is longer than a megabyte.
        ClientLeftError: The caller left before its end.
    """
    if scope["method"] != "POST":
        return {}
    refuse_multipart(scope)
    body = (await read_small_body(receive)).strip()
    if not body:
        return {}
    if body[:1] not in (b"{", b"["):
        joined: dict[str, object] = {}
        for name, value in query_pairs(body):
            joined[name] = f"{joined[name]},{value}" if name in joined else value
        return joined
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise BadRequestError(
            f"The body is not a JSON object: {error}.",
            hint="Send parameters as a JSON object or as a form.",
        ) from error


def refuse_multipart(scope: HTTPScope) -> None:
    """Refuse the form of file uploads: its parameters would be overlooked.

    Raises:
        BadRequestError: The body is one.
    """
    for name, value in scope["headers"]:
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
            return b"".join(parts)
