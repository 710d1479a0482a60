"""An S3 server in memory that lists and gives, and refuses every change.

Input: {key: (bytes, ETag)}. Output: an endpoint on loopback, and what was refused.
Invariant: an ETag is what it was told, whatever the bytes are by now: as of a disk that decayed below a server.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
WHEN = "2026-01-01T00:00:00.000Z"
WHEN_HEADER = "Thu, 01 Jan 2026 00:00:00 GMT"


class ReadOnlyServer(ThreadingHTTPServer):
    """The objects of one bucket, and how many requests asked for a change."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, objects: Mapping[str, tuple[bytes, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.keys = sorted(objects)
        self.refused = 0

    @property
    def endpoint(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ReadOnlyServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """List, or give an object."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        if key:
            self._give(key)
        elif "versioning" in query:
            self._answer(200, b"<VersioningConfiguration/>")
        else:
            self._list(query)

    def do_HEAD(self) -> None:
        """Answer as to GET, without the bytes."""
        self.do_GET()

    def do_PUT(self) -> None:
        """Refuse."""
        self.server.refused += 1
        self._answer(403, b"<Error><Code>AccessDenied</Code><Message>read-only</Message></Error>")

    def do_POST(self) -> None:
        """Refuse."""
        self.do_PUT()

    def do_DELETE(self) -> None:
        """Refuse."""
        self.do_PUT()

    def _list(self, query: Mapping[str, str]) -> None:
        keys, prefix = self.server.keys, query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        place = bisect_right(keys, max(after, prefix[:-1] + chr(ord(prefix[-1]) - 1) if prefix else ""))
        while place < len(keys) and (keys[place] < prefix or keys[place] <= after):
            place += 1
        found = [key for key in keys[place : place + PAGE + 1] if key.startswith(prefix)]
        more, found = len(found) > PAGE, found[:PAGE]
        encode = quote if query.get("encoding-type") == "url" else escape
        rows = "".join(
            f"<Contents><Key>{encode(key)}</Key><LastModified>{WHEN}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
            f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in found
            for body, etag in [self.server.objects[key]]
        )
        following = f"<NextContinuationToken>{escape(found[-1])}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if encode is quote else ""
        text = (
            f"<ListBucketResult><Name>b</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys>{encoding}<IsTruncated>{str(more).lower()}</IsTruncated>{following}{rows}"
            "</ListBucketResult>"
        )
        self._answer(200, text.encode())

    def _give(self, key: str) -> None:
        found = self.server.objects.get(key)
        if found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
            return
        body, etag = found
        headers = {"ETag": f'"{etag}"', "Last-Modified": WHEN_HEADER, "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes="):
            self._answer(200, body, headers)
            return
        first, _, last = asked[6:].partition("-")
        start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        self._answer(206, body[start : end + 1], headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(objects: Mapping[str, tuple[bytes, str]]) -> Iterator[ReadOnlyServer]:
    """Serve objects for the block."""
    with ReadOnlyServer(objects) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
