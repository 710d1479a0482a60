"""A bucket on paper: a server on loopback that lists keys which nobody stored.

Input: how many keys, 1,000 to a directory, each of one size and one ETag.
Output: an endpoint that answers ListObjectsV2 page by page.
Invariant: a page is made from the number of its first key, so the server
holds nothing and costs little; any request but a listing is refused.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PER_DIRECTORY = 1000
SIZE = 12_345
ETAG = "0123456789abcdef" * 2
MOMENT = "2026-01-01T00:00:00Z"
PAGE = 1000


def path_of(number: int) -> str:
    """Return the path of a file: in the order of numbers, which is that of names."""
    return f"d{number - number % PER_DIRECTORY:010d}/f{number:010d}.dat"


class PaperBucket:
    """Serves ``count`` keys below ``prefix`` for the block; ``requests`` counts what was asked."""

    def __init__(self, count: int, prefix: str) -> None:
        self.requests = 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                bucket.requests += 1
                asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                if "list-type" in asked:
                    self._answer(200, _page(asked, count, prefix))
                else:
                    self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

            def do_HEAD(self) -> None:
                self._answer(404, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "PaperBucket":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _first(mark: str, prefix: str) -> int:
    """Return the number of the first key after ``mark``."""
    name = mark.removeprefix(prefix).rpartition("/f")[2].removesuffix(".dat")
    return int(name) + 1 if name.isdigit() else 0


def _page(asked: dict[str, str], count: int, prefix: str) -> bytes:
    mark = asked.get("continuation-token") or asked.get("start-after") or ""
    wanted = asked.get("prefix", "")
    first = _first(mark, prefix)
    last = min(first + min(PAGE, int(asked.get("max-keys", PAGE))), count)
    names = [f"{prefix}{path_of(number)}" for number in range(first, last)]
    if not (prefix.startswith(wanted) or wanted.startswith(prefix)):
        names, last = [], count
    whole = len(wanted) <= len(prefix)
    names = names if whole else [name for name in names if name.startswith(wanted)]
    found = "".join(
        f"<Contents><Key>{name}</Key><LastModified>{MOMENT}</LastModified><ETag>&quot;{ETAG}&quot;</ETag>"
        f"<Size>{SIZE}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for name in names
    )
    more = last < count and (whole or bool(names))
    token = f"<NextContinuationToken>{prefix}{path_of(last - 1)}</NextContinuationToken>" if more else ""
    return (
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>{wanted}</Prefix>'
        f"<KeyCount>{len(names)}</KeyCount><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"{token}{found}</ListBucketResult>"
    ).encode()
