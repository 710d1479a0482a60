"""What the tests of the fleet share: real releases in folders, a list of them, a mail server and a watchdog."""

import email
import email.policy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.testing.s3_server import Server, free_port
from tests.servers.web import Request, Web, serve
from tests.shipping import write_files

COMMAND = [sys.executable, "-m", "lading", "fleet"]


@dataclass
class Fleet:
    """Releases r00, r01 … of a few files each below ``directory``, to one bucket."""

    directory: Path
    server: Server
    bucket: str
    names: list[str] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.directory / "releases.yaml"

    @property
    def home(self) -> Path:
        return self.directory / "releases.fleet"

    def add(self, count: int, files: int = 3) -> "Fleet":
        self.server.make_bucket(self.bucket)
        for number in range(len(self.names), len(self.names) + count):
            name = f"r{number:02d}"
            self.names.append(name)
            write_files(self.root(name), {b"f%d.bin" % one: 100 + one for one in range(files)}, seed=number % 250)
            self.folder(name).mkdir(parents=True)
        return self

    def root(self, name: str) -> Path:
        return self.directory / "data" / name

    def folder(self, name: str) -> Path:
        return self.directory / "releases" / name

    def write(self) -> None:
        entries = [
            {
                "name": name,
                "folder": f"releases/{name}",
                "root": str(self.root(name)),
                "bucket": f"s3://{self.bucket}/{name}",
                "endpoint": self.server.endpoint,
                **self.own.get(name, {}),
            }
            for name in self.names
        ]
        self.path.write_text(json.dumps({**self.shared, "releases": entries}))  # JSON is YAML

    def command(self, *words: str) -> list[str]:
        return [*COMMAND, *words, "--releases", str(self.path)]

    def call(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    def rows(self) -> dict[str, dict[str, Any]]:
        found = self.call("status", "--json")
        return {row["name"]: row for row in json.loads(found.stdout)["releases"]}

    def log(self) -> list[dict[str, Any]]:
        """Return the records of all runs, in order of time."""
        lines = [line for path in (self.home / "runs").glob("*.jsonl") for line in path.read_text().splitlines()]
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:
                continue  # torn
        return sorted(records, key=lambda record: record["at"])


@contextmanager
def mailbox() -> Iterator[tuple[int, list[Any]]]:
    """Run an SMTP server; yields its port and the messages that it took."""
    from aiosmtpd.controller import Controller

    class Handler:
        def __init__(self) -> None:
            self.messages: list[Any] = []

        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
            self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
            return "250 OK"

    handler = Handler()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port, handler.messages
    finally:
        controller.stop()


def mail_address(port: int) -> str:
    return f"mailto://127.0.0.1:{port}?from=lading@lab.example&to=ops@lab.example&mode=insecure"


def text_of(message: Any) -> str:
    body = message.get_body(("plain", "html"))
    return str(body.get_content())


@contextmanager
def watchdog() -> Iterator[Web]:
    """Run an HTTP server that answers every request with 200."""

    def answer(request: Request) -> tuple[int, Any]:
        return 200, {}

    with serve(answer) as web:
        yield web
