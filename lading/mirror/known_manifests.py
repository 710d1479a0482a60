"""Manifests that an earlier run has read whole, known by the digest of their files.

Input: the note of earlier runs and a manifest's file. Output: the ``Manifest``.
Invariant: a file is taken for known only when every byte is the same; the
note spares the parsing of rows, and deleting it costs time only.
"""

import hashlib
import json
import os
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.bounded import PLAN_BYTES, read_object
from lading.core.times import mtime_of
from lading.verification.manifest import (
    Manifest,
    decode_end,
    decode_header_line,
    end_line,
    manifest_lines,
    read_manifest,
)


class KnownManifests:
    """Reads manifests; ``save`` notes those that this run has read."""

    def __init__(self, note: Path | None) -> None:
        self._note = note
        self._held: dict[str, dict[str, str]] = {}
        self._used: dict[str, dict[str, str]] = {}
        try:
            self._held = read_object(note, PLAN_BYTES) if note else {}
        except (OSError, ValueError):
            pass  # everything is read again

    def read(self, path: Path) -> Manifest:
        """Return the manifest at ``path``, checked whole now or by an earlier run; raises as ``read_manifest``."""
        digest = _digest(path)
        known = self._held.get(digest) if digest else None
        if known is not None:
            try:
                header, end = known["header"].encode(), known["end"].encode()
                found = Manifest(path, decode_header_line(header, str(path)), decode_end(end, str(path)))
                self._used[digest] = known
                return found
            except (KeyError, TypeError, AttributeError):
                pass  # the note is damaged
        manifest = read_manifest(path)
        if digest == _digest(path):
            first = next(iter(manifest_lines(path)))
            self._used[digest] = {"header": first.decode("ascii"), "end": end_line(manifest.end).decode("ascii")}
        return manifest

    def save(self) -> None:
        """Write the note, if it changed."""
        if self._note and self._used != self._held:
            with atomic_write(self._note) as stream:
                json.dump(self._used, stream)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""  # the reader says why


def identity(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced."""
    status = os.stat(path)
    return status.st_ino, status.st_size, mtime_of(status)
