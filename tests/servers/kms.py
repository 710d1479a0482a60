"""What Amazon S3 shows of a bucket with SSE-KMS, in front of ``rclone serve s3``: no server that runs here does.

Input: a server that asks for no signature, since bodies are rewritten. Output: an endpoint whose ETags are no MD5s, of
objects and of parts, and whose HEAD names the encryption and the CRC-64/NVME that S3 itself computes (Amazon S3 API
reference: "Common response headers", HeadObject, GetBucketEncryption).
Invariant: an ETag depends on the true one alone, so that other bytes have another.
"""

import base64
import hashlib
import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from awscrt import checksums

from lading.testing.s3_server import Server

ETAG = re.compile(rb"(?<![0-9a-f])([0-9a-f]{32})(?![0-9a-f])")
CONFIGURATION = (
    b'<?xml version="1.0"?><ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>'
    b"<SSEAlgorithm>aws:kms</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>"
    b"</ServerSideEncryptionConfiguration>"
)
REFUSAL = b"<Error><Code>AccessDenied</Code></Error>"


@dataclass
class Keyed:
    """The running endpoint. ``announced``: the bucket tells its encryption; ``checksums``: HEAD has the CRC-64."""

    server: Server
    announced: bool = True
    checksums: bool = True
    endpoint: str = ""
    true: dict[bytes, bytes] = field(default_factory=dict)

    def make_bucket(self, name: str) -> None:
        self.server.make_bucket(name)

    def hide(self, text: bytes) -> bytes:
        """Return a text of the server with all ETags replaced by ones of the same length."""

        def replace(match: re.Match[bytes]) -> bytes:
            shown = hashlib.md5(b"kms" + match[1]).hexdigest().encode()
            self.true[shown] = match[1]
            return shown

        return ETAG.sub(replace, text)

    def reveal(self, text: bytes) -> bytes:
        """Return a client's text with the ETags that the server knows."""
        return ETAG.sub(lambda match: self.true.get(match[1], match[1]), text)

    def checksum(self, bucket: str, key: str) -> str:
        """Return the CRC-64/NVME of an object as S3 writes it."""
        content = Path(self.server.directory, bucket, key).read_bytes()
        return base64.b64encode(checksums.crc64nvme(content).to_bytes(8, "big")).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keyed: Keyed

    def exchange(self) -> None:
        """Take one request, ask the server, answer as S3 does."""
        path, _, query = self.path.partition("?")
        bucket, _, key = unquote(path.lstrip("/")).partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not key and query == "encryption":
            status, content = (200, CONFIGURATION) if self.keyed.announced else (403, REFUSAL)
            self.answer(status, {"Content-Type": "application/xml"}, content)
            return
        if self.command == "POST":
            body = self.keyed.reveal(body)
        connection = http.client.HTTPConnection(urlsplit(self.keyed.server.endpoint).netloc, timeout=60)
        dropped = ("content-length", "expect", "connection")
        sent = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection.request(self.command, self.path, body, sent)
        got = connection.getresponse()
        content = got.read()
        connection.close()
        dropped = ("transfer-encoding", "connection", "date")
        headers = {name: value for name, value in got.getheaders() if name.lower() not in dropped}
        for name in headers:
            if name.lower() == "etag":
                headers[name] = self.keyed.hide(headers[name].encode()).decode()
        if not key or self.command == "POST":  # a listing, or what became of an upload; not an object's bytes
            content = self.keyed.hide(content)
        if self.command == "HEAD" and key and got.status == 200:
            headers["x-amz-server-side-encryption"] = "aws:kms"
            if self.keyed.checksums and self.headers.get("x-amz-checksum-mode") == "ENABLED":
                headers["x-amz-checksum-crc64nvme"] = self.keyed.checksum(bucket, key)
                headers["x-amz-checksum-type"] = "FULL_OBJECT"
        self.answer(got.status, headers, content)

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        if self.command != "HEAD":
            headers = {**headers, "Content-Length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = exchange  # noqa: N815 - names that http.server asks for

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(server: Server) -> Iterator[Keyed]:
    """Run the endpoint for the block."""
    keyed = Keyed(server)
    handler = type("Handler", (_Handler,), {"keyed": keyed})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        keyed.endpoint = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield keyed
        finally:
            listener.shutdown()
            thread.join()
