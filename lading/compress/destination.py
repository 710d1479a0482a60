"""Where a job's files go: a directory, or a prefix of a bucket. Whoever writes output writes it here.

Input: paths relative to the destination, and bytes. Output: files or objects.
Invariant: a file appears whole, under its final name; when the ``with`` block
ends without an exception everything written in it is durable (flushed to disk,
or acknowledged by the server, which checked its MD5).
"""

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from lading.compress.async_writer import AsyncFsyncWriter
from lading.compress.job import BlockDigest, CompressionJob, Measured, check_working_name

BLOCK = 8 << 20


class StoredFiles(Protocol):
    """Files that can be read, by paths relative to ``name``, which is a path or an ``s3://`` URL."""

    name: str

    def read(self, path: str) -> bytes:
        """Return a file's bytes as they are there now; ``FileNotFoundError`` when there is none."""


class Destination(StoredFiles, Protocol):
    """A destination; all paths are relative to it and use ``/``.

    name  as people know it: a path or an ``s3://`` URL
    root  None for a bucket
    """

    root: Path | None

    def write(self, path: str, blocks: Iterable[Any]) -> None:
        """Write a file of blocks of bytes; it replaces one that was there."""

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes as they are there now; ``FileNotFoundError`` when there is none."""

    def size(self, path: str) -> int | None:
        """Return a file's size, None when there is none."""

    def size_and_digest(self, path: str) -> Measured:
        """Return what a file's bytes are, read now; ``FileNotFoundError`` when there is none."""

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield (path, size) of everything that is there and finished, in no order."""

    def folders(self) -> Iterator[str]:
        """Yield the names of the directories at the top, in no order."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def clear(self, path: str) -> None:
        """Remove everything below a directory."""

    def drop_cache(self) -> None:
        """Tell that what was written so far has been read back and is not read again soon."""

    def is_occupied(self) -> bool:
        """Tell whether anything is there."""

    def tidy(self) -> None:
        """Remove what killed workers left unfinished; no worker may be left."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class DirectoryDestination:
    """A directory of a file system; ``working`` names the directory in it that holds what is unfinished."""

    def __init__(self, root: Path, working: str) -> None:
        self.name = str(root)
        self.root: Path | None = root
        self._root, self._working = root, check_working_name(working)
        self._writer = AsyncFsyncWriter(root / working)

    def write(self, path: str, blocks: Iterable[Any]) -> None:
        """See ``Destination``."""
        self._writer.write(self._root / path, blocks)

    def read(self, path: str) -> bytes:
        """See ``Destination``."""
        return (self._root / path).read_bytes()

    def size(self, path: str) -> int | None:
        """See ``Destination``."""
        try:
            return (self._root / path).stat().st_size
        except FileNotFoundError:
            return None

    def size_and_digest(self, path: str) -> Measured:
        """See ``Destination``."""
        found = BlockDigest()
        for block in self.blocks(path):
            found.update(block)
        return Measured(found.size, found.hash, found.sha256)

    def blocks(self, path: str) -> Iterator[bytes]:
        """See ``Destination``."""
        with open(self._root / path, "rb", buffering=0) as stream:
            while block := stream.read(BLOCK):
                yield block

    def files(self) -> Iterator[tuple[str, int]]:
        """See ``Destination``."""
        waiting = [""]
        while waiting:
            above = waiting.pop()
            with os.scandir(self._root / above) as entries:
                for entry in entries:
                    path = f"{above}{entry.name}"
                    if not entry.is_dir(follow_symlinks=False):
                        yield path, entry.stat(follow_symlinks=False).st_size
                    elif path != self._working:
                        waiting.append(f"{path}/")

    def folders(self) -> Iterator[str]:
        """See ``Destination``."""
        with os.scandir(self._root) as entries:
            yield from [entry.name for entry in entries if entry.is_dir()]

    def remove(self, path: str) -> None:
        """See ``Destination``."""
        (self._root / path).unlink(missing_ok=True)

    def clear(self, path: str) -> None:
        """See ``Destination``."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / path)

    def drop_cache(self) -> None:
        """See ``Destination``."""
        self._writer.drop_cache()

    def is_occupied(self) -> bool:
        """See ``Destination``."""
        return self._root.exists() and (not self._root.is_dir() or any(self._root.iterdir()))

    def tidy(self) -> None:
        """See ``Destination``."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / self._working)

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


def open_destination(job: CompressionJob) -> Destination:
    """Return the destination of a job; ``UsageError`` when its URL is none that can be written."""
    if "://" not in job.destination:
        return DirectoryDestination(Path(job.destination), job.working)
    # Imported here: the S3 client takes as long to load as all else together.
    from lading.compress.bucket_destination import open_bucket

    return open_bucket(job.destination, job.options.get("endpoint_url"))
