"""A portal in a process of its own, for the tests."""

import csv
import io
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx

from lading.core.processes import set_parent_death_signal
from tests.conftest import REPOSITORY
from tests.servers.slurm import free_ports


@dataclass
class Portal:
    """A running portal: ``client`` speaks to it, ``start`` and ``kill`` as a person or a power cut would."""

    home: Path
    port: int
    flags: tuple[str, ...]
    process: "subprocess.Popen[bytes] | None" = None
    listen: str = "127.0.0.1"

    @property
    def url(self) -> str:
        # Every address includes loopback.
        return f"http://{'127.0.0.1' if self.listen == '0.0.0.0' else self.listen}:{self.port}"

    @cached_property
    def client(self) -> httpx.Client:
        if self.listen.startswith("unix:"):
            transport = httpx.HTTPTransport(uds=self.listen.removeprefix("unix:"))
            return httpx.Client(base_url="http://localhost", timeout=60, transport=transport)
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "jobs",
            "serve",
            "--listen",
            self.listen if self.listen.startswith("unix:") else f"{self.listen}:{self.port}",
            "--home",
            str(self.home),
        ]
        with open(self.home.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.flags],
                cwd=self.home.parent,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=set_parent_death_signal(),
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.home.with_suffix(".log").read_text()
            if self.listen.startswith("unix:") and not Path(self.listen.removeprefix("unix:")).exists():
                time.sleep(0.05)
                continue
            try:
                # 401 where the token is asked of the owner too.
                if self.client.get("/openapi.json").status_code in (200, 401):
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the portal did not answer")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def jobs(self) -> list[dict]:
        answer = self.client.get("/api/v1/get_job_status_list", params={"page_limit": 500})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["job_status_list"]

    def wait(self, seconds: float = 240) -> list[dict]:
        """Return the jobs when none is open any more."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            jobs = self.jobs()
            if all(job["job_state"] not in ("queued", "running") for job in jobs):
                return jobs
            time.sleep(0.5)
        raise AssertionError(f"still open: {[(job['name'], job['job_state']) for job in self.jobs()]}")


@contextmanager
def serve(directory: Path, *flags: str, listen: str = "127.0.0.1") -> Iterator[Portal]:
    # Not of those that the system gives to outgoing connections: a portal that is killed wants its port again.
    portal = Portal(directory / "home", free_ports(1), flags, listen=listen)
    portal.start()
    try:
        yield portal
    finally:
        portal.client.close()
        if portal.process and portal.process.poll() is None:
            portal.process.terminate()
            portal.process.wait(30)


def lab_job(subject: str, source: Path, **more: object) -> dict:
    """A behaviour session in JSON: nothing to compress, so that its upload is the work."""
    return {
        "job_type": "default",
        "project_name": "Lab",
        "platform": "behavior",
        "subject_id": subject,
        "acq_datetime": "2024-05-27T16:07:59",
        "modalities": ["behavior"],
        "tasks": {"modality_transformation_settings": {"behavior": {"job_settings": {"input_source": str(source)}}}},
        **more,
    }


def list_text(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def runner_of(directory: Path) -> int | None:
    """The process that runs a job, if there is one."""
    try:
        pid = int((directory / "runner.lock").read_text() or 0)
        return pid if b"lading.portal.job_process" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except FileNotFoundError:
        return None


@contextmanager
def relay(path: Path, user: int) -> Iterator[int]:
    """A port of loopback that leads to a socket file, opened by another user: what ``ssh -L`` is for that user."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = int(listener.getsockname()[1])
        child = os.fork()
        if not child:
            try:
                # Pipes of a browser that is open now would never end for its driver while this process has them too.
                os.closerange(3, listener.fileno())
                os.closerange(listener.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
                _carry(listener, str(path))
            finally:
                os._exit(1)
        try:
            yield port
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _carry(listener: socket.socket, path: str) -> None:
    """Hand on what comes from either side of each connection, until the end."""
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is listener:
                    near = listener.accept()[0]
                    far = socket.socket(socket.AF_UNIX)
                    try:
                        far.connect(path)
                    except OSError:
                        near.close()
                        continue
                    ready.register(near, selectors.EVENT_READ, far)
                    ready.register(far, selectors.EVENT_READ, near)
                    continue
                try:
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    key.data.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    for end in (key.fileobj, key.data):
                        ready.unregister(end)
                        end.close()
