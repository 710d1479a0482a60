"""A manifest by its path, or by an ``s3://`` or ``https://`` address.

Input: what a person gave. Output: a manifest that was found whole.
Invariant: an object is fetched once, into a file without a name, and is checked by its end record before anything is
read of it. Nothing is left behind.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from lading.core.bounded import SMALL_BYTES
from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.objectstore.client import open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import parse_key_prefix
from lading.objectstore.manner import Manner, add_payer_argument, add_reading_arguments, read_manner
from lading.objectstore.object_info import StoreError
from lading.objectstore.target import Target
from lading.objectstore.web import check_address, download, shown_address
from lading.verification.manifest import Manifest, read_manifest
from lading.verification.signature import ENDINGS, ROWS, STATEMENT, SigningKey, check_signature, find_changed

NAME = "manifest.jsonl.zst"
WEB = ("https://", "http://")
ADDRESSES = ("s3://", *WEB)
HELP = "a path, an s3:// or an https:// address"


def add_manifest_arguments(parser: argparse.ArgumentParser, *, flag: bool = True) -> None:
    """Add what each command needs that reads a manifest from anywhere; ``flag`` False: it takes manifests otherwise."""
    if flag:
        parser.add_argument("--manifest", default=NAME, metavar="M", help=f"the manifest ({NAME}): {HELP}")
    parser.add_argument("--endpoint-url", metavar="URL", help="S3 server, if it is not the one in the manifest")
    add_reading_arguments(parser)
    add_payer_argument(parser)


@dataclass(frozen=True)
class LocatedManifest:
    """Where a manifest's file is that was not read yet, and what it is called; ``held`` must stay open."""

    path: Path
    shown: str
    held: IO[bytes] | None = field(default=None, repr=False, compare=False)


def locate_manifest(where: str, arguments: argparse.Namespace) -> LocatedManifest:
    """Return the file of a manifest, fetched once where it is given by an address; what it holds is not looked at."""
    if not is_address(where):
        return LocatedManifest(Path(where), where)
    held = fetch(where + NAME if where.endswith("/") else where, read_manner(arguments), arguments.endpoint_url)
    return LocatedManifest(Path(f"/proc/self/fd/{held.fileno()}"), shown_address(where), held)


def is_address(where: str) -> bool:
    """Tell whether a manifest is given by an address."""
    return where.startswith(ADDRESSES)


def local_name(where: str) -> Path:
    """Return the path that files about a manifest are named by: its own, or here one of its name."""
    return Path(shown_address(where).rpartition("/")[2] or NAME) if is_address(where) else Path(where)


def beside(where: str, ending: str) -> str:
    """Return where a file is that belongs to a manifest: its name with an ending."""
    if not where.startswith(WEB):
        return where + ending
    address, mark, query = where.partition("?")
    return address + ending + mark + query


def open_beside(where: str, ending: str, arguments: argparse.Namespace) -> IO[bytes]:
    """Open a file that belongs to a manifest; ``UsageError`` where there is none."""
    name = beside(where, ending)
    if is_address(where):
        return fetch(name, read_manner(arguments), getattr(arguments, "endpoint_url", None))
    try:
        return open(name, "rb")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}; sign the manifest: make sign key=KEY") from error


def read_signed_manifest(where: str, key: SigningKey, arguments: argparse.Namespace) -> Manifest:
    """Return a manifest that ``key`` signed; ``ConsistencyError`` that names the rows which were changed since."""
    if where.endswith("/"):
        where += NAME
    _ = key.program  # where it is not installed, nothing need be fetched
    with open_beside(where, STATEMENT, arguments) as stream:
        said = stream.read(SMALL_BYTES)
    with open_beside(where, STATEMENT + ENDINGS[key.kind], arguments) as stream:
        signature = stream.read(SMALL_BYTES)
    statement = check_signature(key, said, signature, shown_address(where) if is_address(where) else where)
    held = fetch(where, read_manner(arguments), getattr(arguments, "endpoint_url", None)) if is_address(where) else None
    path = Path(f"/proc/self/fd/{held.fileno()}") if held else Path(where)
    shown = shown_address(where) if held else where
    try:
        manifest = read_manifest(path)
        if manifest.end.sha256 == statement["manifest"]:
            return replace(manifest, held=held, shown=shown)
        reason = "it is another one than was signed"
    except ConsistencyError as error:
        reason = str(error).replace(str(path), "it").partition("; run:")[0]
    with open_beside(where, ROWS, arguments) as rows:
        changed = find_changed(path, rows, statement)
    raise ConsistencyError(
        f"{shown} is not what was signed: {reason}; {changed}; take the signed one from another copy"
    )


def warn_incomplete(manifest: Manifest, fate: str) -> None:
    """Say of a manifest that is not of a complete release what becomes of the files that it lacks."""
    if not manifest.end.complete:
        print(
            f"note: the manifest is not of a complete release; files that are missing from it are {fate}",
            file=sys.stderr,
        )


def read_manifest_of(where: str, arguments: argparse.Namespace) -> Manifest:
    """Return the manifest that a person named; raises as ``read_manifest``."""
    if not is_address(where):
        return read_manifest(Path(where))
    return fetch_manifest(where, read_manner(arguments), getattr(arguments, "endpoint_url", None))


def fetch_manifest(where: str, manner: Manner | None = None, endpoint: str | None = None) -> Manifest:
    """Return the manifest at an address."""
    if where.startswith(WEB):
        check_address(where)
    held = fetch(where + NAME if where.endswith("/") else where, manner, endpoint)
    try:
        manifest = read_manifest(Path(f"/proc/self/fd/{held.fileno()}"))
    except LadingError as error:
        said = (
            str(error).replace(f"/proc/self/fd/{held.fileno()}", shown_address(where)).replace("; run: make verify", "")
        )
        raise type(error)(said) from error
    return replace(manifest, held=held, shown=shown_address(where))


def fetch(where: str, manner: Manner | None = None, endpoint: str | None = None) -> IO[bytes]:
    """Return a file without a name that holds what is at an address."""
    copy = _copy_object(where, manner or Manner(), endpoint) if where.startswith("s3://") else _copy_web(where)
    held = tempfile.TemporaryFile(prefix="lading-manifest-")  # noqa: SIM115 - as long as it is read
    try:
        copy(held)
        held.flush()
        held.seek(0)
    except OSError as error:
        held.close()
        raise LadingError(f"{shown_address(where)} cannot be kept here: {error.strerror}; set TMPDIR") from error
    except BaseException:
        held.close()
        raise
    return held


def _copy_web(where: str) -> Callable[[IO[bytes]], None]:
    check_address(where)
    return lambda stream: download(where, stream)


def _copy_object(where: str, manner: Manner, endpoint: str | None) -> Callable[[IO[bytes]], None]:
    place, _, name = where.rpartition("/")
    if not name or place.count("/") < 2:
        raise UsageError(f"{where} names no object; write it like s3://bucket/prefix/{NAME}")
    found = parse_key_prefix(place)
    store = open_for_reading(Target(found.bucket, resolve_endpoint(endpoint), manner=manner))
    key = found.prefix + name

    def copy(stream: IO[bytes]) -> None:
        try:
            head = store.head(key)
        except StoreError as error:
            if error.code not in ("404", "NoSuchKey"):
                raise
            raise UsageError(f"{where} is not there; check the bucket and the path of the manifest") from error
        for block in ObjectReader(store).blocks(key, head.size, head.version_id):
            stream.write(block)

    return copy
