"""``lading copy --to PLACE``: a second copy of a release, verified at both ends.

Input: a manifest, its bucket, a second place. Output: objects there, the manifest of the second place beside the first
one, and the list of places.
Invariant: this module knows flags and wiring; ``lading.copy`` does the work. A place that holds the first one, or that
is in it, is refused before anything is asked.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.cli.place_store import CLOUDS, is_s3, open_place
from lading.coordination.signals import leave_hanging
from lading.copy.bucket_copy import BucketCopy
from lading.copy.copy_job import CopyDestination
from lading.copy.copy_log import CopyLog, open_copy_log
from lading.copy.copy_run import CopyCounters, CopyRun, CopySettings
from lading.copy.directory_copy import DirectoryCopy
from lading.core.command_line import Parser, configure_logging, parse_workers, printable, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.extras import require
from lading.core.progress import Progress, counted, format_bytes, format_count, format_seconds
from lading.objectstore.client import ObjectStore
from lading.objectstore.endpoint import check_endpoint, resolve_endpoint, server_of
from lading.objectstore.keys import KeyPrefix, parse_key_prefix
from lading.objectstore.manner import add_writing_arguments, read_manner
from lading.objectstore.readable_store import ReadableStore
from lading.objectstore.target import Target
from lading.verification.manifest import Manifest, ManifestEnd, ManifestHeader, read_manifest
from lading.verification.manifest_address import (
    add_manifest_arguments,
    is_address,
    local_name,
    read_manifest_of,
    warn_incomplete,
)
from lading.verification.places import (
    ReleasePlace,
    check_origin,
    check_place_name,
    describe_place,
    place_manifest_path,
    places_path,
    read_places,
    stem_of,
    write_places,
)


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="copy",
        description="Copy the objects of a manifest to a second place, and verify them at both ends.",
        codes=OF_A_TRANSFER,
    )
    parser.add_argument("--to", required=True, metavar="PLACE", help="s3://…, gs://…, az://… or a directory")
    parser.add_argument("--name", metavar="NAME", help="what the place is called (the bucket's or directory's name)")
    add_manifest_arguments(parser)
    parser.add_argument(
        "--to-endpoint-url", metavar="URL|aws", help="server of the second place (default: that of the manifest)"
    )
    parser.add_argument("--to-profile", metavar="NAME", help="AWS profile whose credentials write to the second place")
    add_writing_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace other objects at the second place")
    parser.add_argument("--max-workers", type=parse_workers, default=16, metavar="N", help="objects in flight")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Copy; returns the exit code of docs/reference/formats.md."""
    with leave_hanging():
        return _main(make_parser().parse_args(argv))


@dataclass(frozen=True)
class CopyRequest:
    """What a command line asks for: the manifest, where it is kept here, the second place and its server."""

    manifest: Manifest
    local: Path
    name: str
    url: str
    bucket: str
    prefix: str
    endpoint: str | None
    source_endpoint: str | None


def _main(arguments: argparse.Namespace) -> int:
    configure_logging()
    started = time.monotonic()
    request = read_request(arguments)
    source = open_place(request.manifest.header, arguments)
    journal = copy_log_path(request.local, request.name)
    with (
        tempfile.TemporaryDirectory(prefix="lading-copy-") as scratch,
        open_copy_log(journal, Path(scratch)) as log,
        Progress("copy") as progress,
    ):
        log.check(describe_copy(request))
        destination = open_writing(arguments, place_header(request), source, log)
        path = place_manifest_path(request.local, request.name)
        before = read_manifest(path) if path.exists() else None
        settings = CopySettings(arguments.max_workers, arguments.overwrite)
        run = CopyRun(request.manifest, source, destination, log, before, settings, Path(scratch))
        try:
            run.copy(progress)
            end = run.write_place_manifest(path, place_header(request))
        finally:
            run.close()
        record_place(request, path, end)
        log.restart(describe_copy(request))
    seconds = time.monotonic() - started
    report(request, destination, run.counters, end, seconds, as_json=arguments.json)
    return conclude(run.counters)


def read_request(arguments: argparse.Namespace) -> CopyRequest:
    """Return what is asked for; ``UsageError`` for a place that cannot be one."""
    url, bucket, prefix = parse_place(arguments.to)
    manifest = read_manifest_of(arguments.manifest, arguments)
    warn_incomplete(manifest, "not copied")
    local = local_name(arguments.manifest)
    if is_address(arguments.manifest):
        print(f"note: the manifest of the second place is written here, as {local.stem}…", file=sys.stderr)
    header = manifest.header
    source = resolve_endpoint(arguments.endpoint_url or header.endpoint)
    endpoint = read_endpoint(arguments.to_endpoint_url, source if is_s3(url) else None)
    if is_s3(url):
        check_apart(header, source, KeyPrefix(bucket, prefix), endpoint)
    name = check_place_name(arguments.name or bucket or Path(url).name)
    if not (is_s3(url) and is_s3(describe_place(header))):
        check_outside(header, url, is_known=copy_log_path(local, name).exists())
    check_origin(local, header)
    known = next((one for one in read_places(local) if one.name == name), None)
    if known is not None and (known.url, known.endpoint) != (url, endpoint):
        raise UsageError(f"{places_path(local)} has another place of the name {name}: {known.url}; give --name")
    return CopyRequest(manifest, local, name, url, bucket, prefix, endpoint, source)


def parse_place(text: str) -> tuple[str, str, str]:
    """Return the address of a place in full, its bucket or container ("" of a directory), and the prefix below it."""
    if is_s3(text):
        place = parse_key_prefix(text)
        return str(place), place.bucket, place.prefix
    if text.startswith(CLOUDS):
        require(["obstore"])
        from lading.objectstore.cloud_store import parse_cloud_place

        cloud = parse_cloud_place(text)
        return str(cloud), cloud.bucket, cloud.prefix
    if "://" in text:
        raise UsageError(f"{text!r} is not a place; write it like s3://bucket/prefix, gs://…, az://… or a directory")
    return os.path.abspath(text), "", ""


def read_endpoint(given: str | None, source: str | None) -> str | None:
    """Return the server of the second place: the one that was given, else that of the first."""
    if given is None:
        return source
    if given == "aws":
        return None
    check_endpoint(given)
    return given


def check_apart(header: ManifestHeader, source: str | None, place: KeyPrefix, endpoint: str | None) -> None:
    """Refuse a second place that is in the first one, or holds it."""
    if server_of(source) != server_of(endpoint) or header.bucket != place.bucket:
        return
    if place.prefix.startswith(header.prefix) or header.prefix.startswith(place.prefix):
        first = KeyPrefix(header.bucket, header.prefix)
        said = "is the release itself" if place == first else f"and the release {first} are one inside the other"
        raise UsageError(f"{place} {said}; give another bucket, or a prefix beside it")


def check_outside(header: ManifestHeader, url: str, *, is_known: bool) -> None:
    """Refuse a place that is the first one, lies in it or holds it; and a directory that does so with the source.

    ``is_known``: a copy to this place was begun, which its log says. It was found apart then. On another machine
    the source's path may be that of the copy.
    """
    first = describe_place(header)
    if not is_s3(first) and overlaps(first, url):
        raise UsageError(f"{url} and the place {first} that is copied are one, or one inside the other; give another")
    root = header.root
    if is_known or "://" in url or not os.path.isabs(root) or not overlaps(root, url):
        return
    try:
        is_source = any(True for _ in os.scandir(root))
    except OSError:
        return  # not here: the manifest came from another machine
    if is_source:
        raise UsageError(
            f"{url} and the release's source {root} are one, or one inside the other, so a copy there would become "
            "part of the release, or the release itself; give a directory elsewhere"
        )


def overlaps(one: str, other: str) -> bool:
    """Tell whether two places are one, or one is inside the other."""
    both = [place if "://" in place else os.path.realpath(place) for place in (one, other)]
    a, b = (place.rstrip("/") + "/" for place in both)
    return a.startswith(b) or b.startswith(a)


def copy_log_path(manifest: Path, name: str) -> Path:
    """Return where the log of a copy is."""
    return manifest.with_name(f"{stem_of(manifest)}.{name}.copy.jsonl")


def open_writing(
    arguments: argparse.Namespace, header: ManifestHeader, source: ReadableStore, log: CopyLog
) -> CopyDestination:
    """Return the place of a manifest, ready to be copied to from another one."""
    url = describe_place(header)
    if url.startswith(CLOUDS):
        require(["obstore"])
        from lading.copy.cloud_copy import CloudCopy
        from lading.objectstore.cloud_store import CloudStore, parse_cloud_place

        cloud = parse_cloud_place(url)
        return CloudCopy(CloudStore(cloud, header.endpoint), cloud, header.endpoint, source)
    if not is_s3(url):
        return DirectoryCopy(Path(url), source, arguments.max_workers)
    target = Target(
        header.bucket,
        header.endpoint,
        arguments.max_workers,
        manner=read_manner(arguments),
        profile=arguments.to_profile,
    )
    said: set[str] = set()

    def note(text: str) -> None:
        if text not in said:
            said.add(text)
            print(f"note: {printable(text)}", file=sys.stderr)

    one_service = isinstance(source, ObjectStore) and server_of(source.requests.endpoint) == server_of(header.endpoint)
    place = KeyPrefix(header.bucket, header.prefix)
    return BucketCopy(ObjectStore(target), place, source, log, server_side=one_service, note=note)


def describe_copy(request: CopyRequest) -> dict[str, Any]:
    """Return what a log says of the copy that it is of."""
    header = request.manifest.header
    return {"from": describe_place(header), "of": header.endpoint, "to": request.url, "endpoint": request.endpoint}


def place_header(request: CopyRequest) -> ManifestHeader:
    """Return the header of the second place's manifest."""
    header = request.manifest.header
    copied = {"from": describe_place(header), "endpoint": header.endpoint, "manifest": request.manifest.end.sha256}
    return ManifestHeader(
        request.bucket,
        request.prefix,
        request.endpoint,
        header.root,
        header.plan,
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        {"copy": copied} | ({} if is_s3(request.url) else {"place": {"url": request.url}}),
    )


def record_place(request: CopyRequest, path: Path, end: ManifestEnd) -> None:
    """Write the place into the list beside the manifest."""
    place = ReleasePlace(
        request.name,
        request.url,
        request.endpoint,
        path.name,
        request.manifest.end.sha256,
        end.sha256,
        end.objects,
        end.bytes,
        end.complete,
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    others = [one for one in read_places(request.local) if one.name != request.name]
    write_places(request.local, request.manifest.header, [*others, place])


def report(
    request: CopyRequest,
    destination: CopyDestination,
    count: CopyCounters,
    end: ManifestEnd,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    """Print what was done, and notes."""
    total = request.manifest.end.objects
    if as_json:
        numbers = {
            name: getattr(count, name)
            for name in ("copied", "bytes", "streamed", "older", "present", "source", "refused", "unfit", "failed")
        }
        said = {"place": request.name, "url": request.url, "manifest": end.sha256, "verified": end.objects}
        more = {
            "extra": count.extra,
            "kept": count.kept,
            "without_digest": count.unproven,
            "lacking": count.lacking,
            "named": count.named,
            "seconds": round(seconds, 3),
        }
        print(json.dumps({"format": 1, "kind": "copy", **said, **numbers, **more}), flush=True)
        return
    print(
        f"copy  {counted(count.copied, 'object')} copied {destination.describe()}, {format_bytes(count.bytes)}, in "
        f"{format_seconds(seconds)}; {format_count(count.present)} were there; {format_count(end.objects)} of "
        f"{format_count(total)} are verified at {printable(request.url)}"
    )
    notes = [
        counted(number, f"object lost its {name}", f"objects lost their {name}")
        for name, number in sorted(count.lacking.items())
    ]
    if count.older:
        notes.append(
            f"{counted(count.older, 'object was', 'objects were')} copied from the recorded version, not "
            f"the current one"
        )
    if count.unproven:
        notes.append(
            f"{counted(count.unproven, 'object was', 'objects were')} copied, but the manifest has no digest of them"
        )
    if count.kept:
        names = ", ".join(map(printable, count.named.get("kept", [])[:5]))
        notes.append(
            f"{counted(count.kept, 'object')} withdrawn at the first place {'is' if count.kept == 1 else 'are'} there "
            f"still: {names}; delete with: lading withdraw LIST --place {request.name}"
        )
    if others := count.extra - count.kept:
        kept = set(count.named.get("kept", []))
        names = ", ".join(printable(key) for key in count.named.get("extra", []) if key not in kept)
        number = counted(others, "object there is", "objects there are")
        notes.append(f"{number} not in the manifest{': ' if names else ''}{names}")
    for note in notes:
        print(f"note: {note}")
    with suppress(OSError):
        sys.stdout.flush()


def conclude(count: CopyCounters) -> int:
    """Return 0 when all is there; raises with counts and the first names of what is not."""
    wrong = []
    if count.source:
        wrong.append(count.describe_kind("source", "not as recorded at the first place"))
    if count.refused:
        wrong.append(count.describe_kind("refused", "other objects at the second place"))
    failed = [count.describe_kind("failed", "not copied")] if count.failed else []
    unfit = []
    if count.unfit:
        advice = "not copied, and never will be, since a directory cannot hold such names (copy to a bucket)"
        unfit = [count.describe_kind("unfit", advice)]
    if wrong:
        advice = "not all was copied; see lading repair for damaged objects, and --overwrite for others"
        raise ConsistencyError("\n".join([advice, *wrong, *unfit, *failed]))
    if failed:
        raise PartialFailure("\n".join(["not all was copied; run the same command again", *failed, *unfit]))
    if unfit:
        raise PartialFailure("\n".join(["not all was copied", *unfit]))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
