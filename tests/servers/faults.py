"""A faulty network and a lying server: a proxy on loopback in front of a real S3 server.

Input: a server and a function that picks a fault for each request. Output: an
endpoint that behaves so; every request is recorded.
Invariant: what is not picked goes through untouched, bytes as they are: the
client's signature covers the proxy's own host name, which the server checks.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import boto3

MESSAGES = {
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "SlowDown": (503, "Please reduce your request rate."),
    "ExpiredToken": (403, "The provided token has expired."),
    "AccessDenied": (403, "Access Denied"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
}


@dataclass(frozen=True)
class Reset:
    """Cut the connection with RST after ``after`` bytes of the body."""

    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """Answer with an S3 error of ``MESSAGES``; the server never sees the request."""

    code: str


@dataclass(frozen=True)
class Truncate:
    """Let the server do it, and give back half of its answer."""


@dataclass(frozen=True)
class Stall:
    """Silence for ``seconds``, then go on."""

    seconds: float


@dataclass(frozen=True)
class Corrupt:
    """Let the server store it, overwrite the object with other bytes, and give back the good answer."""


@dataclass(frozen=True)
class Lie:
    """Say 200 and store nothing."""


@dataclass(frozen=True)
class Page:
    """Answer with a web page, as a captive portal does."""


@dataclass(frozen=True)
class Bare:
    """Say 200, in the form of the request's kind, without any field; the server never sees the request."""


@dataclass(frozen=True)
class Nonsense:
    """Say 200, in the form of the request's kind, with words that cannot be meant."""


@dataclass(frozen=True)
class Silent:
    """Take the request and never answer."""


@dataclass(frozen=True)
class Say:
    """Answer 200 with this XML."""

    body: str


Fault = Say | Reset | Refuse | Truncate | Stall | Corrupt | Lie | Page | Bare | Nonsense | Silent


@dataclass(frozen=True)
class Request:
    """One request: ``number`` counts all from 1, ``put`` the bodies (objects and parts) from 1, else 0."""

    method: str
    bucket: str
    key: str
    query: str
    number: int
    put: int


# What tells the kinds of requests apart: the method, whether there is a key, and a word of the query.
KINDS = {
    ("POST", True, "uploads"): "CreateMultipartUpload",
    ("PUT", True, "partNumber"): "UploadPart",
    ("POST", True, "uploadId"): "CompleteMultipartUpload",
    ("DELETE", True, "uploadId"): "AbortMultipartUpload",
    ("GET", True, "uploadId"): "ListParts",
    ("GET", False, "uploads"): "ListMultipartUploads",
    ("GET", False, "versioning"): "GetBucketVersioning",
    ("GET", False, "encryption"): "GetBucketEncryption",
    ("GET", False, "versions"): "ListObjectVersions",
    ("GET", False, ""): "ListObjectsV2",
    ("PUT", True, ""): "PutObject",
    ("HEAD", True, ""): "HeadObject",
    ("GET", True, ""): "GetObject",
    ("DELETE", True, ""): "DeleteObject",
}


def kind(request: Request) -> str:
    """Return the name of a request's operation."""
    words = {word.partition("=")[0] for word in request.query.split("&")}
    for (method, has_key, word), name in KINDS.items():
        if method == request.method and has_key == bool(request.key) and (not word or word in words):
            return name
    return "?"


_FORMS = {
    "CreateMultipartUpload": "<InitiateMultipartUploadResult>{0}</InitiateMultipartUploadResult>",
    "CompleteMultipartUpload": "<CompleteMultipartUploadResult>{0}</CompleteMultipartUploadResult>",
    "ListParts": "<ListPartsResult><Part>{0}</Part></ListPartsResult>",
    "ListMultipartUploads": "<ListMultipartUploadsResult><Upload>{0}</Upload></ListMultipartUploadsResult>",
    "GetBucketVersioning": "<VersioningConfiguration>{0}</VersioningConfiguration>",
    "GetBucketEncryption": "<ServerSideEncryptionConfiguration>{0}</ServerSideEncryptionConfiguration>",
    "ListObjectVersions": "<ListVersionsResult><Name>b</Name><Version><IsLatest>true</IsLatest>{0}</Version>"
    "</ListVersionsResult>",
    "ListObjectsV2": "<ListBucketResult><Name>b</Name><KeyCount>1</KeyCount><Contents>{0}</Contents>"
    "</ListBucketResult>",
}
_NONSENSE = (
    "<UploadId>two words &amp; more</UploadId><ETag>&lt;html&gt;</ETag><Size>many</Size><Key/>"
    "<LastModified>yesterday</LastModified><Initiated>soon</Initiated><PartNumber>first</PartNumber>"
    "<Status>perhaps</Status><Rule>x</Rule>"
)


def _empty_answer(fault: "Bare | Nonsense", name: str) -> bytes:
    """Return 200 as a server says it that lost its mind, or half of it."""
    bare = isinstance(fault, Bare)
    body = _FORMS[name].format("" if bare else _NONSENSE).encode() if name in _FORMS else b""
    etag = "" if bare else "ETag: <html> & more\r\n"
    length = f"Content-Length: {len(body)}\r\n" if bare or name != "HeadObject" else "Content-Length: some\r\n"
    return f"HTTP/1.1 200 OK\r\n{etag}Content-Type: application/xml\r\n{length}\r\n".encode() + body


@dataclass
class Proxy:
    """A running proxy; ``requests`` grows, ``faults`` holds (request, fault) as they were dealt.

    ``down`` is called with True to refuse connections from now on, those that are open included, and with False to
    take them again, at the same address.
    """

    endpoint: str
    directory: object
    make_bucket: Callable[[str], None]
    down: Callable[[bool], None] = lambda down: None
    requests: list[Request] = field(default_factory=list)
    faults: list[tuple[Request, Fault]] = field(default_factory=list)


class _Broken(Exception):
    """The connection must end."""


class _Service:
    def __init__(self, server, pick: Callable[[Request], Fault | None]) -> None:  # type: ignore[no-untyped-def]
        self.server = server
        self.pick = pick
        self.upstream = urlsplit(server.endpoint)
        self.proxy: Proxy | None = None
        self.number = self.put = 0
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        own = asyncio.current_task()
        assert own is not None
        self.serving.add(own)
        own.add_done_callback(self.serving.discard)
        try:
            up = await asyncio.open_connection(self.upstream.hostname, self.upstream.port, limit=1 << 20)
            while await self.exchange(reader, writer, *up):
                pass
        except (_Broken, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side left, or the proxy ends: so does the other
        finally:
            for stream in (writer, *(up[1:] if up else ())):
                stream.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await stream.wait_closed()

    async def exchange(self, reader, writer, up_reader, up_writer) -> bool:  # type: ignore[no-untyped-def]
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, _ = head.partition(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers = _headers(head)
        path, _, query = target.partition("?")
        bucket, _, key = unquote(path.lstrip("/"), errors="replace").partition("/")
        self.number += 1
        carries = method == "PUT" and key != ""
        self.put += carries
        request = Request(method, bucket, key, query, self.number, self.put if carries else 0)
        assert self.proxy is not None
        self.proxy.requests.append(request)
        fault = self.pick(request)
        if fault:
            self.proxy.faults.append((request, fault))
        length = int(headers.get("content-length", "0"))
        if isinstance(fault, Stall):
            await asyncio.sleep(fault.seconds)
        if isinstance(fault, Reset):
            await reader.readexactly(min(fault.after, length))
            # Linger 0 turns the close into a RST.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            raise _Broken
        if isinstance(fault, Silent):
            await asyncio.sleep(3600)
        if isinstance(fault, Refuse | Lie | Page | Bare | Nonsense | Say):
            if headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await _discard(reader, length)
            unfit = isinstance(fault, Bare | Nonsense)
            writer.write(_empty_answer(fault, kind(request)) if unfit else _own_answer(fault, method))
            await writer.drain()
            return True
        body = await self.forward(
            reader, writer, up_reader, up_writer, head, headers, length, isinstance(fault, Corrupt)
        )
        answer_head = await up_reader.readuntil(b"\r\n\r\n")
        while answer_head.startswith(b"HTTP/1.1 100"):
            answer_head = await up_reader.readuntil(b"\r\n\r\n")
        if isinstance(fault, Corrupt) and b" 200 " in answer_head.split(b"\r\n", 1)[0]:
            await asyncio.get_running_loop().run_in_executor(None, self.overwrite, request, body)
        answer = answer_head + await _answer_body(up_reader, answer_head, method)
        if isinstance(fault, Truncate):
            writer.write(answer[: max(1, len(answer) // 2)])
            await writer.drain()
            raise _Broken
        writer.write(answer)
        await writer.drain()
        return b"connection: close" not in answer_head.lower()

    async def forward(  # type: ignore[no-untyped-def]
        self, reader, writer, up_reader, up_writer, head, headers, length: int, keep: bool
    ) -> bytes:
        """Send a request on; returns its body when it is to be kept."""
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        up_writer.write(head)
        kept = b""
        while length:
            block = await reader.read(min(length, 1 << 18))
            if not block:
                raise _Broken
            length -= len(block)
            if keep:
                kept += block
            up_writer.write(block)
            await up_writer.drain()
        return kept

    def overwrite(self, request: Request, body: bytes) -> None:
        """Store bytes that differ in one bit, as a bad disk or memory would."""
        if "uploadId" in request.query or not body:
            return
        damaged = bytes([body[0] ^ 1]) + body[1:]
        keys = self.server.environment()
        boto3.session.Session(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1").client(
            "s3", endpoint_url=self.server.endpoint
        ).put_object(Bucket=request.bucket, Key=request.key, Body=damaged)


def _headers(head: bytes) -> dict[str, str]:
    pairs = (line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _discard(reader: asyncio.StreamReader, length: int) -> None:
    while length:
        block = await reader.read(min(length, 1 << 18))
        if not block:
            raise _Broken
        length -= len(block)


async def _answer_body(reader: asyncio.StreamReader, head: bytes, method: str) -> bytes:
    headers = _headers(head)
    status = head.split(b" ", 2)[1]
    if method == "HEAD" or status in (b"204", b"304"):
        return b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while True:
            line = await reader.readline()
            size = int(line.split(b";")[0], 16)
            body += line + await reader.readexactly(size + 2)
            if not size:
                return body
    return await reader.readexactly(int(headers.get("content-length", "0")))


def _own_answer(fault: Refuse | Lie | Page | Say, method: str) -> bytes:
    if isinstance(fault, Lie):
        return b'HTTP/1.1 200 OK\r\nETag: "00000000000000000000000000000000"\r\nContent-Length: 0\r\n\r\n'
    if isinstance(fault, Page):
        status, kind, body = "200 OK", "text/html", b"<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>"
    elif isinstance(fault, Say):
        status, kind, body = "200 OK", "application/xml", fault.body.encode()
    else:
        number, message = MESSAGES[fault.code]
        status, kind = f"{number} {fault.code}", "application/xml"
        body = f'<?xml version="1.0"?><Error><Code>{fault.code}</Code><Message>{message}</Message></Error>'.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


@contextmanager
def serve(server, pick: Callable[[Request], Fault | None]) -> Iterator[Proxy]:  # type: ignore[no-untyped-def]
    """Run a proxy in front of ``server`` for the block; ``pick`` runs in the proxy's thread."""
    service = _Service(server, pick)
    loop = asyncio.new_event_loop()
    listener = loop.run_until_complete(asyncio.start_server(service.serve, "127.0.0.1", 0, limit=1 << 20))
    port = listener.sockets[0].getsockname()[1]
    service.proxy = Proxy(f"http://127.0.0.1:{port}", server.directory, server.make_bucket)

    async def turn(down: bool) -> None:
        nonlocal listener
        if down:
            listener.close()
            for task in list(service.serving):
                task.cancel()
        else:
            listener = await asyncio.start_server(service.serve, "127.0.0.1", port, limit=1 << 20)

    service.proxy.down = lambda down: asyncio.run_coroutine_threadsafe(turn(down), loop).result(10)

    async def end() -> None:
        listener.close()
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await loop.shutdown_default_executor()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(end())
        loop.close()

    thread = threading.Thread(target=run, name="faults")
    thread.start()
    try:
        yield service.proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
