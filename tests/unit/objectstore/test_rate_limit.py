"""The bandwidth cap: what it reads, that it holds, that bytes pass unharmed."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.objectstore.rate_limit import Throttle
from lading.objectstore.rate_schedule import RateSchedule, parse_bandwidth
from lading.objectstore.target import Target
from tests import labtree


def test_reads_rates_and_timetables() -> None:
    assert parse_bandwidth("200M").rate(0) == 200_000_000
    table = parse_bandwidth("19:00,off;08:00,200M")
    assert [table.rate(minute) for minute in (0, 479, 480, 1139, 1140, 1439)] == [
        None, None, 200_000_000, 200_000_000, None, None,
    ]  # fmt: skip
    assert parse_bandwidth("08:00,1M;12:30,2M").rate(60) == 2_000_000, "before the first entry yesterday's last holds"
    assert parse_bandwidth("9:05,4M").share(4).rate(600) == 1_000_000


@pytest.mark.parametrize("text", ["", "fast", "25:00,1M", "08:00", "08:00,1M;08:00,2M", "0", "999", "08:00;1M"])
def test_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bandwidth(text)


class Receiver:
    """A TCP server that counts and answers ``done`` when its client has finished sending."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.received = bytearray()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.take, args=(connection,), daemon=True).start()

    def take(self, connection: socket.socket) -> None:
        while block := connection.recv(1 << 16):
            self.received += block
        connection.sendall(b"done")
        connection.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.socket.close()


def tunnel(throttle: Throttle, port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", throttle.port))
    client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 200 ")
    return client


def test_bytes_pass_a_tunnel_whole(receiver: Receiver) -> None:
    content = os.urandom(3_000_000)
    with Throttle(parse_bandwidth("off"), None) as throttle:
        with tunnel(throttle, receiver.port) as client:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b"done"
        assert bytes(receiver.received) == content
        assert throttle.sent_bytes == len(content)
        assert throttle.through(Target("b")).proxy == f"http://127.0.0.1:{throttle.port}"


def test_the_cap_is_shared_and_never_exceeded(receiver: Receiver) -> None:
    """Four connections at 2 MB/s together: 2 MB need a second; less would be a cap that leaks."""
    with Throttle(parse_bandwidth("2M"), None) as throttle:
        clients = [tunnel(throttle, receiver.port) for _ in range(4)]

        def send(client: socket.socket) -> None:
            client.sendall(b"x" * 500_000)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b"done"

        started = time.monotonic()
        threads = [threading.Thread(target=send, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Not a speed test: being slower is always allowed, faster never. 0.2: the burst and one block.
        assert time.monotonic() - started >= 0.8
        for client in clients:
            client.close()
    assert len(receiver.received) == 2_000_000


def test_nonsense_is_refused(receiver: Receiver) -> None:
    with (
        Throttle(parse_bandwidth("1M"), None) as throttle,
        socket.create_connection(("127.0.0.1", throttle.port)) as client,
    ):
        client.sendall(b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 405 ")


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    with Throttle(RateSchedule(((0, 1000),)), "http://127.0.0.1:9"):
        pass
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("engine", ["s5cmd", "obstore", "boto3", pytest.param("crt", marks=pytest.mark.long)])
def test_an_upload_under_a_cap_is_proven(s3, bucket: str, tmp_path: Path, engine: str) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    for number in range(4):
        (root / f"f{number}").write_bytes(os.urandom(400_000))
    labtree.make_plan(root, directory)
    s3.make_bucket(bucket)
    started = time.monotonic()
    result = labtree.upload(root, directory, s3, bucket, "--engine", engine, "--bandwidth", "800k")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started >= 1.8, "1.6 MB at 0.8 MB/s"
    assert labtree.differences(s3, bucket, root) == []


@pytest.mark.parametrize("endpoint", [None, "https://ceph.example"])
def test_another_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str | None) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with pytest.raises(UsageError, match="HTTPS_PROXY asks for another"):
        Throttle(parse_bandwidth("1M"), endpoint)
    monkeypatch.setenv("NO_PROXY", ".amazonaws.com,.example")
    with Throttle(parse_bandwidth("1M"), endpoint):
        pass
    monkeypatch.delenv("NO_PROXY")
    with Throttle(parse_bandwidth("1M"), "http://127.0.0.1:9"):
        pass  # loopback needs none


def test_the_end_does_not_wait_for_a_silent_server() -> None:
    """What a server never reads stays unsent: closing gently would wait for it for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as kept:
        throttle = Throttle(parse_bandwidth("off"), None)
        throttle.__enter__()
        client = kept.enter_context(tunnel(throttle, silent.getsockname()[1]))
        client.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(b"x" * (1 << 20))
        ending = threading.Thread(target=throttle.__exit__, args=(None, None, None), daemon=True)
        ending.start()
        ending.join(5)
        assert not ending.is_alive()
