"""A real HTTP server on loopback that records every request and answers by a function."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes


Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass
class Web:
    """``answer`` maps a request to (status, JSON body[, headers]); None closes the connection without a word."""

    answer: Callable[[Request], Reply | None]
    url: str = ""
    requests: list[Request] = field(default_factory=list)

    def of(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]


@contextmanager
def serve(answer: Callable[[Request], Reply | None]) -> Iterator[Web]:
    web = Web(answer)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(
                self.command, self.path, dict(self.headers.items()), json.loads(raw) if raw else None, raw
            )
            web.requests.append(request)
            reply = web.answer(request)
            if reply is None:
                self.close_connection = True
                return
            status, body, *more = reply
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _do  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
