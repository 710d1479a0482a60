"""Trees for the upload tests, and the independent comparison of a bucket with one.

Nothing here uses the product's own walking, key mapping or digests.
"""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3

from tests.conftest import ODD_NAMES, REPOSITORY


def make_tree(root: Path, count: int, seed: int = 1, *, odd: bool = True, most_bytes: int = 8000) -> None:
    """Write ``count`` files of random bytes in nested directories; hostile names among them."""
    chance = random.Random(seed)
    root.mkdir(parents=True, exist_ok=True)
    base = os.fsencode(root)
    names = list(ODD_NAMES) if odd else []
    for number in range(count):
        folder = b"d%02d/e%d" % (number % 17, number % 5)
        name = b"%06d.bin" % number
        if names and number % 7 == 0:
            odd_name = names[(number // 7) % len(names)]
            # The longest name has no room for a number; it gets a directory of its own.
            folder += b"/" + odd_name[:60] if number % 2 else b"/n%d" % number
            name = odd_name
        path = os.path.join(base, folder)
        os.makedirs(path, exist_ok=True)
        size = 0 if number % 97 == 0 else chance.randrange(1, most_bytes)
        with open(os.path.join(path, name), "wb") as stream:
            stream.write(chance.randbytes(size))


def walk(root: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (path relative to root, absolute path) of every regular file, as bytes."""
    base = os.fsencode(root)
    for folder, _, names in os.walk(base):
        for name in names:
            path = os.path.join(folder, name)
            yield os.path.relpath(path, base), path


def key_of(relative: bytes) -> str:
    """Return the key of a path: UTF-8; bytes that are none, and control characters, as %XX."""
    text = ""
    for sign in relative.decode("utf-8", "surrogateescape"):
        code = ord(sign)
        if 0xDC80 <= code <= 0xDCFF:
            text += f"%{code - 0xDC00:02X}"
        elif code < 0x20 or code == 0x7F:
            text += f"%{code:02X}"
        else:
            text += sign
    return text


def expected(root: Path, prefix: str = "") -> dict[str, bytes]:
    """Return {key: absolute path} of what the bucket must hold."""
    return {prefix + key_of(relative): path for relative, path in walk(root)}


def client(server):  # type: ignore[no-untyped-def]
    """Return a boto3 client of a test server, from the environment's keys."""
    return boto3.session.Session().client("s3", endpoint_url=server.endpoint, region_name="us-east-1")


def listing(server, bucket: str) -> dict[str, int]:
    """Return {key: size} of everything in the bucket."""
    pages = client(server).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def differences(server, bucket: str, root: Path, prefix: str = "") -> list[str]:
    """Compare every byte of the bucket with the source; return what differs."""
    wanted, there = expected(root, prefix), listing(server, bucket)
    found = [f"missing: {key!r}" for key in wanted.keys() - there.keys()]
    found += [f"unexpected: {key!r}" for key in there.keys() - wanted.keys()]
    s3 = client(server)

    def compare(key: str) -> str | None:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        with open(wanted[key], "rb") as stream:
            local = stream.read()
        return None if body == local else f"differs: {key!r}"

    with ThreadPoolExecutor(8) as pool:
        found += [fault for fault in pool.map(compare, sorted(wanted.keys() & there.keys())) if fault]
    return found


def md5(path: bytes) -> str:
    with open(path, "rb") as stream:
        return hashlib.md5(stream.read()).hexdigest()


def make_plan(root: Path, directory: Path, *, largest: str = "2M", mtime: bool = True) -> None:
    """Crawl and cut ``root`` into ``directory``/batch.json by the product's own stages."""
    directory.mkdir(parents=True, exist_ok=True)
    steps = [
        ["find.py", str(root), *(["--mtime"] if mtime else []), "-o", "find.json"],
        ["batch.py", str(root), "--file-tree", "find.json", "--min-batch-size", "1", "--max-batch-size", largest,
         "-o", "batch.json"],
    ]  # fmt: skip
    for script, *rest in steps:
        command = [sys.executable, str(REPOSITORY / script), *rest]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def upload_command(root: Path, server, bucket: str, *more: str) -> list[str]:
    """Return the command line of an upload, to be run in the plan's directory."""
    return [
        sys.executable, str(REPOSITORY / "upload.py"), str(root), "--bucket", f"s3://{bucket}",
        "--batch", "batch.json", "--endpoint-url", server.endpoint, *more,
    ]  # fmt: skip


def upload(
    root: Path, directory: Path, server, bucket: str, *more: str, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run an upload to its end."""
    return subprocess.run(
        upload_command(root, server, bucket, *more),
        cwd=directory, capture_output=True, text=True, errors="surrogateescape", timeout=timeout, check=False,
    )  # fmt: skip


def verify_command(root: Path, server, bucket: str, *more: str) -> list[str]:
    """Return the command line of a verify, to be run in the plan's directory."""
    return [
        sys.executable, "-m", "lading", "verify", str(root), "--bucket", f"s3://{bucket}",
        "--batch", "batch.json", "--endpoint-url", server.endpoint, *more,
    ]  # fmt: skip


def verify(root: Path, directory: Path, server, bucket: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """Run ``make verify``'s command."""
    return subprocess.run(
        verify_command(root, server, bucket, *more),
        cwd=directory,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=300,
        check=False,
    )
