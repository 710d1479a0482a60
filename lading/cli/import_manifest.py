"""``lading import SOURCE``: a manifest of a bucket that somebody else filled, without reading its content.

Input: ``s3://bucket/prefix``, the manifest.json of an S3 Inventory, or a list
of objects in csv or JSON lines. Output: a manifest whose rows say what they
rest on; exit 0, or 3 when some objects cannot be rows of a manifest.
Invariant: the manifest is written whole or not at all; it is complete only
when every object of the source is in it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.cli.import_dandi import SCHEMES, add_dandi_arguments, import_dandi, utc_or_none
from lading.core.command_line import Parser, configure_logging
from lading.core.errors import PartialFailure, UsageError
from lading.core.exit_codes import SOME_FAILED
from lading.core.progress import counted, format_bytes
from lading.core.safe_streams import printable
from lading.mirror.importers.bucket_listing import list_objects
from lading.mirror.importers.changed_rows import ChangedRows, check_same_source
from lading.mirror.importers.claimed_rows import ACCEPTED, ClaimedObject, ClaimedRows, write_unless_same
from lading.mirror.importers.git_checksums import is_repository, join_checksums, read_checksums
from lading.mirror.importers.object_list import ENDINGS, ObjectList
from lading.mirror.importers.s3_inventory import read_inventory
from lading.objectstore.client import open_for_reading
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import KeyPrefix, parse_key_prefix
from lading.objectstore.manner import add_reading_arguments, read_manner
from lading.objectstore.target import Target
from lading.verification.manifest import ManifestHeader, read_manifest


@dataclass(frozen=True)
class _Import:
    """What is imported: where the objects are, and who yields them."""

    place: KeyPrefix
    endpoint: str | None
    objects: Callable[[ClaimedRows], Iterator[ClaimedObject]]


class _NothingNew(Exception):
    """The source is older than what was asked for."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's settings."""
    parser = Parser(
        prog="python3 -m lading import",
        description="Write a manifest of a bucket that other tools filled, without reading objects.",
        codes=[SOME_FAILED],
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="s3://bucket/prefix, manifest.json of an inventory, a list, a git repository, dandi://INSTANCE[/NUMBER] "
        "or dandi+https://host/api; without it, the dandi_instance of the settings",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the manifest to write (manifest.jsonl.zst); for dandi:// a directory of manifests (manifests)",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="take only what changed at or after this time; the rest stays as it was. A listing or a list is read "
        "whole, so what is not in it is gone",
    )
    parser.add_argument("--bucket", default="", metavar="S3URL", help="for a list: bucket and prefix of its objects")
    parser.add_argument(
        "--accept", choices=tuple(ACCEPTED), default="digest",
        help="digest: objects whose SHA-256 or MD5 the archive gives; etag: also objects whose ETag looks like an MD5; "
        "size: all of them",
    )  # fmt: skip
    parser.add_argument("--endpoint-url", metavar="URL", help="S3 server, if not AWS")
    add_reading_arguments(parser)
    add_dandi_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.source is None and arguments.config is None:
        parser.error("give a SOURCE, or settings with dandi_instance by --config")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Import; returns the exit code."""
    arguments = parse(argv)
    configure_logging()
    if arguments.source is None or arguments.source.startswith(SCHEMES):
        return import_dandi(arguments)
    arguments.output = arguments.output or Path("manifest.jsonl.zst")
    try:
        found = _open(arguments)
    except _NothingNew as reason:
        print(reason)
        return os.EX_OK
    imported = ClaimedRows(arguments.accept)
    header = ManifestHeader(
        bucket=found.place.bucket,
        prefix=found.place.prefix,
        endpoint=found.endpoint,
        root="",
        plan="0" * 64,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={"import": arguments.source, "accept": arguments.accept},
    )
    rows, changed = imported.rows(found.objects(imported)), _changed(arguments, header)
    if changed:
        rows = changed.rows(rows)
    written = write_unless_same(arguments.output, header, rows, lambda: _is_complete(imported, found))
    levels = ", ".join(f"{count:,} {level}" for level, count in sorted(imported.levels.items()))
    print(
        f"{counted(imported.objects, 'object')}, {format_bytes(imported.bytes)} of {found.place} "
        f"({levels}); {arguments.output}"
        + ("" if written else " stays: nothing changed")
        + (f"; {changed}" if changed else "")
    )
    if imported.refused:
        raise PartialFailure(_refusals(imported))
    return os.EX_OK


def _open(arguments: argparse.Namespace) -> _Import:
    """Return the source that the command line names."""
    source = arguments.source
    endpoint = resolve_endpoint(arguments.endpoint_url)
    if source.startswith("s3://"):
        place = parse_key_prefix(source)
        store = open_for_reading(Target(place.bucket, endpoint, manner=read_manner(arguments)))
        return _Import(place, endpoint, lambda _: list_objects(store, place.prefix))
    path = Path(source)
    if is_repository(path):
        if not arguments.bucket:
            raise UsageError(f"{path} has checksums only; say by --bucket s3://bucket/prefix where the data is")
        place, known = parse_key_prefix(arguments.bucket), read_checksums(path)
        store = open_for_reading(Target(place.bucket, endpoint, manner=read_manner(arguments)))
        return _Import(
            place, endpoint, lambda imported: join_checksums(list_objects(store, place.prefix), known, imported.refuse)
        )
    if path.suffix == ".json":
        inventory = read_inventory(path)
        _check_since(arguments.since, inventory.created)
        place = parse_key_prefix(arguments.bucket or f"s3://{inventory.bucket}")
        if place.bucket != inventory.bucket:
            raise UsageError(f"{path} is an inventory of {inventory.bucket}, not of {place.bucket}")
        return _Import(place, endpoint, lambda _: inventory.objects(place.prefix))
    if not path.name.endswith(ENDINGS):
        raise UsageError(
            f"{source} is not a source; give s3://bucket/prefix, the manifest.json of an S3 Inventory, or a list that "
            f"ends in {', '.join(ENDINGS)}"
        )
    if not path.is_file():
        raise UsageError(f"{path} is missing; give the path of a list of objects")
    listed = ObjectList(path, parse_key_prefix(arguments.bucket), endpoint)
    return _Import(listed.place, endpoint, lambda imported: listed.objects(imported.refuse))


def _changed(arguments: argparse.Namespace, header: ManifestHeader) -> ChangedRows | None:
    """Return what compares a source that is read whole with the last import of it, if ``--since`` asks for that."""
    since = utc_or_none(arguments.since)
    if since is None or arguments.source.endswith(".json"):
        return None
    held = read_manifest(arguments.output) if arguments.output.exists() else None
    if held is not None:
        check_same_source(held, header)
    return ChangedRows(held, since)


def _check_since(since: str | None, created: str | None) -> None:
    """Raise ``_NothingNew`` when an inventory was written before ``since``."""
    wanted = utc_or_none(since)
    if wanted is not None and created is not None and created < wanted:
        raise _NothingNew(f"the inventory is of {created}, before {wanted}; nothing was done")


def _is_complete(imported: ClaimedRows, found: _Import) -> bool:
    """Tell whether every object has a row; raises when none has, so that no manifest is written."""
    if not imported.objects:
        reason = (
            _refusals(imported)
            if imported.refused
            else f"there is nothing below {found.place}; check bucket and prefix"
        )
        raise UsageError(f"{reason}; no manifest was written")
    return not imported.refused


def _refusals(imported: ClaimedRows) -> str:
    more = f"; and {imported.refused - len(imported.named):,} more" if imported.refused > len(imported.named) else ""
    remedy = {
        "digest": "; --accept etag accepts ETags that look like MD5s",
        "etag": "; --accept size accepts objects of which only the size is known",
    }.get(imported.accept, "")
    return (
        printable("; ".join(imported.named))
        + f"{more}: {counted(imported.refused, 'object')} cannot be rows of a manifest{remedy}"
    )


if __name__ == "__main__":
    from lading.core.command_line import run_main

    sys.exit(run_main(main))
