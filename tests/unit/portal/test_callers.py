"""Who asks and what the settings allow: the guard with users, asked without a portal."""

import asyncio
import ipaddress
import os
from pwd import getpwuid
from typing import Any

import pytest

from lading.core.atomic import read_log
from lading.core.errors import UsageError
from lading.portal.audit_log import AuditLog, ForbiddenError
from lading.portal.authorized import AuthorizedService
from lading.portal.callers import NOBODY, OWNER, Caller, UserRules
from lading.portal.peers import user_name
from lading.portal.security import CALLER, Guard, PortalAccess
from lading.portal.service import PortalService
from lading.portal.store import JobStore
from lading.sessions.site import PORTAL_RIGHTS, faults

TOKEN = "correct-horse-battery-staple"
BEARER = (b"authorization", b"Bearer " + TOKEN.encode())
ALICE, STRANGER, PROXY_USER = 41_001, 41_002, 41_003
HEADER = b"x-remote-user"
SITE: dict[str, Any] = {
    "portal": {
        "users": {
            f"unix:{ALICE}": ["submit", "cancel_own"],
            "proxy:carol@example.org": ["submit", "see_all"],
            "proxy:Ünal": None,
        },
        "proxy": {"header": "X-Remote-User", "from": ["10.1.0.0/30", f"unix:{PROXY_USER}"]},
    }
}
RULES = UserRules.of(SITE)
OPEN = PortalAccess(unix=True, rules=RULES)
BOTH = PortalAccess(TOKEN, ("portal.example.org",), unix=True, rules=RULES)


def ask(access: PortalAccess, client: Any, *headers: tuple[bytes, bytes], path: str = "/jobs") -> tuple[int, Any, str]:
    """Status, caller and body that a request gets."""
    sent: list[Any] = []
    seen: list[Any] = []

    async def welcome(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[CALLER])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost"), *headers]}
    scope |= {"client": client, "server": ("/run/portal.sock", None)}
    asyncio.run(Guard(welcome, access)(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], seen[0] if seen else None, sent[1]["body"].decode()


def by(user: int) -> tuple[str, int]:
    """Whoever connected to the socket file, as ``PeerProtocol`` says it."""
    return (f"unix:{user}", 4711)


def test_users_of_the_machine_have_what_the_settings_say() -> None:
    status, caller, _ = ask(OPEN, by(ALICE))
    assert (status, caller.name, caller.way) == (200, f"unix:{ALICE}", "socket")
    assert caller.rights == {"submit", "cancel_own"}
    status, caller, body = ask(OPEN, by(STRANGER))
    assert (status, caller) == (403, None)
    assert f"unix:{STRANGER} may not use this portal" in body
    assert ask(OPEN, None)[0] == 401
    assert ask(OPEN, by(os.geteuid()))[1].name == OWNER
    everyone = UserRules.of({"portal": {"users": {"unix:*": ["see_all"]}}})
    assert ask(PortalAccess(unix=True, rules=everyone), by(STRANGER))[1].rights == {"see_all"}
    # A number that the kernel gives to users of other namespaces is nobody's.
    assert ask(PortalAccess(unix=True, rules=everyone), by(65534))[0] == 401


def test_the_owner_edits_parameters_when_the_settings_say_so() -> None:
    assert not ask(OPEN, by(os.geteuid()))[1].may("edit_parameters")
    own = UserRules.of({"portal": {"users": {f"unix:{os.geteuid()}": ["edit_parameters"]}}})
    caller = ask(PortalAccess(unix=True, rules=own), by(os.geteuid()))[1]
    assert (caller.name, caller.rights) == (OWNER, set(PORTAL_RIGHTS))
    assert not own.opens_socket
    assert RULES.opens_socket
    assert not UserRules().opens_socket


def test_a_proxy_names_users() -> None:
    for client in (by(PROXY_USER), ("10.1.0.2", 5000), ("::ffff:10.1.0.1", 5000)):
        status, caller, _ = ask(OPEN, client, (HEADER, b"carol@example.org"))
        assert (status, caller.name, caller.rights) == (200, "proxy:carol@example.org", {"submit", "see_all"})
    assert ask(OPEN, by(PROXY_USER), (HEADER, "Ünal".encode()))[1].rights == set()
    status, _, body = ask(OPEN, by(PROXY_USER), (HEADER, b"mallory"))
    assert (status, "proxy:mallory may not use" in body) == (403, True)
    # What a proxy adds beside the name is to be expected of it.
    assert ask(OPEN, by(PROXY_USER), (HEADER, b"carol@example.org"), (b"x-forwarded-for", b"203.0.113.9"))[0] == 200
    # A proxy of the owner never is the owner.
    own = UserRules.of({"portal": {"proxy": {"header": "X-U", "from": [f"unix:{os.geteuid()}"]}}})
    assert ask(PortalAccess(unix=True, rules=own), by(os.geteuid()))[0] == 403
    assert ask(PortalAccess(TOKEN, unix=True, rules=own), by(os.geteuid()))[0] == 401


@pytest.mark.parametrize("client", [by(ALICE), by(STRANGER), by(os.geteuid()), ("10.1.0.4", 5000), None], ids=str)
def test_the_header_of_anybody_else_is_refused(client: Any) -> None:
    for access in (OPEN, BOTH):
        for more in ((), (BEARER,)):
            status, caller, body = ask(access, client, (HEADER, b"carol@example.org"), *more)
            assert (status, caller) == (403, None)
            assert "believed only from" in body


HOSTILE = [
    b"", b" ", b"*", b"carol@example.org,bob", b"carol@example.org bob", b"unix:root", b"proxy:carol", b"owner:",
    b"a" * 129, b"carol\x00", b"carol\x7f", b"carol\x1b[2J", b"carol\n", b"\xff\xfe", b"<script>alert(1)</script>",
    b"';drop table job", "ca\u0301rol".encode(), "ｃarol".encode(), "carol\u202e".encode(), "carol\u200b".encode(),
    b'"carol"',
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_a_name_that_is_none_is_refused_with_the_token_too(value: bytes) -> None:
    for more in ((), (BEARER,)):
        status, caller, body = ask(BOTH, by(PROXY_USER), (HEADER, value), *more)
        assert (status, caller) == (403, None)
        assert "x-remote-user is not the name of a user" in body
        assert "script" not in body
        twice = ask(BOTH, by(PROXY_USER), (HEADER, b"carol@example.org"), (HEADER, value), *more)
        assert (twice[0], "name one user" in twice[2]) == (403, True)


def test_no_name_of_a_proxy_is_the_owner_or_the_token() -> None:
    everyone = UserRules.of(
        {"portal": {"users": {"proxy:*": []}, "proxy": {"header": "X-Remote-User", "from": ["10.0.0.1"]}}}
    )
    for name in (b"owner", b"token", b"root"):
        status, caller, _ = ask(PortalAccess(TOKEN, rules=everyone), ("10.0.0.1", 1), (HEADER, name))
        assert (status, caller.name, caller.rights) == (200, "proxy:" + name.decode(), set())


def test_the_token_gives_all_under_the_name_that_is_known() -> None:
    for client, headers, name in (
        (by(ALICE), (), f"unix:{ALICE}"),
        (by(STRANGER), (), f"unix:{STRANGER}"),
        (by(PROXY_USER), ((HEADER, b"mallory"),), "proxy:mallory"),
        (by(PROXY_USER), (), "token"),
        (("192.0.2.1", 9), ((b"via", b"x"),), "token"),
    ):
        status, caller, _ = ask(BOTH, client, BEARER, *headers)
        assert (status, caller.name, caller.rights) == (200, name, set(PORTAL_RIGHTS))
    # Who has no other right may sign in.
    assert ask(BOTH, by(STRANGER), path="/login")[:2] == (200, Caller(peer=f"unix:{STRANGER}"))
    assert ask(BOTH, by(PROXY_USER))[0] == 401


def test_a_request_that_was_handed_on_is_not_of_who_connected() -> None:
    for client in (by(ALICE), by(os.geteuid())):
        assert ask(OPEN, client, (b"x-forwarded-for", b"203.0.113.9"))[0] == 401


def test_names_become_users_of_this_machine() -> None:
    name = getpwuid(os.geteuid()).pw_name
    assert UserRules.of({"portal": {"users": {f"unix:{name}": ["submit"]}}}).numbers == {os.geteuid(): f"unix:{name}"}
    assert user_name(os.geteuid()) == name
    with pytest.raises(UsageError, match="no user 'nobody-at-all'"):
        UserRules.of({"portal": {"users": {"unix:nobody-at-all": []}}})
    with pytest.raises(UsageError, match="are the same user"):
        UserRules.of({"portal": {"users": {f"unix:{name}": [], f"unix:{os.geteuid()}": []}}})
    assert RULES.networks == (ipaddress.ip_network("10.1.0.0/30"),)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"users": ["unix:alice"]}, "users is an object"),
        ({"users": {"alice": []}}, "'alice' is not a user; write unix:NAME"),
        ({"users": {"unix:alice": "submit"}}, "is a list of submit"),
        ({"users": {"unix:alice": ["submitt"]}}, "'submitt' of unix:alice is not a right; did you mean 'submit'?"),
        ({"proxy": {"from": ["10.0.0.1"]}}, "header is the name of a header"),
        ({"proxy": {"header": "Cookie", "from": ["10.0.0.1"]}}, "has a meaning of its own"),
        ({"proxy": {"header": "X-User"}}, "from is a list"),
        ({"proxy": {"header": "X-User", "from": ["127.0.0.1"]}}, "everybody on this machine; write unix:USER"),
        ({"proxy": {"header": "X-User", "from": ["0.0.0.0/0"]}}, "everybody on this machine"),
        ({"proxy": {"header": "X-User", "from": ["::/0"]}}, "everybody on this machine"),
        ({"proxy": {"header": "X-User", "from": ["unix:*"]}}, "names nobody"),
        ({"proxy": {"header": "X-User", "from": ["proxy.example.org"]}}, "write an address"),
        ({"proxy": {"header": "X-User", "form": ["10.0.0.1"]}}, "form is not read; did you mean 'from'?"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], says: str) -> None:
    assert any(says in fault for fault in faults({"portal": settings})), faults({"portal": settings})
    assert faults(SITE) == []


def test_what_cannot_be_logged_is_not_done(tmp_path, monkeypatch) -> None:
    log = AuditLog(tmp_path)
    service = PortalService(JobStore(tmp_path / "jobs.sqlite"), tmp_path)
    allowed = AuthorizedService(service, Caller("unix:alice", "socket", frozenset(), "unix:1"), log)
    with pytest.raises(ForbiddenError, match="unix:alice may not set parameters"):
        allowed.set_parameter("job_types/v2/x/tasks/y", {"token": "hunter2"})
    log.close()
    written = [record for record in read_log(tmp_path / "audit.jsonl") if record]
    assert [(record["kind"], record.get("outcome")) for record in written] == [
        ("audit", None), ("asked", None), ("answered", "forbidden")
    ]  # fmt: skip
    assert written[1]["who"] == "unix:alice"
    assert written[1]["id"] == written[2]["id"]
    assert "hunter2" not in (tmp_path / "audit.jsonl").read_text()
    done: list[str] = []
    monkeypatch.setattr(PortalService, "set_parameter", lambda *_: done.append("done"))
    with pytest.raises(OSError):  # the log is closed
        AuthorizedService(service, Caller("token", "token", frozenset(PORTAL_RIGHTS)), log).set_parameter("k", {})
    assert done == []
    assert AuditLog(tmp_path)  # it goes on where it was
    assert NOBODY.rights == frozenset()
