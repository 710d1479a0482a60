"""A bucket of objects that nobody uploaded, and its manifest: all that a lab keeps when the source is gone."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.core.atomic import decode_record
from lading.testing.s3_server import Server
from lading.verification.manifest import ManifestHeader, ManifestRow, write_manifest

WHEN = "2026-01-01T00:00:00Z"


@dataclass
class Bucket:
    """A bucket of small objects and its manifest, which is all that is known of it."""

    directory: Path
    server: Server
    name: str
    endpoint: str = ""
    rows: list[ManifestRow] = field(default_factory=list)

    @property
    def manifest(self) -> Path:
        return self.directory / "manifest.jsonl.zst"

    @property
    def log(self) -> Path:
        return self.directory / "manifest.scrub.jsonl"

    def path(self, key: str) -> Path:
        return self.server.directory / self.name / key

    def fill(self, count: int, size: int = 100) -> None:
        for number in range(count):
            key = f"dr1/d{number % 7}/{number:05d}"
            body = (hashlib.sha256(key.encode()).digest() * (size // 32 + 1))[:size]
            self.path(key).parent.mkdir(parents=True, exist_ok=True)
            self.path(key).write_bytes(body)
            md5 = hashlib.md5(body).hexdigest()
            sha = hashlib.sha256(body).hexdigest()
            self.rows.append(ManifestRow(key[4:], key, size, 0, md5, sha, md5, None, "etag", "b", WHEN))
        self.write()

    def write(self) -> None:
        self.rows.sort(key=lambda row: row.key.encode())
        header = ManifestHeader(self.name, "dr1/", self.endpoint or self.server.endpoint, "/r", "0" * 64, WHEN, {})
        write_manifest(self.manifest, header, self.rows, complete=True)

    def run(self, *words: str, code: int | None = 0, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command of Lading beside the manifest."""
        done = subprocess.run(
            [sys.executable, "-m", "lading", *words],
            cwd=self.directory, capture_output=True, text=True, check=False, timeout=120, **more,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    def spans(self) -> list[dict[str, Any]]:
        records = [decode_record(line) or {} for line in self.log.read_bytes().splitlines()]
        return [record for record in records if record["kind"] == "span"]
