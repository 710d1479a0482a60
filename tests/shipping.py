"""What the tests of upload, verify and restore share: a small release, and the stages as a user runs them."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from lading.testing.ceph_gateway import Gateway
from lading.testing.s3_server import Server

REPOSITORY = Path(__file__).resolve().parent.parent


def write_files(root: Path, sizes: dict[bytes, int], seed: int = 1) -> None:
    """Write files of these sizes with content of their own."""
    for name, size in sizes.items():
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        block = hashlib.sha256(name + bytes([seed])).digest()
        with open(path, "wb") as stream:
            stream.write((block * (size // 32 + 1))[:size])


def walk(root: Path) -> dict[str, tuple[int, str]]:
    """Return {path relative to root: (size, MD5)} of every regular file, by ``os.walk`` alone."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb") as stream:
                    digest = hashlib.file_digest(stream, "md5").hexdigest()
                found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = (os.path.getsize(path), digest)
    return found


@dataclass
class Site:
    """A directory with a release, artefacts, and a bucket on a server."""

    directory: Path
    endpoint: str
    bucket: str
    prefix: str = ""
    root: Path = field(init=False)
    release: Path = field(init=False)
    remap: str = "{}"

    def __post_init__(self) -> None:
        self.root = self.directory / "data"
        self.release = self.root / "dr1"
        self.release.mkdir(parents=True, exist_ok=True)

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.endpoint)

    def command(self, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=120,
            **more,
        )

    def plan(self, *flags: str, find: tuple[str, ...] = ()) -> None:
        """Crawl and cut."""
        script = str(REPOSITORY / "find.py")
        done = self.command(script, str(self.release), "--max-workers", "2", "-o", "find.json", *find)
        assert done.returncode in (0, 3), done.stderr
        cut = [str(REPOSITORY / "batch.py"), str(self.release), "--file-tree", "find.json", "-o", "batch.json"]
        done = self.command(*cut, *(flags or ("--min-batch-size", "20k", "--max-batch-size", "100k")))
        assert done.returncode == 0, done.stderr

    def arguments(self, *flags: str) -> list[str]:
        flags_here = ["--bucket", self.place, "--batch", "batch.json", "--remap", self.remap]
        endpoint = ["--endpoint-url", self.endpoint] if self.endpoint else []
        return [str(self.root), *flags_here, *endpoint, *flags]

    def upload_command(self, *flags: str) -> list[str]:
        return [sys.executable, str(REPOSITORY / "upload.py"), *self.arguments("--max-workers", "8", *flags)]

    def upload(self, *flags: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return self.command(*self.upload_command(*flags)[1:], **more)

    def verify(self, *flags: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return self.command("-m", "lading", "verify", *self.arguments(*flags), **more)

    def listing(self) -> dict[str, tuple[int, str]]:
        """Return {key: (size, ETag)} as an independent client lists the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        items = (item for page in pages for item in page.get("Contents", ()))
        return {item["Key"]: (item["Size"], item["ETag"].strip('"')) for item in items}

    def runs(self) -> list[dict[str, Any]]:
        """Return the records of the runs, oldest first."""
        paths = sorted((self.directory / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text()) for path in paths]


def make_site(directory: Path, server: Server | Gateway, bucket: str, **more: Any) -> Site:
    server.make_bucket(bucket)
    return Site(directory, server.endpoint, bucket, **more)
