"""``make publish``: put the manifest, checksums and ``check.py`` beside the data, for readers without an account.

Input: a manifest here, the bucket that it is of. Output: objects below ``_lading/`` of its prefix, each read back.
Invariant: nothing of the release is replaced. ``index.json`` comes last, so that who reads it finds what it names.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lading.cli.diff import write_changes
from lading.coordination.signals import leave_hanging
from lading.core.command_line import Parser, configure_logging, printable, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import DISAGREE, SOME_FAILED
from lading.core.progress import counted, format_bytes
from lading.diff.manifests import ManifestDiff
from lading.diff.sides import ManifestSide
from lading.export.addresses import Addresses
from lading.export.writers import write_check, write_sums
from lading.objectstore.client import ObjectStore, open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import parse_key_prefix
from lading.objectstore.manner import add_reading_arguments, add_writing_arguments, read_manner
from lading.objectstore.target import Target
from lading.verification.manifest import Manifest, read_manifest
from lading.verification.manifest_address import HELP, LocatedManifest, locate_manifest
from lading.verification.published import FOLDER, INDEX, MANIFEST, PUBLISHED, SUMS
from lading.verification.signature import ENDINGS, ROWS, STATEMENT, signed_digest

MOST_CHANGES = 10_000  # of each kind, named in changes.json
MOST_BYTES = 5 << 30  # of one request (Amazon S3 User Guide, "Uploading objects")
TYPES = {".py": "text/x-python", ".json": "application/json", "": "text/plain", ".gz": "application/gzip"}


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="publish",
        description="Put the manifest, checksums and check.py beside the data, for readers without an account.",
        codes=[SOME_FAILED, DISAGREE],
    )
    parser.add_argument("--manifest", type=Path, default=Path(MANIFEST), metavar="M", help="what to publish")
    parser.add_argument("--to", metavar="S3URL", help=f"where to put it (s3://BUCKET/PREFIX/{FOLDER.rstrip('/')})")
    parser.add_argument("--since", metavar="OLD", help=f"publish changes.json since an earlier manifest: {HELP}")
    parser.add_argument("--url", metavar="BASE", help="public address of the bucket's top, instead of its endpoint")
    parser.add_argument("--endpoint-url", metavar="URL", help="S3 server, if it is not the one in the manifest")
    add_reading_arguments(parser)
    add_writing_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Publish; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    configure_logging()
    manifest = read_manifest(arguments.manifest)
    header = manifest.header
    place = parse_key_prefix(arguments.to or f"s3://{header.bucket}/{header.prefix}{FOLDER}")
    check_free(manifest, place.bucket, place.prefix)
    endpoint = resolve_endpoint(arguments.endpoint_url or header.endpoint)
    addresses = Addresses.of(header, arguments.url)
    with leave_hanging(), tempfile.TemporaryDirectory(prefix="lading-publish-") as scratch:
        store = open_for_reading(Target(place.bucket, endpoint, manner=read_manner(arguments)))
        top = Path(scratch) / "set"
        left_out = gather_files(manifest, arguments.manifest, addresses, top)
        if arguments.since:
            new = ManifestSide(LocatedManifest(arguments.manifest, str(arguments.manifest)))
            compared = ManifestDiff(ManifestSide(locate_manifest(arguments.since, arguments)), new, Path(scratch))
            compared.run(MOST_CHANGES)
            write_changes(compared, top / "changes.json")
        size = 0
        for path in in_order(top):
            size += put_file(store, place.prefix + path.name, path)
    print(f"published  {format_bytes(size)} at {place}")
    there = replace(header, bucket=place.bucket, endpoint=endpoint)
    base = Addresses.of(there, arguments.url if place.bucket == header.bucket else None).url(place.prefix)
    print(f"python3 check.py {base.rstrip('/')} DIR   # check.py is there too")
    if left_out:
        raise PartialFailure(left_out)
    return 0


def check_free(manifest: Manifest, bucket: str, prefix: str) -> None:
    """Refuse a place where the release itself has a file of one of these names."""
    if bucket != manifest.header.bucket:
        return
    names = {prefix + name for name in PUBLISHED}
    for row in manifest.rows():
        if row.key in names:
            raise UsageError(f"the release has an object {printable(row.key)} of its own; give another --to")


def gather_files(manifest: Manifest, path: Path, addresses: Addresses, top: Path) -> str:
    """Write what is published into a directory; returns a sentence on what the sums leave out."""
    checked = write_check(manifest, top, addresses)
    summed = write_sums(manifest, top / SUMS, addresses)
    shutil.copyfile(path, top / MANIFEST)
    check_signed(manifest, path)
    for ending in (STATEMENT, *(STATEMENT + ending for ending in ENDINGS.values()), ROWS):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            shutil.copyfile(beside, top / (MANIFEST + ending))
    sentences = [
        f"{name} does not list {counted(done.left_out, 'object')}: {done.why}: {', '.join(map(printable, done.named))}"
        for name, done in ((INDEX, checked), (SUMS, summed))
        if done.left_out
    ]
    return "\n".join(sentences)


def check_signed(manifest: Manifest, path: Path) -> None:
    """Refuse a signature of another manifest: whoever checks it would be told that this one was forged."""
    signed = path.with_name(path.name + STATEMENT)
    if signed.exists() and signed_digest(signed) != manifest.end.sha256:
        raise ConsistencyError(
            f"{signed} is of an earlier manifest; sign this one: make sign key=KEY, or remove {signed.name}"
        )


def in_order(top: Path) -> Iterator[Path]:
    """Yield the files, what names others last."""
    yield from sorted(top.iterdir(), key=lambda path: (path.name == INDEX, path.name))


def put_file(store: ObjectStore, key: str, path: Path) -> int:
    """Put a file into the bucket and read it back; returns its size."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UsageError(f"{path.name} has {format_bytes(size)}, more than one request takes; export and upload it")
    with path.open("rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").digest()
        stream.seek(0)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        store.put(key, stream, TYPES.get(path.suffix, "application/octet-stream"), md5=md5)
    found = hashlib.sha256()
    for block in ObjectReader(store).blocks(key, size):
        found.update(block)
    if found.hexdigest() != sha256:
        raise ConsistencyError(
            f"{printable(key)} has other bytes in the bucket than were sent; run the same command again"
        )
    return size


if __name__ == "__main__":
    sys.exit(run_main(main))
