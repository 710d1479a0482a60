"""What the crawl recorded beside names and sizes, on its way into the manifest.

Input: the plan's find.metadata.jsonl.zst, the manifest's rows in key order.
Output: the rows with the metadata of their files; the entries that are no
object, in the manifest's order.
Invariant: only what the plan selects is carried; a metadata file that is
torn, damaged or of another crawl is an error before anything is compared.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lading.core.external_sort import ExternalSort
from lading.objectstore.listing import key_order
from lading.plan.objects import PlannedObjects
from lading.plan.ownership import select_paths
from lading.tree.entry_record import (
    FILE_KIND,
    EntryMetadata,
    RecordedEntry,
    decode_entry_record,
    decode_metadata,
    encode_entry_record,
    encode_metadata,
)
from lading.tree.metadata_file import open_metadata
from lading.verification.manifest import ManifestRow, entry_order

KeyedMetadata = tuple[str, EntryMetadata]


class RecordedEntries:
    """The recorded entries of a plan, sorted; none for a plan whose crawl recorded nothing."""

    def __init__(self, inventory: PlannedObjects, scratch: Path) -> None:
        """Read the plan's metadata file; what memory does not hold goes to ``scratch``."""
        self._files: ExternalSort[KeyedMetadata] = ExternalSort(
            scratch, "metadata", lambda pair: key_order(pair[0]), _encode, _decode
        )
        self._others: ExternalSort[RecordedEntry] = ExternalSort(
            scratch, "entries", entry_order, encode_entry_record, decode_entry_record
        )
        settings = inventory.plan.settings
        name = settings.get("metadata")
        if not isinstance(name, str):
            return
        file = open_metadata(inventory.directory / name, str(settings.get("tree_sha256")))
        is_selected = select_paths(inventory.plan.subdir, settings.get("exclude", ()))
        for entry in file.entries():
            if not is_selected(entry.path):
                continue
            if entry.kind != FILE_KIND:
                self._others.add(entry)
            elif entry.metadata is not None:
                self._files.add((inventory.keys.key(entry.path), entry.metadata))

    def attach(self, rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
        """Yield the rows, in key order, each with the metadata of its file where that was recorded."""
        known = iter(self._files)
        current = next(known, None)
        for row in rows:
            order = key_order(row.key)
            while current is not None and key_order(current[0]) < order:
                current = next(known, None)
            yield replace(row, metadata=current[1]) if current is not None and current[0] == row.key else row

    def entries(self) -> Iterator[RecordedEntry]:
        """Yield what is no object, a directory before all below it."""
        return iter(self._others)


def _encode(pair: KeyedMetadata) -> list[Any]:
    return [pair[0], encode_metadata(pair[1])]


def _decode(value: Any) -> KeyedMetadata:
    return value[0], decode_metadata(value[1])
