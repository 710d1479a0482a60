"""Google's emulator on loopback: gcp-storage-emulator, and a front for what it lacks.

Output: a running server. obstore speaks the XML interface, and the emulator little but JSON: the front translates. It
holds the parts of a multipart upload, and gives them to the emulator as one object when they are completed.
"""

import contextlib
import hashlib
import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from lading.testing.s3_server import free_port

PAGE = 50  # so that listings have several


@dataclass
class Google:
    """The running emulator; ``sent`` counts the bytes of bodies that clients sent."""

    endpoint: str
    backend: str
    sent: int = 0

    def make_bucket(self, name: str) -> None:
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(
            urllib.request.Request(f"{self.backend}/storage/v1/b?project=x", data=body, headers=headers)
        )


@contextmanager
def serve() -> Iterator[Google]:
    """Run both for the block."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(
        [*command, "--in-memory"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    google = Google("", f"http://127.0.0.1:{port}")
    server = _front(google, port)
    google.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{google.backend}/storage/v1/b?project=x").close()
                break
            time.sleep(0.1)
        yield google
    finally:
        server.shutdown()
        server.server_close()
        process.terminate()
        process.wait(30)


def _object(place: str) -> str:
    """Return the address of an object in the JSON interface."""
    bucket, _, name = place.partition("/")
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


def _front(google: Google, port: int) -> ThreadingHTTPServer:
    uploads: dict[str, dict[int, bytes]] = {}
    headers_of: dict[str, dict[str, str]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def _store(self, place: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
            """Give the emulator an object, and what it is stored with; returns what the emulator says of it."""
            bucket, _, name = place.partition("/")
            kind = headers.get("content-type") or "application/octet-stream"
            meta = {k.removeprefix("x-goog-meta-"): v for k, v in headers.items() if k.startswith("x-goog-meta-")}
            about = {"name": name, "contentType": kind, "metadata": meta, "cacheControl": headers.get("cache-control")}
            mark = uuid.uuid4().hex
            head = f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps(about)}\r\n--{mark}\r\n"
            whole = f"{head}Content-Type: {kind}\r\n\r\n".encode() + body + f"\r\n--{mark}--\r\n".encode()
            address = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
            self._ask("POST", address, whole, {"Content-Type": f"multipart/related; boundary={mark}"})
            return dict(json.loads(self._ask("GET", _object(place))[1]))

        def _ask(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request(method, path, body=body, headers=headers or {})
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        def _give(self, place: str) -> None:
            """Answer GET and HEAD of an object."""
            status, text = self._ask("GET", _object(place))
            if status != 200:
                self._say(404, "<Error><Code>NoSuchKey</Code></Error>")
                return
            about = json.loads(text)
            body = self._ask("GET", _object(place) + "?alt=media")[1] if int(about["size"]) else b""
            start, whole = 0, len(body)
            if asked := self.headers.get("Range"):
                start = int(asked.removeprefix("bytes=").split("-")[0])
                if start >= whole:
                    self._say(416, "<Error><Code>InvalidRange</Code></Error>")
                    return
            moment = datetime.fromisoformat(about["updated"].replace("Z", "+00:00"))
            self.send_response(206 if asked else 200)
            self.send_header("ETag", f'"{about["etag"]}"')
            self.send_header("Last-Modified", format_datetime(moment.astimezone(UTC), usegmt=True))
            self.send_header("Content-Type", about.get("contentType") or "application/octet-stream")
            for name, value in (about.get("metadata") or {}).items():
                self.send_header(f"x-goog-meta-{name}", value)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            self.send_header("Content-Length", str(whole - start))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[start:])

        def _say(self, status: int, text: str = "", **headers: str) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _go(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            google.sent += len(body)
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True)
            kept = {name.lower(): value for name, value in self.headers.items()}
            place = unquote(parts.path).lstrip("/")
            upload = query.get("uploadId", [""])[0]
            if self.command == "POST" and "uploads" in query:
                upload = uuid.uuid4().hex
                uploads[upload], headers_of[upload] = {}, kept
                self._say(
                    200,
                    "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>"
                    f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>",
                )
            elif self.command == "GET" and "list-type" in query:
                self._list(place.strip("/"), query)
            elif upload and upload not in uploads:
                self._say(404, "<Error><Code>NoSuchUpload</Code></Error>")
            elif upload and self.command == "PUT":
                uploads[upload][int(query["partNumber"][0])] = body
                self._say(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
            elif upload and self.command == "DELETE":
                del uploads[upload]
                self._say(204)
            elif upload:
                held = uploads.pop(upload)
                about = self._store(place, b"".join(held[number] for number in sorted(held)), headers_of[upload])
                etag = about["etag"]
                self._say(
                    200,
                    f"<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>{escape(etag)}</ETag>"
                    "</CompleteMultipartUploadResult>",
                    ETag=f'"{etag}"',
                )
            elif self.command == "PUT":
                self._say(200, ETag=f'"{self._store(place, body, kept)["etag"]}"')
            elif self.command == "DELETE":
                self._ask("DELETE", _object(place))
                self._say(204)
            else:
                self._give(place)

        def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
            address = f"{google.backend}/storage/v1/b/{bucket}/o?prefix={quote(query.get('prefix', [''])[0])}"
            with urllib.request.urlopen(address) as answer:
                items = json.load(answer).get("items", [])
            after = query.get("continuation-token", query.get("start-after", [""]))[0]
            found = sorted((one for one in items if one["name"] > after), key=lambda one: one["name"].encode())
            more = len(found) > PAGE
            rows = "".join(
                f"<Contents><Key>{escape(one['name'])}</Key><LastModified>{one['updated']}</LastModified>"
                f"<ETag>{escape(one['etag'])}</ETag><Size>{one['size']}</Size></Contents>"
                for one in found[:PAGE]
            )
            token = f"<NextContinuationToken>{escape(found[PAGE - 1]['name'])}</NextContinuationToken>" if more else ""
            self._say(200, f"<ListBucketResult>{token}{rows}</ListBucketResult>")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _go  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server
