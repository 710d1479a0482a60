"""A proxy on loopback that alters what a real S3 server answers.

Input: the server's port; a function of (method, path, headers, body) that
answers by itself, and one that alters an answer. Output: the proxy's URL.
"""

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, list[tuple[str, str]], bytes]
_HOPS = ("transfer-encoding", "connection", "content-length", "keep-alive")


@dataclass(frozen=True)
class Request:
    """One request of a client."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass
class Altered:
    """The running proxy; ``requests`` are those that came."""

    endpoint: str
    requests: list[Request]


def _keep(request: Request, answer: Answer) -> Answer:
    return answer


@contextmanager
def serve(
    server,  # type: ignore[no-untyped-def]
    *,
    instead: Callable[[Request], Answer | None] = lambda request: None,
    after: Callable[[Request, Answer], Answer] = _keep,
) -> Iterator[Altered]:
    """Pass requests on to ``server``; ``instead`` may answer first, ``after`` alters what the server says."""
    port = int(server.endpoint.rpartition(":")[2])
    found: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def _go(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            found.append(request)
            answer, length = instead(request), None
            if answer is None:
                answer, length = self._ask(body)
                answer = after(request, answer)
            status, fields, data = answer
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _ask(self, body: bytes) -> tuple[Answer, str | None]:
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    there.putheader(name, value)
            there.endheaders(body or None)
            answer = there.getresponse()
            data = answer.read()
            fields = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOPS]
            length = answer.getheader("Content-Length")
            there.close()
            return (answer.status, fields, data), length

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _go  # noqa: N815 - names of http.server

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *arguments: object) -> None:
            with suppress(Exception):  # a client that hung up
                pass

    listener = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield Altered(f"http://127.0.0.1:{listener.server_address[1]}", found)
    finally:
        listener.shutdown()
        listener.server_close()
