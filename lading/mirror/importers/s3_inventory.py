"""An S3 Inventory in CSV or Parquet: a bucket's listing that AWS wrote, for buckets too large to list.

Input: the inventory's manifest.json on this disk, its data files beside it or
in ``../data``. Output: the current objects in key order.
Invariant: each data file has the MD5 that the inventory says; a file that is
missing, damaged or of another form ends the import before anything is written.

Source of the format: Amazon S3 User Guide, "Amazon S3 Inventory list".
"""

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_plus

from lading.core.bounded import JsonMembers, read_json
from lading.core.errors import ConsistencyError, UsageError
from lading.mirror.importers.claimed_rows import ClaimedObject
from lading.mirror.importers.parquet_inventory import NAMES, read_rows

_NEEDED = ("Key", "Size", "LastModifiedDate", "ETag")


@dataclass(frozen=True)
class S3Inventory:
    """An inventory whose files are all there and whole; ``created`` is when S3 wrote it, ISO 8601 in UTC."""

    bucket: str
    columns: Mapping[str, int]
    files: tuple[Path, ...]
    form: str = "CSV"
    created: str | None = None

    def objects(self, prefix: str) -> Iterator[ClaimedObject]:
        """Yield the current objects below ``prefix``; AWS sorts no inventory, so all of them are held and sorted."""
        found = [item for file in self.files for item in self._read(file) if item.key.startswith(prefix)]
        found.sort(key=lambda item: item.key.encode("utf-8", "surrogateescape"))
        for item in found:
            yield ClaimedObject(item.key[len(prefix) :], item.key, item.size, item.etag, item.modified, item.version_id)

    def _read(self, file: Path) -> Iterator[ClaimedObject]:
        number = 0
        try:
            for number, cells in enumerate(self._rows(file), 1):  # noqa: B007 - the number is in the message
                item = self._object(cells)
                if item is not None:
                    yield item
        except (ValueError, IndexError) as error:
            raise ConsistencyError(f"{file}, line {number}: not a row of this inventory ({error})") from error

    def _rows(self, file: Path) -> Iterator[list[str]]:
        if self.form == "PARQUET":
            yield from read_rows(file, list(self.columns))
            return
        with gzip.open(file) as stream:
            # Keys are encoded as in a form (a blank is "+"), so the file is ASCII.
            yield from csv.reader(io.TextIOWrapper(stream, encoding="ascii", newline=""))

    def _object(self, cells: list[str]) -> ClaimedObject | None:
        def cell(name: str) -> str:
            place = self.columns.get(name)
            return "" if place is None else cells[place]

        if cell("IsLatest").lower() == "false" or cell("IsDeleteMarker").lower() == "true":
            return None
        key = cell("Key") if self.form == "PARQUET" else unquote_plus(cell("Key"), errors="surrogateescape")
        modified = cell("LastModifiedDate").replace("Z", "+00:00")
        return ClaimedObject(key, key, int(cell("Size")), cell("ETag").strip('"'), modified, cell("VersionId") or None)


def read_inventory(path: Path) -> S3Inventory:
    """Return the inventory whose manifest.json is at ``path``; raises when it is not whole."""
    try:
        record = read_json(path)
        take = JsonMembers(record, "an inventory")
        form, bucket = take.text("fileFormat"), take.text("sourceBucket")
        schema = take.text("fileSchema")
        made = take.text("creationTimestamp", "")
        files = [JsonMembers(item, "a file") for item in record["files"]]
        named = [(item.text("key"), item.text("MD5checksum")) for item in files]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not the manifest.json of an S3 Inventory ({error})") from error
    if form.upper() not in ("CSV", "PARQUET"):
        raise UsageError(f"{path} is an inventory in {form}; have S3 write one in CSV or Parquet")
    if form.upper() == "PARQUET":
        columns = [name for name, column in NAMES.items() if re.search(rf"\b{column}\b", schema)]
    else:
        columns = [name.strip() for name in schema.split(",")]
    lacking = [name for name in _NEEDED if name not in columns]
    if lacking:
        raise UsageError(f"{path} has no {', '.join(lacking)}; add these fields to the inventory's configuration")
    found = tuple(_find(path, key, md5) for key, md5 in named)
    created = datetime.fromtimestamp(int(made) / 1000, UTC).isoformat() if made.isdigit() else None
    return S3Inventory(bucket, {name: place for place, name in enumerate(columns)}, found, form.upper(), created)


def _find(path: Path, key: str, md5: str) -> Path:
    name = key.rpartition("/")[2]
    for candidate in (path.parent / name, path.parent / "data" / name, path.parent.parent / "data" / name):
        if candidate.is_file():
            with candidate.open("rb") as stream:
                if hashlib.file_digest(stream, "md5").hexdigest() != md5:
                    raise ConsistencyError(f"{candidate} does not have the MD5 that {path} records; copy it again")
            return candidate
    raise UsageError(f"{path} names {key}, which is not beside it or in ../data; copy it there")
