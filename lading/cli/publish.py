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
from lading.core.merging import full_join
from lading.core.progress import counted, format_bytes
from lading.diff.manifests import ManifestDiff
from lading.diff.sides import ManifestSide
from lading.export.addresses import Addresses
from lading.export.writers import write_check, write_sums
from lading.objectstore.client import ObjectStore, open_for_reading
from lading.objectstore.download import ObjectReader
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.keys import KeyPrefix, parse_key_prefix
from lading.objectstore.listing import key_order
from lading.objectstore.manner import Manner, add_reading_arguments, add_writing_arguments, read_manner
from lading.objectstore.target import Target
from lading.verification.manifest import Manifest, read_manifest
from lading.verification.manifest_address import HELP, LocatedManifest, fetch_manifest, locate_manifest, warn_incomplete
from lading.verification.manifest_audit import roots_of
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
    parser.add_argument(
        "--replace", action="store_true", help="replace what was published there of another release, too"
    )
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
    warn_incomplete(manifest, "not published")
    header = manifest.header
    place = parse_key_prefix(arguments.to or f"s3://{header.bucket}/{header.prefix}{FOLDER}")
    check_free(manifest, place.bucket, place.prefix)
    endpoint = resolve_endpoint(arguments.endpoint_url or header.endpoint)
    if not arguments.replace:
        check_same_release(manifest, place, endpoint, read_manner(arguments))
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
        check_old_signature(store, place, top)
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


def check_same_release(manifest: Manifest, place: KeyPrefix, endpoint: str | None, manner: Manner) -> None:
    """Refuse a place where another release was published: who was given its address would find this one.

    One release has keys in common from one time to the next. A published manifest that is damaged is replaced.
    """
    try:
        there = fetch_manifest(f"{place}{MANIFEST}", manner, endpoint)
    except (UsageError, ConsistencyError):
        return  # nothing, or nothing that anybody could read
    here = manifest.header
    if (there.header.bucket, there.header.prefix) == (here.bucket, here.prefix):
        pairs = full_join(there.rows(), manifest.rows(), lambda row: key_order(row.key), lambda row: key_order(row.key))
        if not (there.end.objects and manifest.end.objects) or any(old and new for old, new in pairs):
            return
    roots = roots_of(manifest)
    better = f"s3://{here.bucket}/{roots[0]}{FOLDER.rstrip('/')}"
    advice = f"--to {printable(better)}" if len(roots) == 1 and better != str(place).rstrip("/") else "another --to"
    raise UsageError(
        f"{place} holds what was published of another release, {printable(there.header.root or str(there))}; "
        f"give {advice}, or --replace"
    )


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


def check_old_signature(store: ObjectStore, place: KeyPrefix, top: Path) -> None:
    """Refuse to leave the signature of an earlier manifest beside this one: its readers would be told of a forgery."""
    stale = [MANIFEST + ending for ending in (STATEMENT, *(STATEMENT + ending for ending in ENDINGS.values()), ROWS)]
    found = store.keys.ask(place.prefix + name for name in stale if not (top / name).exists())
    if found:
        raise ConsistencyError(
            f"{place} has the signature of an earlier manifest, {', '.join(map(printable, sorted(found)))}; sign this "
            "one: make sign key=KEY, or delete these objects"
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
