"""HTTP/1.1 at the byte level: read a request from a stream, write a reply's head."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from urllib.parse import parse_qsl, unquote

HEAD_BYTES = 64 * 1024
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Site is overloaded"}


class HttpError(Exception):
    """The request cannot be read; the connection is closed after the reply."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `target` is the path without its query."""

    method: str
    target: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    version: str = "HTTP/1.1"

    @property
    def keeps_alive(self) -> bool:
        wish = self.headers.get("connection", "").lower()
        return wish != "close" if self.version == "HTTP/1.1" else wish == "keep-alive"


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body_bytes: int
) -> Request | None:
    """The next request, or None when the client has gone.

    Raises:
        HttpError: what came is no request, or is too large.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise HttpError(431, "the head is too large") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    request = _parse_head(head)
    if request.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        body = await _read_body(reader, request.headers, body_bytes)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        return None
    return Request(
        request.method, request.target, request.query, request.headers, body, request.version
    )


def _parse_head(head: bytes) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise HttpError(400, "this is not HTTP/1.1")
    headers = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError(400, "a header line is malformed")
        headers[name.lower()] = value.strip()
    target, _, query = parts[1].partition("?")
    if target.startswith("http://"):  # as proxies are asked
        target = "/" + target.partition("//")[2].partition("/")[2]
    return Request(parts[0], unquote(target), dict(parse_qsl(query)), headers, b"", parts[2])


async def _read_body(
    reader: asyncio.StreamReader, headers: Mapping[str, str], body_bytes: int
) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader, body_bytes)
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise HttpError(400, "Content-Length is not a number")
    if int(length) > body_bytes:
        raise HttpError(413, "the body is too large")
    return await reader.readexactly(int(length)) if length != "0" else b""


async def _read_chunks(reader: asyncio.StreamReader, body_bytes: int) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise HttpError(400, "a chunk's size is not a number") from None
        total += size
        if total > body_bytes:
            raise HttpError(413, "the body is too large")
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return b"".join(chunks)
        chunks.append(chunk[:-2])


def head_bytes(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """A reply's head, the empty line included."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    phrase = PHRASES.get(status, "Unknown")
    return f"HTTP/1.1 {status} {phrase}\r\ndate: {_date(int(time()))}\r\n{lines}\r\n".encode(
        "latin-1", "replace"
    )


def chunk(data: bytes) -> bytes:
    """A piece of a body in chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


@lru_cache(maxsize=4)
def _date(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)
