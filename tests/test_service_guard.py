"""Who is let in: the guard alone, asked without a socket."""

import asyncio
from typing import Any

import pytest

from jobs.service.security import Access, Guard

TOKEN = "correct-horse-battery-staple"
UNIX = Access(unix=True)


async def _welcome(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(access: Access, method: str = "GET", client: tuple[str, int] | None = None, **headers: str) -> int:
    """The status that a request gets; ``_`` in a header's name stands for ``-``."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/jobs", "headers": named, "client": client, "server": None}
    asyncio.run(Guard(_welcome, access)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("name", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
def test_the_socket_file_is_reached_as_loopback(name: str) -> None:
    assert ask(UNIX, host=name) == 200
    assert ask(UNIX, "POST", host=name, origin=f"http://{name}") == 200


def test_a_page_whose_name_was_rebound_to_the_socket_is_refused() -> None:
    # Behind ssh -L 8080:portal.sock: the name resolves to 127.0.0.1, so Origin and Host agree.
    assert ask(UNIX, "POST", host="evil.example:8080", origin="http://evil.example:8080") == 403
    assert ask(UNIX, host="evil.example:8080") == 403
    assert ask(UNIX) == 403
    named = Access(unix=True, hosts=("Login1.example.org",))
    assert ask(named, host="login1.example.org:8080") == 200
    assert ask(named, host="evil.example:8080") == 403


@pytest.mark.parametrize("headers", [{"host": "["}, {"host": "localhost", "origin": "http://["}, {"host": "[x]:1"}])
def test_a_host_that_is_none_is_refused(headers: dict[str, str]) -> None:
    assert ask(UNIX, **headers) == 403
