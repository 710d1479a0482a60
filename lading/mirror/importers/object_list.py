"""A list of objects that an archive publishes: csv with a header, or JSON lines.

Input: a file with a row for each object: ``key`` or ``url``, ``size``, and any
of ``path``, ``sha256``, ``md5``, ``etag``, ``version_id``, ``modified``.
Output: objects in key order.
Invariant: a row that is none is named with its line, and the rest is taken; a
column that nothing reads is refused, since it may be a digest under another name.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qs, unquote, urlsplit

from lading.core.bounded import parse_json
from lading.core.errors import UsageError
from lading.mirror.importers.claimed_rows import ClaimedObject
from lading.objectstore.keys import KeyPrefix

ENDINGS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
# Names of columns: ours, and others that archives write.
_COLUMNS = {
    "path": ("path", "filename"),
    "key": ("key",),
    "url": ("url", "contenturl"),
    "size": ("size", "bytes", "filesize"),
    "sha256": ("sha256",),
    "md5": ("md5",),
    "etag": ("etag",),
    "version_id": ("version_id", "versionid", "version"),
    "modified": ("modified", "last_modified", "lastmodified"),
}
_KNOWN = {name: column for column, names in _COLUMNS.items() for name in names}


@dataclass(frozen=True)
class ObjectList:
    """One list; ``place`` is the bucket and prefix that its objects are in, ``endpoint`` its server."""

    file: Path
    place: KeyPrefix
    endpoint: str | None

    def objects(self, refuse: Callable[[str, str], None]) -> Iterator[ClaimedObject]:
        """Yield the objects; ``refuse`` hears of each row that is none. All of them are held, to be sorted."""
        # Without a time of its own an object has that of the list: so what changed in place is compared.
        stamp = datetime.fromtimestamp(int(self.file.stat().st_mtime), UTC).isoformat()
        found = []
        for line, record in self._records():
            try:
                found.append(self._object(record, stamp))
            except ValueError as error:
                refuse(f"{self.file}, line {line}", str(error))
        found.sort(key=lambda item: item.key.encode("utf-8", "surrogateescape"))
        yield from found

    def _records(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        with _open(self.file) as stream:
            if ".csv" in self.file.suffixes:
                reader = csv.DictReader(stream)
                _check_columns(self.file, list(reader.fieldnames or ()))
                for record in reader:
                    yield reader.line_num, {str(name): value for name, value in record.items() if value}
                return
            for line, text in enumerate(stream, 1):
                if text.strip():
                    record = _parse(self.file, line, text)
                    _check_columns(self.file, record)
                    yield line, record

    def _object(self, record: Mapping[str, Any], stamp: str) -> ClaimedObject:
        cells = {_KNOWN[name.lower()]: value for name, value in record.items() if value not in (None, "")}
        key, version = self._address(cells)
        if not key.startswith(self.place.prefix):
            raise ValueError(f"its key {key!r} is not below {self.place}")
        size = int(cells.get("size", -1))
        if size < 0:
            raise ValueError("it has no size")
        modified = str(cells.get("modified", stamp)).replace("Z", "+00:00")
        when = datetime.fromisoformat(modified)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return ClaimedObject(
            path=str(cells.get("path", key[len(self.place.prefix) :])),
            key=key,
            size=size,
            etag=str(cells.get("etag", "")).strip('"'),
            modified=when.isoformat(),
            version_id=str(cells["version_id"]) if "version_id" in cells else version,
            md5=str(cells["md5"]).lower() if "md5" in cells else None,
            sha256=str(cells["sha256"]).lower() if "sha256" in cells else None,
        )

    def _address(self, cells: Mapping[str, Any]) -> tuple[str, str | None]:
        """Return the key and the version that a row gives, by itself or in its URL."""
        if "key" in cells:
            return str(cells["key"]), None
        if "url" not in cells:
            raise ValueError("it has neither a key nor a url")
        return address_in(str(cells["url"]), self.place.bucket, self.endpoint)


def address_in(url: str, bucket: str, endpoint: str | None) -> tuple[str, str | None]:
    """Return the key and the version that an object's URL names; ``ValueError`` when it is not in the bucket."""
    parts = urlsplit(url)
    path, version = unquote(parts.path, errors="surrogateescape")[1:], parse_qs(parts.query).get("versionId")
    own = endpoint is not None and url.startswith(f"{endpoint.rstrip('/')}/{bucket}/")
    if own or re.fullmatch(r"s3([.-][a-z0-9-]+)?\.amazonaws\.com", parts.netloc):
        path = unquote(url.partition(f"/{bucket}/")[2].partition("?")[0], errors="surrogateescape")
    elif not (
        (parts.scheme == "s3" and parts.netloc == bucket)
        or re.fullmatch(rf"{re.escape(bucket)}\.s3([.-][a-z0-9-]+)?\.amazonaws\.com", parts.netloc)
    ):
        path = ""
    if not path:
        raise ValueError(f"its url {url!r} is not in the bucket {bucket}")
    return path, version[0] if version else None


def _parse(file: Path, line: int, text: str) -> dict[str, Any]:
    try:
        record = parse_json(text)
    except ValueError as error:
        raise UsageError(f"{file}, line {line}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UsageError(f"{file}, line {line}: {json.dumps(record)[:40]} is not an object")
    return record


def _check_columns(file: Path, names: Any) -> None:
    unknown = sorted(str(name) for name in names if str(name).lower() not in _KNOWN)
    if unknown:
        raise UsageError(
            f"{file} has {', '.join(map(repr, unknown[:5]))}, which Lading does not read; "
            f"rename it to one of {', '.join(_COLUMNS)}, or leave it out"
        )


@contextmanager
def _open(file: Path) -> Iterator[TextIO]:
    try:
        with file.open("rb") as raw, gzip.open(raw) if file.suffix == ".gz" else nullcontext(raw) as opened:
            yield io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")
    except OSError as error:
        # A damaged gzip file is one of them.
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise UsageError(f"{file} is not a list of objects ({error})") from error
