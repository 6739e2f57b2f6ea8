"""ClickHouse's HTTP interface, the server's side of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import zlib
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tests.standin.exchange import REASONS, Exchange, HttpRequest
from tests.standin.faults import Cut, Fault
from tests.standin.service import Service

_READ_BYTES = 256 * 1024
# A server's http_max_uri_size and http_max_field_value_size.
_MOST_URI_BYTES = 1 << 20
_MOST_FIELD_BYTES = 128 << 10


class HttpConnection:
    """One connection; served by one thread."""

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._sock = sock
        self._service = service
        self._engine = service.engine
        self._file = sock.makefile("rb", buffering=_READ_BYTES)

    def serve(self) -> None:
        """Answer until the client goes away."""
        try:
            while (request := self._read_request()) is not None:
                if max(map(len, request.query.values()), default=0) > _MOST_FIELD_BYTES:
                    text = "Poco::Exception. Code: 1000, e.code() = 0,"
                    text += " HTML Form Exception: Field value too long\n"
                    self._send_whole(500, "text/plain; charset=UTF-8", text.encode())
                    continue
                self._answer(request)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except Cut as cut:
            if cut.reset:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except ValueError:
            # Not HTTP.
            with contextlib.suppress(OSError):
                self._sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: Close\r\n\r\n")
        except (OSError, EOFError):
            # The client went away.
            pass
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
                self._sock.close()

    def _read_request(self) -> HttpRequest | None:
        line = self._file.readline()
        if not line:
            return None
        method, target, _ = line.decode("latin-1").split()
        headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        host = headers.get("host", "")
        if host.count(":") > 1 and not host.startswith("["):
            raise ValueError("no host")
        if headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True, errors="surrogateescape"))
        body = self._read_body(headers)
        kind, _, boundary = headers.get("content-type", "").partition("; boundary=")
        if kind == "multipart/form-data":
            query |= _form_fields(body, boundary)
            body = b""
        if len(target) > _MOST_URI_BYTES:
            raise ValueError("URI Too Long")
        return HttpRequest(method=method, path=url.path, query=query, headers=headers, body=body)

    def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self._file.readline().split(b";")[0], 16):
                pieces.append(self._exactly(size))
                self._file.readline()
            self._file.readline()
            body = b"".join(pieces)
        else:
            body = self._exactly(int(headers.get("content-length", "0")))
        if headers.get("content-encoding", "").lower() in ("gzip", "deflate"):
            body = zlib.decompress(body, wbits=47)
        return body

    def _exactly(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        if len(data) < size:
            raise EOFError("The client went away in its body.")
        return data

    def _answer(self, request: HttpRequest) -> None:
        if request.path == "/_faults":
            self._answer_faults(request)
        elif request.path in ("/ping", "/replicas_status"):
            self._send_whole(200, "text/html; charset=UTF-8", b"Ok.\n")
        elif request.path != "/":
            text = f"There is no handle {request.path}\n"
            self._send_whole(404, "text/plain; charset=UTF-8", text.encode())
        elif request.method == "GET" and "query" not in request.query:
            self._send_whole(200, "text/html; charset=UTF-8", b"Ok.\n")
        else:
            Exchange(self._sock, self._service, request).run()

    def _answer_faults(self, request: HttpRequest) -> None:
        faults = self._service.faults
        if request.method == "DELETE":
            faults.clear()
        elif request.method == "POST":
            try:
                faults.add(msgspec.json.decode(request.body, type=Fault))
            except msgspec.DecodeError as error:
                self._send_whole(400, "text/plain", f"{error}\n".encode())
                return
        body = msgspec.json.encode([{**msgspec.structs.asdict(fault)} for fault in faults.listed()])
        self._send_whole(200, "application/json", body)

    def _send_whole(self, status: int, content_type: str, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: Keep-Alive\r\n\r\n"
        )
        self._sock.sendall(head.encode() + body)


def _form_fields(body: bytes, boundary: str) -> dict[str, str]:
    """The fields of a multipart form."""
    fields = {}
    for part in body.split(f"--{boundary}".encode())[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        fields[name] = value.removesuffix(b"\r\n").decode(errors="surrogateescape")
    return fields
