"""Hosts of git repositories on loopback, by the documented shapes of their APIs: GitHub, Forgejo, Gogs.

Input: which kind, and where the repositories are to be. Output: an API; its repositories are bare ones on disk.
Invariant: a token that is not ``TOKEN`` gets 401. ``fault`` is asked about each request and can answer in its place.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lading.mirror.git.commands import create_bare

TOKEN = "s3cret"
ORG = "lab"
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Asked:
    """One request, and when it came (``time.monotonic``)."""

    method: str
    path: str
    body: Any
    when: float


@dataclass
class GitHostServer:
    """One host; ``fault(host, asked)`` may return an answer instead of the host's own."""

    kind: str
    root: Path
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    topics: dict[str, list[str]] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    fault: "Callable[[GitHostServer, Asked], Answer | None] | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def api(self) -> str:
        return self.url if self.kind == "github" else f"{self.url}/api/v1"

    def made(self) -> int:
        """How many requests to make a repository there were."""
        return sum(1 for one in self.asked if one.method == "POST" and one.path.endswith("/repos"))

    def answer(self, asked: Asked, authorization: str) -> Answer:
        if authorization != ("Bearer " if self.kind == "github" else "token ") + TOKEN:
            return 401, {"message": "Bad credentials"}, {}
        instead = self.fault(self, asked) if self.fault else None
        if instead is not None:
            return instead
        path = asked.path if self.kind == "github" else asked.path.removeprefix("/api/v1")
        making = f"/org/{ORG}/repos" if self.kind == "gogs" else f"/orgs/{ORG}/repos"
        if (asked.method, path) == ("POST", making):
            return self._make(asked.body)
        parts = path.strip("/").split("/")
        if parts[:2] != ["repos", ORG] or parts[2] not in self.repositories:
            return 404, {"message": "Not Found"}, {}
        return self._of(parts[2], parts[3:], asked)

    def _make(self, body: dict[str, Any]) -> Answer:
        name = body["name"]
        if name in self.repositories:
            return (409 if self.kind == "forgejo" else 422), {"message": "name already exists"}, {}
        where = self.root / name
        create_bare(where, {})
        shown = {"name": name, "full_name": f"{ORG}/{name}", "private": body["private"], "archived": False}
        self.repositories[name] = {**shown, "ssh_url": str(where), "clone_url": f"{self.url}/{ORG}/{name}.git"}
        return 201, self.repositories[name], {}

    def _of(self, name: str, rest: list[str], asked: Asked) -> Answer:
        found = self.repositories[name]
        if not rest and asked.method == "GET":
            return 200, found, {}
        if self.kind == "gogs":
            return 404, None, {}  # it edits no repository
        homepage = "homepage" if self.kind == "github" else "website"
        if not rest and asked.method == "PATCH":
            unknown = set(asked.body) - {"description", homepage, "archived", "private"}
            if unknown:
                return 422, {"message": f"unknown: {unknown}"}, {}
            found.update(asked.body)
            return 200, found, {}
        if rest == ["topics"] and asked.method == "PUT":
            self.topics[name] = asked.body["names" if self.kind == "github" else "topics"]
            return (200, {"names": self.topics[name]}, {}) if self.kind == "github" else (204, None, {})
        if rest == ["releases"] and asked.method == "POST":
            self.releases.append(f"{name}@{asked.body['tag_name']}")
            return 201, {}, {}
        return 404, {"message": "Not Found"}, {}


class _GitHostHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: GitHostServer

    def log_message(self, *_: object) -> None: ...

    def _serve(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        asked = Asked(self.command, self.path, body, time.monotonic())
        with self.host.lock:
            self.host.asked.append(asked)
            status, value, headers = self.host.answer(asked, self.headers.get("Authorization", ""))
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_PUT = _serve  # noqa: N815 - names that http.server looks for


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that is killed breaks off."""


@contextmanager
def serve_host(kind: str, root: Path) -> Iterator[GitHostServer]:
    """Serve a host for the block."""
    host = GitHostServer(kind, root)
    handler = type("_Handler", (_GitHostHandler,), {"host": host})
    server = _QuietServer(("127.0.0.1", 0), handler)
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def limited(every: int, seconds: int) -> Callable[[GitHostServer, Asked], Answer | None]:
    """Return a fault: each ``every``-th request meets a limit, by turns one of GitHub's secondary ones and a 429."""

    def fault(host: GitHostServer, asked: Asked) -> Answer | None:
        del asked
        number = len(host.asked)
        if number % every:
            return None
        said = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        return (403 if number % (2 * every) else 429), {"message": said}, {"Retry-After": str(seconds)}

    return fault
