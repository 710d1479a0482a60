"""moto on loopback: it keeps classes, tags, metadata and encryption of objects, has Amazon S3's multipart ETags, and
refuses the bytes of archived objects.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions

from lading.testing.s3_server import free_port

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Moto:
    """The running server."""

    endpoint: str
    directory: object = None  # as other servers have one

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def make_bucket(self, name: str, *, versioned: bool = False) -> None:
        self.client().create_bucket(Bucket=name)
        if versioned:
            self.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


@contextmanager
def serve() -> Iterator[Moto]:
    """Run a server for the block."""
    port = free_port()
    program = str(Path(sys.executable).parent / "moto_server")
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
    )
    moto = Moto(f"http://127.0.0.1:{port}")
    try:
        for _ in range(300):
            try:
                moto.client().list_buckets()
                break
            except botocore.exceptions.EndpointConnectionError:  # it has not begun to listen
                time.sleep(0.1)
        yield moto
    finally:
        process.terminate()
        process.wait(30)
