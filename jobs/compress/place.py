"""Where a job's files go: a directory, or a prefix of a bucket. Whoever writes output writes it here.

Input: paths relative to the destination, and bytes. Output: files or objects.
Invariant: a file appears whole, under its final name; when the ``with`` block
ends without an exception everything written in it is durable (flushed to disk,
or acknowledged by the server, which checked its MD5).
"""

import argparse
import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from jobs.compress.base import Job, digest_file
from jobs.compress.durable import Writer


class Place(Protocol):
    """A destination; all paths are relative to it and use ``/``.

    name  as people know it: a path or an ``s3://`` URL
    root  None for a bucket
    """

    name: str
    root: Path | None

    def write(self, path: str, blocks: Iterable[Any]) -> None:
        """Write a file of blocks of bytes; it replaces one that was there."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes as they are there now; ``FileNotFoundError`` when there is none."""

    def size(self, path: str) -> int | None:
        """Return a file's size, None when there is none."""

    def measure(self, path: str) -> tuple[int, str]:
        """Return the size and the ``base.digest`` of a file's bytes, read now; ``FileNotFoundError``."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def clear(self, path: str) -> None:
        """Remove everything below a directory."""

    def settle(self) -> None:
        """Tell that what was written so far has been read back and is not read again soon."""

    def occupied(self) -> bool:
        """Tell whether anything is there."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Directory:
    """A directory of a file system."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self.root: Path | None = root
        self._root = root
        self._writer = Writer()

    def write(self, path: str, blocks: Iterable[Any]) -> None:
        """See ``Place``."""
        self._writer.write(self._root / path, blocks)

    def read(self, path: str) -> bytes:
        """See ``Place``."""
        return (self._root / path).read_bytes()

    def size(self, path: str) -> int | None:
        """See ``Place``."""
        try:
            return (self._root / path).stat().st_size
        except FileNotFoundError:
            return None

    def measure(self, path: str) -> tuple[int, str]:
        """See ``Place``."""
        return (self._root / path).stat().st_size, digest_file(self._root / path)

    def remove(self, path: str) -> None:
        """See ``Place``."""
        (self._root / path).unlink(missing_ok=True)

    def clear(self, path: str) -> None:
        """See ``Place``."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / path)

    def settle(self) -> None:
        """See ``Place``."""
        self._writer.settle()

    def occupied(self) -> bool:
        """See ``Place``."""
        return self._root.exists() and (not self._root.is_dir() or any(self._root.iterdir()))

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)


def add_endpoint(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare the flag of kinds that write to buckets."""
    parser.add_argument(
        "--endpoint-url",
        help="S3 server of an s3:// destination (default: AWS_ENDPOINT_URL or the profile's, else AWS)",
    )


def open_place(job: Job) -> Place:
    """Return the destination of a job; ``UsageError`` when its URL is none that can be written."""
    if "://" not in job.destination:
        return Directory(Path(job.destination))
    # Imported here: the S3 client takes as long to load as all else together.
    from jobs.compress.bucket import open_bucket

    return open_bucket(job.destination, job.options.get("endpoint_url"))
