"""Server-sent events: the control plane pushes a cluster's changes, so that nobody polls.

Owns one connection of the event stream and its parser (pure). Must not reconnect or interpret: `_api.py` does. A plain
`fetch` cannot be cancelled without leaving its connection open, so this drives tornado's HTTP connection itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Iterator
from urllib.parse import urlsplit

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.tcpclient import TCPClient

from towline._profile import Profile
from towline._version import __version__

__all__ = ["Disconnected", "EventParser", "Refused", "stream"]

_CONNECT_SECONDS = 10.0
#: The server sends a comment every 15 s: three of them missing means that the connection is dead.
_SILENCE_SECONDS = 50.0
#: One event carries a whole cluster: about 2 KB for each host.
_MAX_EVENT = 64 * 1024 * 1024
_MAX_REFUSAL = 64 * 1024


class Disconnected(Exception):  # noqa: N818 - not an error of the person's: the reader connects again
    """The stream ended or never came."""


class Refused(Exception):  # noqa: N818 - carries the answer for the reader to judge
    """The server answered with something else than a stream."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body


class EventParser:
    r"""Bytes in, events out, as the HTML standard reads `text/event-stream`. Pure.

    Examples
    --------
    >>> list(EventParser().feed(b"event: cluster\ndata: {}\n\n"))
    [('cluster', b'{}')]
    """

    def __init__(self, limit: int = _MAX_EVENT) -> None:
        self._limit = limit
        self._rest = b""
        self._kind = "message"
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """Take bytes; give the events that they complete.

        Raises
        ------
        Disconnected
            When an event is larger than the limit.
        """
        held = len(self._rest) + len(chunk) + sum(map(len, self._data))
        if held > self._limit:
            raise Disconnected(f"an event is larger than {self._limit} bytes")
        # A lone CR as a line end is allowed by the standard and sent by nobody; LF and CRLF are read.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event

    def _line(self, line: bytes) -> tuple[str, bytes] | None:
        if not line:
            kind, data = self._kind, self._data
            self._kind, self._data = "message", []
            return (kind, b"\n".join(data)) if data else None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
        return None


class _Reader(HTTPMessageDelegate):
    """Turns what tornado reads into a bounded queue of chunks; None marks the end."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue(16)

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if isinstance(start_line, ResponseStartLine) and not self.status.done():
            self.status.set_result(start_line.code)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        # An awaitable answer holds back the reading: a slow consumer fills the socket, not memory.
        return self.chunks.put(chunk)


async def stream(profile: Profile, tls: ssl.SSLContext, path: str) -> AsyncGenerator[bytes, None]:
    """The data of each `cluster` event on one connection, until it ends.

    Raises
    ------
    Disconnected
        When it cannot be made, is cut, or stays silent for too long.
    Refused
        When the server answers with another status than 200.
    """
    parts = urlsplit(profile.url)
    try:
        connection = await TCPClient().connect(
            parts.hostname or "", parts.port or 443, ssl_options=tls, timeout=_CONNECT_SECONDS
        )
    except ssl.SSLCertVerificationError as error:
        raise Disconnected(f"untrusted certificate: {error}") from error
    except (OSError, StreamClosedError, asyncio.TimeoutError) as error:
        raise Disconnected(str(error)) from error
    http = HTTP1Connection(connection, True, HTTP1ConnectionParameters(no_keep_alive=True, max_body_size=1 << 62))
    reader = _Reader()
    reading: asyncio.Task[object] | None = None
    try:
        headers = HTTPHeaders(
            {
                "Host": parts.netloc,
                "Authorization": f"Bearer {profile.token}",
                "Accept": "text/event-stream",
                "User-Agent": f"towline-python/{__version__}",
                "Connection": "close",
            }
        )
        await http.write_headers(RequestStartLine("GET", parts.path + path, "HTTP/1.1"), headers)
        http.finish()
        reading = asyncio.ensure_future(_read(http, reader))
        async with contextlib.aclosing(_events(reader)) as events:
            async for data in events:
                yield data
    except StreamClosedError as error:
        raise Disconnected(str(error)) from error
    finally:
        connection.close()
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _read(http: HTTP1Connection, reader: _Reader) -> None:
    with contextlib.suppress(StreamClosedError):
        await http.read_response(reader)
    if not reader.status.done():
        reader.status.set_exception(Disconnected("the connection closed before an answer"))
    await reader.chunks.put(None)


async def _events(reader: _Reader) -> AsyncGenerator[bytes, None]:
    try:
        status = await asyncio.wait_for(reader.status, _SILENCE_SECONDS)
    except (asyncio.TimeoutError, TimeoutError):
        raise Disconnected("no answer in time") from None
    if status != 200:
        raise Refused(status, await _body(reader))
    parser = EventParser()
    while True:
        chunk = await _chunk(reader)
        if chunk is None:
            return
        for kind, data in parser.feed(chunk):
            if kind == "cluster":
                yield data


async def _body(reader: _Reader) -> bytes:
    body = b""
    while len(body) < _MAX_REFUSAL:
        chunk = await _chunk(reader)
        if chunk is None:
            break
        body += chunk
    return body


async def _chunk(reader: _Reader) -> bytes | None:
    try:
        return await asyncio.wait_for(reader.chunks.get(), _SILENCE_SECONDS)
    except (asyncio.TimeoutError, TimeoutError):
        raise Disconnected(f"silent for {_SILENCE_SECONDS:.0f} s") from None
