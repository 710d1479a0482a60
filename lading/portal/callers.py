"""Who asks, and what the site's settings let that person do.

Input: the ``portal`` settings of the site, and requests. Output: a
``Caller`` with its rights, or a ``Refusal``.
Invariant: a name comes from the kernel (``unix:NAME``), or from a header of
a proxy that the settings name (``proxy:NAME``); from anybody else the header
is refused. No text of a request can make one into the other. Without
settings there are the owner and whoever has the token, as before.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pwd import getpwnam
from typing import Any

from lading.core.errors import UsageError
from lading.portal.peers import SOCKET, End, is_this_user, peer_user, plain_address, user_name
from lading.portal.store import StoredJob
from lading.sessions.site import (
    CANCEL_ALL,
    CANCEL_OWN,
    EDIT_PARAMETERS,
    PORTAL_RIGHTS,
    PROXY,
    SEE_ALL,
    SUBMIT,
    UNIX,
)

OWNER, TOKEN = "owner", "token"
EVERYONE = "*"
# A name as a proxy may give it: of mail, Kerberos (name@REALM), a directory (DOMAIN\name) or a certificate.
_NAME = re.compile(r"[\w.@+\-\\=/]{1,128}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Everything but parameters, which the token or the settings give.
_OF_OWNER = frozenset(PORTAL_RIGHTS) - {EDIT_PARAMETERS}


@dataclass(frozen=True)
class Caller:
    """Who asks.

    name    owner, token, ``unix:NAME`` or ``proxy:NAME``; "" of whoever signs in
    way     how that is known: socket, loopback, proxy or token
    rights  what is allowed
    peer    where the connection came from, as the kernel says
    """

    name: str = ""
    way: str = ""
    rights: frozenset[str] = frozenset()
    peer: str = ""

    def may(self, right: str) -> bool:
        """Tell whether a right is given."""
        return right in self.rights

    def sees(self, job: StoredJob) -> bool:
        """Tell whether a job may be shown."""
        return SEE_ALL in self.rights or self._owns(job)

    def may_cancel(self, job: StoredJob) -> bool:
        """Tell whether a job may be stopped."""
        return CANCEL_ALL in self.rights or (CANCEL_OWN in self.rights and self._owns(job))

    def may_retry(self, job: StoredJob) -> bool:
        """Tell whether a job may be queued again: that is to submit it, and to act on somebody's job."""
        return SUBMIT in self.rights and (CANCEL_ALL in self.rights or self._owns(job))

    def _owns(self, job: StoredJob) -> bool:
        return bool(self.name) and job.owner == self.name


NOBODY = Caller()


@dataclass(frozen=True)
class Refusal:
    """Why a request gets no answer; ``name`` is of whom the settings do not name: the token lets that user in."""

    status: int
    message: str
    name: str = ""


@dataclass(frozen=True)
class UserRules:
    """What the site's settings say of users.

    users    rights by name: ``unix:NAME``, ``proxy:NAME``, and ``*`` for all others of a kind
    numbers  the names of ``users`` that are of this machine, by user number
    header   in which a proxy names the user, in small letters; "" without one
    networks, peers  from where that header is believed: addresses, and users of this machine
    """

    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    numbers: Mapping[int, str] = field(default_factory=dict)
    header: str = ""
    networks: tuple[Network, ...] = ()
    peers: frozenset[int] = frozenset()

    @classmethod
    def of(cls, site: Mapping[str, Any]) -> "UserRules":
        """Return the rules of a site's settings, whose form was judged when they were read."""
        settings = site.get("portal") or {}
        users: dict[str, frozenset[str]] = {}
        numbers: dict[int, str] = {}
        for name, rights in (settings.get("users") or {}).items():
            if name.startswith(UNIX) and name != UNIX + EVERYONE:
                user = _number_of(name.removeprefix(UNIX))
                if user in numbers:
                    raise UsageError(f"portal.users: {name} and {numbers[user]} are the same user; keep one of them")
                name = UNIX + user_name(user)
                numbers[user] = name
            users[name] = frozenset(rights or ())
        proxy = settings.get("proxy") or {}
        places = proxy.get("from") or []
        return cls(
            users,
            numbers,
            str(proxy.get("header") or "").lower(),
            tuple(ipaddress.ip_network(place) for place in places if not place.startswith(UNIX)),
            frozenset(_number_of(place.removeprefix(UNIX)) for place in places if place.startswith(UNIX)),
        )

    @property
    def opens_socket(self) -> bool:
        """True when others than the owner have a reason to open the socket file."""
        named = [user for user in (*self.numbers, *self.peers) if not is_this_user(user)]
        return bool(named) or UNIX + EVERYONE in self.users

    def is_proxy(self, client: End, user: int | None) -> bool:
        """Tell whether whoever connected may say for whom it asks."""
        if user is not None and user in self.peers:
            return True
        address = plain_address(client[0]) if client else None
        return address is not None and any(address in network for network in self.networks)

    def of_header(self, values: Sequence[str]) -> "Caller | Refusal":
        """Return whom a proxy's header names."""
        if len(values) != 1:
            return Refusal(403, f"the proxy has to name one user in {self.header}, once")
        try:
            # Bytes in latin-1 are how ASGI's headers are read here; names are UTF-8.
            name = values[0].encode("latin-1").decode("utf-8")
        except UnicodeError:
            name = ""
        # Of one form, so that no two names look alike for being composed in two ways.
        if not _NAME.fullmatch(name) or unicodedata.normalize("NFKC", name) != name:
            return Refusal(403, f"what the proxy gives in {self.header} is not the name of a user")
        return self._known(PROXY, PROXY + name, "proxy")

    def of_user(self, user: int, way: str) -> "Caller | Refusal":
        """Return who a user of this machine is."""
        return self._known(UNIX, self.numbers.get(user) or UNIX + user_name(user), way)

    def _known(self, kind: str, name: str, way: str) -> "Caller | Refusal":
        rights = self.users.get(name, self.users.get(kind + EVERYONE))
        if rights is None:
            message = (
                f"{name} may not use this portal; its owner can add that name to portal.users in the site's settings"
            )
            return Refusal(403, message, name)
        return Caller(name, way, rights)

    def identify(self, connection: "Connected", values: Sequence[str]) -> "Caller | Refusal | None":
        """Return who asks by everything but the token; None for whom nothing is known about.

        ``values`` are those of the proxy's header.
        """
        user = peer_user(connection.client, connection.server)
        peer = f"{SOCKET}{user}" if user is not None else (connection.client[0] if connection.client else "")
        if self.header and self.is_proxy(connection.client, user):
            # What a proxy hands on is never its own wish, whoever runs it.
            found = self.of_header(values) if values or connection.must_name else None
        elif values:
            return Refusal(403, f"the header {self.header} is believed only from the proxies of portal.proxy.from")
        elif not connection.direct:
            return None
        elif (connection.unix and not self.opens_socket) or (user is not None and is_this_user(user)):
            own = self.numbers.get(user, "") if user is not None else ""
            found = Caller(
                OWNER, "socket" if connection.unix else "loopback", _OF_OWNER | self.users.get(own, frozenset())
            )
        elif user is not None and (self.numbers or UNIX + EVERYONE in self.users):
            found = self.of_user(user, "socket" if connection.unix else "loopback")
        else:
            return None
        return replace(found, peer=peer) if isinstance(found, Caller) else found


@dataclass(frozen=True)
class Connected:
    """How a request came in.

    direct     whoever connected is who asks: no header says that it was handed on
    must_name  a proxy has to name somebody: there is no token to be shown instead
    """

    client: End
    server: End
    unix: bool
    direct: bool
    must_name: bool


def with_token(found: Caller | Refusal | None, peer: End) -> Caller:
    """Return whoever shows the token: with all rights, under the name that is known otherwise."""
    rights = frozenset(PORTAL_RIGHTS)
    if isinstance(found, Caller):
        way = f"{found.way}, {TOKEN}" if found.way else TOKEN
        return replace(found, name=found.name or TOKEN, rights=rights, way=way)
    return Caller((found and found.name) or TOKEN, TOKEN, rights, peer[0] if peer else "")


def _number_of(name: str) -> int:
    """Return the number of a user of this machine."""
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return getpwnam(name).pw_uid
    except KeyError:
        raise UsageError(
            f"portal in the site's settings: this machine has no user {name!r}; correct the name, or give its number"
        ) from None
