"""Who is let in: the guard alone, asked without a portal."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from lading.portal.peers import find_user
from lading.portal.security import Guard, PortalAccess

TOKEN = "correct-horse-battery-staple"
UNIX = PortalAccess(unix=True)


async def _welcome(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(access: PortalAccess, method: str = "GET", ends: Any = (None, None), **headers: str) -> int:
    """The status that a request gets; ``ends`` are client and server, ``_`` in a header's name stands for ``-``."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/jobs", "headers": named}
    scope |= {"client": ends[0], "server": ends[1]}
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
    named = PortalAccess(unix=True, hosts=("Login1.example.org",))
    assert ask(named, host="login1.example.org:8080") == 200
    assert ask(named, host="evil.example:8080") == 403


@pytest.mark.parametrize("headers", [{"host": "["}, {"host": "localhost", "origin": "http://["}, {"host": "[x]:1"}])
def test_a_host_that_is_none_is_refused(headers: dict[str, str]) -> None:
    assert ask(UNIX, **headers) == 403


@pytest.mark.parametrize(
    "name", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"]
)
def test_what_a_proxy_hands_on_needs_the_token(name: str) -> None:
    handed = {name.lower().replace("-", "_"): "203.0.113.9"}
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with connected("127.0.0.1", "127.0.0.1") as (_, (ends,)):
        for unix in (False, True):
            assert ask(PortalAccess(unix=unix), ends=ends, host="localhost", **handed) == 401
            open_to_others = PortalAccess(TOKEN, unix=unix)
            assert ask(open_to_others, ends=ends, host="localhost", **handed) == 401
            assert ask(open_to_others, ends=ends, host="localhost", **handed, **bearer) == 200
            assert ask(open_to_others, ends=ends, host="localhost") == 200


@pytest.mark.parametrize("unix", [False, True])
def test_a_portal_with_a_name_and_a_token_takes_no_one_for_the_owner(unix: bool) -> None:
    access = PortalAccess(TOKEN, ("portal.example.org",), unix)
    with connected("127.0.0.1", "127.0.0.1") as (_, (ends,)):
        for host in ("portal.example.org", "localhost"):
            # As from a proxy that adds no header.
            assert ask(access, ends=ends, host=host) == 401
            assert ask(access, ends=ends, host=host, authorization=f"Bearer {TOKEN}") == 200
        assert ask(PortalAccess(None, ("portal.example.org",), unix), ends=ends, host="portal.example.org") == 200


@contextmanager
def connected(listen: str, *addresses: str) -> Iterator[tuple[socket.socket, list[Any]]]:
    """Connections to a listener on ``listen``, one to each address, and for each the ends that the server sees."""
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        server = stack.enter_context(socket.socket(family))
        try:
            server.bind((listen, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {listen}: {error}")
        server.listen()
        ends = []
        for address in addresses:
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            client = stack.enter_context(socket.socket(kind))
            client.connect((address, server.getsockname()[1]))
            accepted = stack.enter_context(server.accept()[0])
            ends.append((accepted.getpeername()[:2], accepted.getsockname()[:2]))
        yield server, ends


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.2"), ("::1", "::1"), ("::", "127.0.0.1"), ("::", "::1"),
     ("127.0.0.1", "::ffff:127.0.0.1"), ("::", "::ffff:127.0.0.1")],
)  # fmt: skip
def test_the_owner_is_known_by_any_address_of_loopback(listen: str, address: str) -> None:
    with connected(listen, address) as (_, (ends,)):
        assert ask(PortalAccess(), ends=ends, host="localhost") == 200
        (host, port), server = ends
        assert ask(PortalAccess(), ends=((host, port ^ 1), server), host="localhost") == 401
        assert ask(PortalAccess(), ends=((host, port), (server[0], server[1] ^ 1)), host="localhost") == 401


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_the_port_of_the_owner_at_another_address_makes_no_owner() -> None:
    # The kernel's table has no order that counts: of sixteen, some strangers stand behind their owner.
    with connected("0.0.0.0", *["127.0.0.1"] * 16) as (server, owned):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setgid(65534)
                os.setuid(65534)
                strangers = [socket.socket() for _ in owned]
                for stranger, ((_, port), _) in zip(strangers, owned, strict=True):
                    stranger.bind(("127.0.0.2", port))
                    stranger.connect(("127.0.0.1", server.getsockname()[1]))
                os.close(writing)
                os.read(reading, 1)  # the answer that they may go
            finally:
                os._exit(0)
        try:
            with ExitStack() as stack:
                for _ in owned:
                    accepted = stack.enter_context(server.accept()[0])
                    ends = (accepted.getpeername(), accepted.getsockname())
                    assert ends[0][0] == "127.0.0.2"
                    assert ask(PortalAccess(), ends=ends, host="localhost") == 401
            assert [ask(PortalAccess(), ends=ends, host="localhost") for ends in owned] == [200] * 16
        finally:
            os.write(writing, b".")
            os.waitpid(child, 0)
            os.close(reading)
            os.close(writing)


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
LINE = "   {}: {} {} {} 00000000:00000000 00:00000000 00000000 {:5}        0 {} 1 0000000000000000 20 4 30 10 -1"
OURS, THEIRS = "0100007F:1F90", "0100007F:C350"


def test_the_table_is_read_by_both_ends() -> None:
    other, else_where = "0200007F:C350", "0300007F:1F90"
    lines = [
        HEAD,
        LINE.format(0, "00000000:1F90", "00000000:0000", "0A", 7, 11),
        LINE.format(1, other, OURS, "01", 1, 12),
        LINE.format(2, THEIRS, else_where, "01", 2, 13),
        LINE.format(3, OURS, THEIRS, "01", 3, 14),
        LINE.format(4, THEIRS, OURS, "01", 4, 15),
    ]
    assert find_user(lines, THEIRS, OURS) == 4
    assert find_user(lines[:-1], THEIRS, OURS) is None


@pytest.mark.parametrize(("state", "inode"), [("04", 0), ("05", 0), ("06", 0), ("01", 0)])
def test_a_line_that_lost_its_process_names_nobody(state: str, inode: int) -> None:
    assert find_user([HEAD, LINE.format(0, THEIRS, OURS, state, 0, inode)], THEIRS, OURS) is None
