"""A TLS front with its own CA, and a CONNECT proxy, both on loopback.

Input: the port of a plain server. Output: ports; what the proxy was asked for.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lading.testing import certificates

NAME = "s3.far.example"  # never resolved here: only the proxy is told it


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """Return (CA, certificate, key) of a server that is called localhost, 127.0.0.1, ``NAME`` or a name below it."""
    return certificates.make_certificates(directory, (NAME, f"*.{NAME}"))


def pump(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes from one to the other until it ends."""
    with suppress(OSError):
        while block := one.recv(1 << 16):
            other.sendall(block)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def listen(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Call ``serve`` in a thread for each connection; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def tls_front(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Speak TLS before the plain server on ``port``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(client: socket.socket) -> None:
        try:
            shielded = context.wrap_socket(client, server_side=True)
        except OSError:
            return client.close()  # it does not trust us
        plain = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=pump, args=(plain, shielded), daemon=True).start()
        return pump(shielded, plain)

    with listen(serve) as front:
        yield front


@contextmanager
def connect_proxy(port: int) -> Iterator[tuple[int, list[str]]]:
    """Lead every CONNECT to ``port`` of this machine; yields (port, what was asked for)."""
    asked: list[str] = []

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            block = client.recv(4096)
            if not block:
                return client.close()
            head += block
        asked.append(head.split(b"\r\n")[0].decode())
        if not head.startswith(b"CONNECT "):
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return client.close()
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        there = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=pump, args=(there, client), daemon=True).start()
        return pump(client, there)

    with listen(serve) as front:
        yield front, asked
