"""``python3 -m lading mirror``: the mirror's command line.

Input: settings, a manifest, a verb. Output: the verb's work and one line on
what it did.
Invariant: exit 0 only when every dataset is as it should be; 3 lists those
that are not; 75 when another run holds the mirror.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.command_line import Parser, configure_logging, parse_workers, printable, run_main
from lading.core.errors import ConsistencyError, PartialFailure, UsageError
from lading.core.exit_codes import OF_A_TRANSFER
from lading.core.progress import counted
from lading.mirror.last_run import LastRun, input_digest, nothing_to_do, request_of, software, write_note

if TYPE_CHECKING:
    from lading.mirror.config import Config
    from lading.mirror.layout import MirrorLayout
    from lading.mirror.source import ManifestSource
    from lading.mirror.update import Summary

ADDRESSES = ("s3://", "https://", "http://")  # as in manifest_address.py, which loads more than such a run needs
# Verbs import what they need: an hourly run that changes nothing loads no more than the note and the manifest.


def _parser() -> Parser:
    parser = Parser(
        prog="python3 -m lading mirror",
        description="Write and check DataLad datasets of a manifest.",
        codes=OF_A_TRANSFER,
    )
    parser.add_argument("-c", "--config", type=Path, help="settings (YAML); docs/reference/mirror.md lists them")
    parser.add_argument("-B", "--backup-root", help="directory that holds the stores")
    parser.add_argument("-J", "--jobs", type=parse_workers, help="parallel git-annex jobs")
    parser.add_argument("-l", "--log-level", default="WARNING", help="DEBUG, INFO, WARNING or ERROR")
    parser.add_argument("-m", "--manifest", help="or a directory of manifests, or an address; default: see settings")
    parser.add_argument("--store", help="one store for all datasets, below the backup root, if there are no settings")
    parser.add_argument("--s3endpoint", help="endpoint that clones use, if not the manifest's")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    update = verbs.add_parser("update", aliases=["update-from-backup"], help="update the mirror to the manifest")
    _shared(update)
    update.add_argument(
        "--tags", action=argparse.BooleanOptionalAction, default=None, dest="enable_tags", help="tag new versions"
    )
    update.add_argument("--push", action="store_true", help="then push to the hosts of the settings")

    zarrs = verbs.add_parser("create-zarrs", aliases=["backup-zarrs"], help="make the Zarr datasets, empty")
    zarrs.add_argument("-w", "--workers", type=parse_workers, help="datasets worked on at a time")
    metadata = verbs.add_parser(
        "update-metadata", aliases=["update-github-metadata"], help="set descriptions, homepages and topics on hosts"
    )
    metadata.set_defaults(workers=None)
    verbs.add_parser("push", help="push every dataset to the hosts of the settings")
    release = verbs.add_parser("release", help="tag the superdataset and what it pins")
    release.add_argument("version", help="name of the tag")
    release.add_argument("--commitish", help="commit of the superdataset; default: main")
    release.add_argument("--push", action=argparse.BooleanOptionalAction, default=False, help="push the tags")
    for name, what in (("populate", "files"), ("populate-zarrs", "Zarr chunks")):
        populate = verbs.add_parser(name, help=f"copy {what} to the special remote of the settings")
        populate.add_argument("-w", "--workers", type=parse_workers, help="datasets worked on at a time")
        populate.add_argument(
            "--check", action="store_true", help="ask the remote what it has, and do not trust records"
        )
    checksum = verbs.add_parser("zarr-checksum", help="print the Zarr checksum of a mirrored store")
    checksum.add_argument("path", help="path of the store in the manifest, or of its repository")
    verify = verbs.add_parser("verify", help="check every dataset against the manifest; changes nothing")
    verify.add_argument(
        "--fsck", type=parse_workers, metavar="N", help="also fetch N files, drawn by lot, by git-annex"
    )
    verify.add_argument("--seed", default="", help="what the lot is drawn by; default: the day")
    report = verbs.add_parser("report", help="write a page on all datasets: size, age, last change, failures")
    report.add_argument("-o", "--output", type=Path, default=Path("mirror.html"), help="the page (mirror.html)")
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-w", "--workers", type=parse_workers, help="datasets worked on at a time")
    parser.add_argument("--mode", choices=("timestamp", "force", "verify"), help="which datasets are compared")
    parser.add_argument(
        "--zarr-mode",
        choices=("timestamp", "checksum", "asset-checksum", "force"),
        help="which Zarr stores are compared",
    )
    parser.add_argument("-e", "--asset-filter", help="only paths that match this regular expression")
    parser.add_argument("--force", choices=("assets-update",), help="compare every dataset")
    parser.add_argument(
        "--gc-assets", action=argparse.BooleanOptionalAction, default=None, help="remove more than max_removed allows"
    )


_OVERRIDES = (
    *("backup_root", "s3endpoint", "jobs", "workers", "mode", "zarr_mode"),
    *("asset_filter", "force", "gc_assets", "enable_tags"),
)


def _load(arguments: argparse.Namespace) -> "tuple[Config, Path]":
    from lading.mirror.config import load_config

    overrides = {name: getattr(arguments, name, None) for name in _OVERRIDES}
    if arguments.store:
        overrides["datasets"] = overrides["zarrs"] = {"path": arguments.store}
    config = load_config(arguments.config, overrides)
    return config, _locate(arguments, arguments.manifest or config.manifest)


def _locate(arguments: argparse.Namespace, where: str) -> Path:
    """Return where the manifest, or the directory of manifests, is: of an address a copy, fetched once."""
    if not where.startswith(ADDRESSES):
        return Path(where)
    if arguments.fetched is None:
        from lading.verification.manifest_address import fetch_manifest

        arguments.fetched = fetch_manifest(where)
    return Path(arguments.fetched.path)


def _say(text: str) -> None:
    print(printable(text), flush=True)


def _fail(failed: dict[str, str], what: str) -> None:
    """Raise ``PartialFailure`` that lists every failed dataset, if there is one."""
    if failed:
        listed = "\n".join(f"{path or 'superdataset'}: {reason}" for path, reason in sorted(failed.items()))
        raise PartialFailure(f"{listed}\n{counted(len(failed), 'dataset')} {what}; run again")


def _layout(arguments: argparse.Namespace, *, prepare: bool = True) -> "tuple[MirrorLayout, ManifestSource]":
    from lading.mirror.git.commands import require_programs
    from lading.mirror.known_manifests import KnownManifests
    from lading.mirror.layout import MirrorLayout, known_file
    from lading.mirror.source import read_source

    config, path = _load(arguments)
    known = KnownManifests(known_file(config) if path.is_dir() else None)
    source = read_source(path, config.s3bucket, config.s3endpoint, known)
    require_programs()
    layout = MirrorLayout(config, source.header)
    if prepare:
        layout.prepare()
        known.save()
    else:
        layout.check_store()
    return layout, source


def _update(arguments: argparse.Namespace) -> int:
    store = nothing_to_do(arguments)
    if store:
        _say(f"nothing changed; ria+file://{store}#~super")
        return os.EX_OK
    from lading.mirror.comparison import compare
    from lading.mirror.known_failures import note_failures
    from lading.mirror.release import release
    from lading.mirror.update import Update

    # Both before they are used: a file replaced meanwhile makes the note useless, never wrong.
    request = request_of(arguments)
    _, path = _load(arguments)
    digest = input_digest(path) if path.exists() else ""
    layout, source = _layout(arguments)
    config = layout.config
    with layout.lock():
        run = Update(compare(layout, source), _say)
        summary = run.run()
        note_failures(layout.failures_file, summary.failed)
        note_failures(layout.lost_file, summary.lost)
        _tell(summary)
        done = False
        try:
            _fail(summary.failed, "failed and keep their old state")
            if config.version and config.enable_tags:
                release(layout, config.version, None)
            if arguments.push:
                _push(layout)
            done = input_digest(path) == digest
        finally:
            note = LastRun(request, software(), digest if done else "", arguments.push, run.refs())
            write_note(layout.done_file, note)
    return os.EX_OK


def _tell(summary: "Summary") -> None:
    if not summary.moved:
        _say(f"nothing changed; {summary.address}")
        return
    names = [path for path in summary.changed if path]
    _say(
        f"{counted(len(names), 'dataset')} updated, {summary.unchanged:,} unchanged, {len(summary.removed):,} removed; "
        f"{summary.total()}"
        + (f"; {counted(summary.tagged, 'version')} tagged" if summary.tagged else "")
        + (f"; {counted(len(summary.lost), 'version')} cannot be tagged" if summary.lost else "")
    )
    _say(f"datalad clone '{summary.address}'")


def _push(layout: "MirrorLayout") -> None:
    from lading.mirror.hosts.host_accounts import host_accounts
    from lading.mirror.push import archive_vanished, push_all

    accounts = host_accounts(layout)
    failed = push_all(layout, accounts, _say)
    if accounts and layout.config.archive_vanished:
        failed |= archive_vanished(layout, accounts, _say)
    _fail(failed, "were not pushed")


def _push_verb(arguments: argparse.Namespace) -> int:
    layout, _ = _layout(arguments)
    with layout.lock():
        _push(layout)
    return os.EX_OK


def _create_zarrs(arguments: argparse.Namespace) -> int:
    from lading.mirror.structure import Rule, lay_out
    from lading.mirror.superdataset import read_records

    layout, source = _layout(arguments)
    filtered = layout.config.asset_filter is not None
    rule = Rule(layout.config.split_by, None, lambda path: not filtered and source.covers(path))
    structure = lay_out(source, read_records(layout.dataset("super", "")).datasets, rule)
    roots = sorted(path for path, kind in structure.kinds.items() if kind == "zarr")
    if roots and layout.config.zarrs is None:
        raise UsageError("the settings have no zarrs; add zarrs: {path: …}")
    with layout.lock():
        for path in roots:
            layout.create(layout.dataset("zarr", path))
    _say(f"{counted(len(roots), 'Zarr dataset')} in {layout.store('zarr') if roots else layout.store('super')}")
    return os.EX_OK


def _update_metadata(arguments: argparse.Namespace) -> int:
    from lading.mirror.descriptions import describe_all
    from lading.mirror.hosts.host_accounts import host_accounts
    from lading.mirror.push import everything

    layout, source = _layout(arguments)
    accounts = host_accounts(layout)
    if not accounts:
        raise UsageError("the settings have no github_org and no hosts, so there is nothing to describe")
    everything(layout)
    _fail(describe_all(layout, source, accounts, _say), "were not described")
    return os.EX_OK


def _release(arguments: argparse.Namespace) -> int:
    from lading.mirror.hosts.host_accounts import host_accounts
    from lading.mirror.release import release

    layout, _ = _layout(arguments)
    with layout.lock():
        tagged = release(layout, arguments.version, arguments.commitish)
        _say(
            f"{arguments.version}: {counted(len(tagged), 'dataset')} tagged"
            if tagged
            else f"{arguments.version} already exists"
        )
        if arguments.push:
            _push(layout)
            superdataset = layout.dataset("super", "")
            for account in host_accounts(layout):
                account.client.release(account.org("super"), superdataset.name, arguments.version)
    return os.EX_OK


def _populate(arguments: argparse.Namespace) -> int:
    from lading.mirror.comparison import access_of
    from lading.mirror.populate import populate
    from lading.mirror.push import everything

    layout, source = _layout(arguments)
    zarrs = arguments.verb == "populate-zarrs"
    place = layout.config.zarrs if zarrs else layout.config.datasets
    if place is None or place.remote is None:
        raise UsageError(f"the settings have no {'zarrs' if zarrs else 'datasets'}.remote to copy to")
    with layout.lock():
        failed = populate(
            [dataset for dataset in everything(layout) if (dataset.kind == "zarr") == zarrs],
            place.remote,
            access_of(layout.config, source),
            jobs=layout.config.jobs,
            workers=layout.config.workers,
            fast=not arguments.check,
            report=_say,
        )
    _fail(failed, "were not copied completely")
    return os.EX_OK


def _zarr_checksum(arguments: argparse.Namespace) -> int:
    from lading.mirror.push import everything
    from lading.mirror.zarr import held_checksum

    layout, _ = _layout(arguments)
    known = [d for d in everything(layout) if d.kind == "zarr"]
    path = arguments.path.rstrip("/")
    found = [d for d in known if path in (d.path, d.id) or Path(path).absolute() == d.repository]
    if not found:
        raise UsageError(
            f"{path} is not a Zarr store of this mirror; the mirror has: {', '.join(d.path for d in known) or 'none'}"
        )
    _say(held_checksum(found[0]))
    return os.EX_OK


def _verify(arguments: argparse.Namespace) -> int:
    from lading.core.progress import format_bytes
    from lading.mirror.comparison import access_of
    from lading.mirror.fsck_sample import SampleResult, fsck_sample
    from lading.mirror.superdataset import read_records
    from lading.mirror.verify_mirror import verify

    layout, source = _layout(arguments, prepare=False)
    with layout.lock_to_read():
        findings = list(verify(layout, source, access_of(layout.config, source)))
        sample = SampleResult()
        if arguments.fsck:
            records = read_records(layout.dataset("super", "")).datasets
            seed = arguments.seed or datetime.now(UTC).date().isoformat()
            access = access_of(layout.config, source)
            findings += fsck_sample(layout, records, access, arguments.fsck, seed, sample)
    if arguments.fsck:
        _say(f"{counted(sample.files, 'file')}, {format_bytes(sample.bytes)}, fetched by git-annex and right")
    if findings:
        raise ConsistencyError("\n".join(findings))
    _say(f"the mirror agrees with the manifest: {counted(source.objects, 'file')}, {format_bytes(source.bytes)}")
    return os.EX_OK


def _report(arguments: argparse.Namespace) -> int:
    from lading.mirror.known_failures import KnownFailure, read_failures
    from lading.mirror.superdataset import read_records
    from lading.report.mirror_page import MirroredDataset, write_mirror_page

    layout, source = _layout(arguments, prepare=False)
    with layout.lock_to_read():
        records = read_records(layout.dataset("super", "")).datasets
        failed = read_failures(layout.lost_file) | read_failures(layout.failures_file)
    for name, reason in source.import_failures.items():
        failed.setdefault(name, KnownFailure(f"import: {reason}", ""))
    lines = []
    for path in sorted({*records, *failed} - {""}):
        record, failure, note = records.get(path), failed.get(path), source.notes.get(path)
        lines.append(
            MirroredDataset(
                printable(path),
                record.kind if record else "",
                record.objects if record else 0,
                record.bytes if record else 0,
                record.newest if record else "",
                record.whole if record else False,
                record.commit if record else "",
                len(note.releases) if note else 0,
                printable(failure.reason) if failure else "",
                failure.since if failure else "",
            )
        )
    write_mirror_page(arguments.output, f"Mirror of {source.header.bucket}", lines, datetime.now(UTC))
    _say(f"{counted(len(records), 'dataset')}, {counted(len(failed), 'failure')}; {arguments.output}")
    return os.EX_OK


_VERBS = {
    "update": _update,
    "update-from-backup": _update,
    "create-zarrs": _create_zarrs,
    "backup-zarrs": _create_zarrs,
    "update-metadata": _update_metadata,
    "update-github-metadata": _update_metadata,
    "push": _push_verb,
    "release": _release,
    "populate": _populate,
    "populate-zarrs": _populate,
    "zarr-checksum": _zarr_checksum,
    "verify": _verify,
    "report": _report,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = _parser().parse_args(argv)
    configure_logging(arguments.log_level)
    arguments.fetched = None
    if arguments.manifest:
        _locate(arguments, arguments.manifest)
    return _VERBS[arguments.verb](arguments)


if __name__ == "__main__":
    sys.exit(run_main(main))
