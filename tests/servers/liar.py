"""An S3 server in this process whose objects a test can look into, damage and lie about.

Input: nothing. Output: an endpoint, and ``objects``: what is really stored under each key, beside what is shown of it.
Invariant: a clock of its own ticks one second with each object that is put, so that no two of one key share a time.
"""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import gmtime, strftime
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from awscrt import checksums

MISSING = {"versioning": b"<VersioningConfiguration/>", "uploads": b"<ListMultipartUploadsResult/>"}


@dataclass
class Stored:
    """What is stored under a key, and what is shown: the MD5 and CRC of what was received, and when."""

    content: bytes
    etag: str
    crc: str
    second: int

    def flip(self) -> None:
        """Damage a bit; nothing that is shown changes."""
        self.content = self.content[:-1] + bytes([self.content[-1] ^ 1]) if self.content else b""


@dataclass(frozen=True)
class Asked:
    """One request: its headers by names in lower case, ``host`` without the port."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def host(self) -> str:
        return self.headers.get("host", "").partition(":")[0]

    @property
    def region(self) -> str | None:
        """For which it was signed; None when it was not."""
        scope = self.headers.get("authorization", "").partition("Credential=")[2].split("/")
        return scope[2] if len(scope) > 2 else None


@dataclass
class Liar:
    """A running server. Objects under the keys in ``damages`` are damaged as they come in; HEAD names CRCs if asked.

    ``asked`` grows; ``instead`` may answer by (status, body, headers). A host that begins with ``bucket.`` holds the
    bucket's name, and the path is then the key.
    """

    endpoint: str = ""
    objects: dict[str, Stored] = field(default_factory=dict)
    damages: set[str] = field(default_factory=set)
    shows_crc: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    second: int = 1_700_000_000
    asked: list[Asked] = field(default_factory=list)
    instead: Callable[[Asked], tuple[int, str, dict[str, str]] | None] = lambda asked: None

    def put(self, key: str, content: bytes) -> Stored:
        """Store an object, as any client would."""
        with self.lock:
            self.second += 1
            crc = base64.b64encode(checksums.crc64nvme(content).to_bytes(8, "big")).decode()
            stored = Stored(content, hashlib.md5(content, usedforsecurity=False).hexdigest(), crc, self.second)
            if key in self.damages:
                stored.flip()
            self.objects[key] = stored
            return stored

    def listing(self, prefix: str, after: str) -> bytes:
        """Return ListObjectsV2's answer; one page holds all."""
        with self.lock:
            held = sorted((k, o) for k, o in self.objects.items() if k.startswith(prefix) and k > after)
        rows = "".join(
            f"<Contents><Key>{escape(quote(key))}</Key><LastModified>{moment(o.second)}</LastModified>"
            f'<ETag>"{o.etag}"</ETag><Size>{len(o.content)}</Size></Contents>'
            for key, o in held
        )
        head = f"<Name>bucket</Name><KeyCount>{len(held)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}<EncodingType>url</EncodingType>{rows}</ListBucketResult>".encode()


def moment(second: int) -> str:
    """Return a time as listings show it."""
    return strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(second))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    liar: Liar

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    @property
    def key(self) -> str:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        return path if self.headers.get("Host", "").startswith("bucket.") else path.partition("/")[2]

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        asked = Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.liar.asked.append(asked)
        answer = self.liar.instead(asked)
        if answer is None:
            return True
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(answer[0], answer[1].encode(), **answer[2])
        return False

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, ETag=f'"{self.liar.put(self.key, content).etag}"')

    def do_DELETE(self) -> None:
        with self.liar.lock:
            self.liar.objects.pop(self.key, None)
        self.answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if not self.key:
            if "list-type" in query:
                prefix, after = (query.get(name, [""])[0] for name in ("prefix", "start-after"))
                return self.answer(200, self.liar.listing(prefix, after))
            known = next((body for name, body in MISSING.items() if name in query), None)
            return self.answer(200, known) if known else self.refuse(404, "NoSuchConfiguration")
        stored = self.liar.objects.get(self.key)
        if stored is None:
            return self.refuse(404, "NoSuchKey")
        shown = {"ETag": f'"{stored.etag}"', "Last_Modified": formatdate(stored.second, usegmt=True)}
        if self.liar.shows_crc:
            shown |= {"x_amz_checksum_crc64nvme": stored.crc, "x_amz_checksum_type": "FULL_OBJECT"}
        if self.command == "HEAD":
            return self.answer(200, Content_Length=str(len(stored.content)), **shown)
        return self.answer(200, stored.content, **shown)


@contextmanager
def serve() -> Iterator[Liar]:
    """Run a server on loopback for the block; it asks for no signature."""
    liar = Liar()
    handler = type("Handler", (_Handler,), {"liar": liar})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    liar.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
