"""Ceph's S3 gateway with one monitor and one OSD, on loopback (Debian packages, root).

Input: a directory with a short path: it holds Unix sockets. Output: a running gateway with its keys.
Invariant: bound to 127.0.0.1 only; stopped, and its directory removed, with the block.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "ceph-authtool", "monmaptool")
ACCESS, SECRET = "testaccess", "testsecret"


def missing() -> str | None:
    """Return why the gateway cannot run here, or None."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    return None if os.geteuid() == 0 else "the gateway's test cluster needs root"


@dataclass(frozen=True)
class Gateway:
    """A running gateway: where it is, its keys, and the directory of its cluster."""

    endpoint: str
    directory: Path

    access_key: str = ACCESS
    secret_key: str = SECRET

    def environment(self) -> dict[str, str]:
        """Return the variables by which any AWS client reaches it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """Return a boto3 client of it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def admin(self, *command: str) -> str:
        """Run radosgw-admin on this gateway's cluster; returns what it prints."""
        done = subprocess.run(
            ["radosgw-admin", "-c", str(self.directory / "ceph.conf"), *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    def make_bucket(self, name: str, *, versioned: bool = False) -> None:
        """Create a bucket, with versions if asked."""
        self.client().create_bucket(Bucket=name)
        if versioned:
            self.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


def quiet_port() -> int:
    """Return a free port outside the range from which the kernel hands out ports.

    The gateway binds seconds after the choice: meanwhile any other server
    that asks the kernel for a free port could be given the same one.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0 and probe.connect_ex(("127.0.0.1", port + 1)) != 0:
                return port


@contextmanager
def serve(directory: Path, *settings: str) -> Iterator[Gateway]:
    """Run a gateway in ``directory`` (short path: it holds Unix sockets) with more ``settings``, as in ceph.conf."""
    port = quiet_port()
    script = Path(__file__).with_name("ceph_gateway.sh")
    environment = {**os.environ, "RGW_PORT": str(port), "MONP": str(quiet_port()), "RGW_SETTINGS": "\n".join(settings)}
    with open(directory.with_suffix(".log"), "wb") as log:
        try:
            subprocess.run(
                ["bash", str(script), str(directory)],
                env=environment,
                check=True,
                timeout=180,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            yield Gateway(f"http://127.0.0.1:{port}", directory)
        finally:
            for pid_file in sorted((directory / "run").glob("*.pid"), reverse=True):
                try:
                    os.kill(int(pid_file.read_text()), signal.SIGKILL)
                except (ProcessLookupError, ValueError):
                    continue
            shutil.rmtree(directory, ignore_errors=True)
