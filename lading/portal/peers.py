"""Who is at the other end of a connection, as the kernel tells it.

Input: connections of the portal's socket file, and the two ends of TCP
connections. Output: the number of the user whose process connected, or None.
Invariant: nothing that the other end sends counts here. A user of another
user namespace, who has no number in ours, is nobody.
"""

import ipaddress
import os
import socket
import struct
import sys
from asyncio import Transport
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from pwd import getpwuid

from uvicorn.protocols.http.h11_impl import H11Protocol

# How the other end of the socket file is written where ASGI has the host of a TCP client: no address looks like it.
SOCKET = "unix:"
# pid, uid and gid (unix(7), SO_PEERCRED).
_CREDENTIALS = struct.Struct("3i")
# What the kernel says of users that have no number in this namespace (user_namespaces(7)).
_OVERFLOW = Path("/proc/sys/kernel/overflowuid")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
End = tuple[str, int] | None


class PeerProtocol(H11Protocol):
    """HTTP of uvicorn, which also says who opened the socket file: ``client`` is ``("unix:UID", PID)``."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Note who connected."""
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        if found is not None and found.family == socket.AF_UNIX:
            pid, uid, _ = _CREDENTIALS.unpack(
                found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            self.client = (f"{SOCKET}{uid}", pid)


def peer_user(client: End, server: End) -> int | None:
    """Return the user of the process at the other end; None where the kernel of this machine does not know."""
    if client and client[0].startswith(SOCKET):
        user: int | None = int(client[0].removeprefix(SOCKET))
    else:
        user = _loopback_user(client, server)
    return None if user == _overflow() else user


@lru_cache(4096)
def user_name(user: int) -> str:
    """Return how the account of a user is called, its number where it has no name."""
    try:
        return getpwuid(user).pw_name
    except KeyError:
        return str(user)


@lru_cache(1)
def _overflow() -> int:
    try:
        return int(_OVERFLOW.read_text())
    except (OSError, ValueError):
        return 65534


def is_loopback(host: str) -> bool:
    """Tell whether a host of a request names this machine alone."""
    if host == "localhost":
        return True
    found = plain_address(host)
    return found is not None and found.is_loopback


def _loopback_user(client: End, server: End) -> int | None:
    """Return the user of the other end of a loopback connection.

    On a login node loopback is shared with strangers; the kernel's tables of
    TCP sockets name the user of the other end (proc(5), /proc/net/tcp).
    """
    if not client or not server:
        return None
    near, far = plain_address(client[0]), plain_address(server[0])
    if near is None or far is None or not near.is_loopback:
        return None
    places = [("/proc/net/tcp6", 6)]
    if near.version == 4:
        # The other end may have opened either kind of socket for it.
        places.insert(0, ("/proc/net/tcp", 4))
    for table, version in places:
        try:
            with open(table, encoding="ascii") as stream:
                user = find_user(stream, _hexed(near, client[1], version), _hexed(far, server[1], version))
        except FileNotFoundError:  # a kernel without IPv6
            continue
        if user is not None:
            return user
    return None


def find_user(table: Iterable[str], local: str, remote: str) -> int | None:
    """Return the user of the open connection from ``local`` to ``remote``, both as the table writes them.

    Both ends count, address and port: ports alone are free to be the same
    elsewhere on 127.0.0.0/8. Lines of another state than ESTABLISHED (01) or
    without an inode have lost their process, and say user 0 for anyone's.
    """
    for line in table:
        fields = line.split()
        if fields[1:4] == [local, remote, "01"] and fields[9] != "0":
            return int(fields[7])
    return None


def plain_address(host: str) -> Address | None:
    """Return an address, an IPv4 one out of its IPv6 form; None for what is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def _hexed(address: Address, port: int, version: int) -> str:
    """Return an end as the kernel's table writes it: words of 32 bits in the machine's order, colon, port."""
    packed = address.packed
    if address.version < version:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    words = [int.from_bytes(packed[place : place + 4], sys.byteorder) for place in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def is_this_user(user: int | None) -> bool:
    """Tell whether a user is the one whose process this is."""
    return user == os.geteuid()
