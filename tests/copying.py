"""A release that is in a bucket with its manifest, and an independent comparer of both ends of a copy."""

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3

from lading.verification.manifest import ManifestHeader, ManifestRow, write_manifest

PART = 5 << 20
WHEN = "2026-01-01T00:00:00Z"
ODD = ["a b/plus+%20.txt", "naïve-é/日本.txt", "quote'\"/&amp;<x>.bin", "deep/er/and/deeper/~tilde", "star*[x]{y}?"]


@dataclass
class Release:
    """Objects below a prefix of a bucket, and their manifest."""

    directory: Path
    client: Any
    endpoint: str
    bucket: str
    prefix: str = "dr1/"
    rows: list[ManifestRow] = field(default_factory=list)

    @property
    def manifest(self) -> Path:
        return self.directory / "manifest.jsonl.zst"

    def put(self, name: str, body: bytes, *, part: int = 0, mtime: int = 10**18, **more: Any) -> None:
        """Store an object, in parts if asked, and take its row from what the bucket says."""
        key = self.prefix + name
        if part:
            tags = more.pop("Tagging", "")
            self.put_parts(key, body, part, **more)
            if tags:  # Ceph takes none at the beginning of an upload
                pairs = [dict(zip(("Key", "Value"), pair.split("="))) for pair in tags.split("&")]
                self.client.put_object_tagging(Bucket=self.bucket, Key=key, Tagging={"TagSet": pairs})
        else:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **more)
        head = self.client.head_object(Bucket=self.bucket, Key=key)
        version = head.get("VersionId")
        row = ManifestRow(
            name, key, len(body), mtime, hashlib.md5(body).hexdigest(), hashlib.sha256(body).hexdigest(),
            head["ETag"].strip('"'), None if version in (None, "null") else version, "etag", "b1",
            head["LastModified"].strftime("%Y-%m-%dT%H:%M:%SZ"), "md5, sent", storage_class=more.get("StorageClass"),
        )  # fmt: skip
        self.rows = [other for other in self.rows if other.key != key] + [row]

    def put_parts(self, key: str, body: bytes, part: int, **more: Any) -> None:
        client, place = self.client, {"Bucket": self.bucket, "Key": key}
        upload = client.create_multipart_upload(**place, **more)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), part), 1):
            answer = client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body[start : start + part])
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})

    def fill(self, count: int, size: int = 1000) -> None:
        for number in range(count):
            name = f"d{number % 7}/{number:05d}.bin"
            self.put(name, self.body(name, size + number))

    @staticmethod
    def body(name: str, size: int) -> bytes:
        return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]

    def write(self, **more: Any) -> None:
        self.rows.sort(key=lambda row: row.key.encode())
        header = ManifestHeader(self.bucket, self.prefix, self.endpoint, "/r", "0" * 64, WHEN, {})
        write_manifest(self.manifest, header, self.rows, complete=True, **more)

    def change(self, name: str, **values: Any) -> None:
        self.rows = [replace(row, **values) if row.path == name else row for row in self.rows]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "lading", *words]

    def run(self, *words: str, code: int | None = 0, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command of Lading beside the manifest."""
        done = subprocess.run(
            self.command(*words), cwd=self.directory, capture_output=True, text=True, check=False, timeout=300, **more
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    def copy(self, to: str, *words: str, code: int | None = 0, **more: Any) -> "subprocess.CompletedProcess[str]":
        return self.run("copy", "--to", to, *words, code=code, **more)

    def result(self, to: str, *words: str, code: int | None = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.copy(to, "--json", *words, code=code).stdout)
        return found

    def contents(self) -> dict[str, tuple[int, str]]:
        """Return {path: (size, MD5)} of the objects in the bucket, read by another client."""
        return read_bucket(self.client, self.bucket, self.prefix)


def read_bucket(client: Any, bucket: str, prefix: str = "") -> dict[str, tuple[int, str]]:
    """Return {key below the prefix: (size, MD5)} of all objects, read whole by boto3 alone."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            found[item["Key"][len(prefix) :]] = (len(body), hashlib.md5(body).hexdigest())
    return found


def client_of(endpoint: str, access: str, secret: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret
    )


@dataclass
class Relay:
    """A relay in front of a server that counts the bytes which clients send and get."""

    endpoint: str
    sent: int = 0
    got: int = 0


@contextmanager
def counting(endpoint: str) -> Iterator[Relay]:
    """Pass connections on to a server and count."""
    host, port = endpoint.rpartition("/")[2].split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    relay = Relay(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def pump(reading: socket.socket, writing: socket.socket, name: str) -> None:
        with suppress(OSError):
            while block := reading.recv(1 << 16):
                setattr(relay, name, getattr(relay, name) + len(block))
                writing.sendall(block)
        for one in (reading, writing):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        reading.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for pair in ((client, server, "sent"), (server, client, "got")):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield relay
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
