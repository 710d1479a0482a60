"""``lading import dandi://INSTANCE``: a directory of manifests, a dataset for each dandiset and Zarr store.

Input: the settings of the mirror, whose keys mean here what they mean there.
Output: the directory; exit 0, or 3 when something was not taken.
Invariant: one import at a time works on a directory; another one ends with 75.
"""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lading.coordination.kernel_lock import read_holder, sign, try_lock
from lading.core.errors import LockHeldError, PartialFailure, UsageError
from lading.core.extras import require
from lading.core.progress import counted
from lading.core.safe_streams import printable
from lading.mirror.importers.dandi_api import INSTANCES, DandiApi, api_address, is_identifier
from lading.mirror.importers.dandi_assets import ContentRule
from lading.mirror.importers.dandi_import import DandiImport, DandiRequest, DandiSummary, utc
from lading.mirror.importers.dandi_zarr import ZarrEntries
from lading.mirror.web_api import WebApi
from lading.objectstore.client import open_for_reading
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.manner import read_manner
from lading.objectstore.target import Target
from lading.verification.manifest import ManifestHeader

if TYPE_CHECKING:
    from lading.mirror.config import Config

SCHEMES = ("dandi://", "dandi+https://", "dandi+http://")
KEY = "DANDI_API_KEY"
BUCKET = "dandiarchive"
_MOST_SHOWN = 200


def add_dandi_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only a DANDI instance has."""
    parser.add_argument("-c", "--config", type=Path, help="for dandi://: settings of the mirror (YAML)")
    parser.add_argument("--asset-filter", help="for dandi://: only assets whose path this regular expression finds")
    parser.add_argument(
        "--mode", choices=("timestamp", "force", "verify"), help="for dandi://: which dandisets are read"
    )
    parser.add_argument(
        "--zarr-mode",
        choices=("timestamp", "checksum", "asset-checksum", "force"),
        help="for dandi://: which Zarr stores are read",
    )
    parser.add_argument("--access", choices=("public", "private"), help="for dandi://: open or embargoed dandisets")
    parser.add_argument(
        "--versions", action="store_true", help="for dandi://: ask the bucket for each object's version"
    )
    parser.add_argument("--zarr-manifests", metavar="URL", help="for dandi://: where manifests of Zarr stores are")


def import_dandi(arguments: argparse.Namespace) -> int:
    """Import an instance, or dandisets of it; returns the exit code."""
    require(["mirror"])
    config = _settings(arguments)
    instance, only = _parse(arguments.source or f"dandi://{config.dandi_instance}")
    private = config.access == "private"
    key = os.environ.get(KEY) or None
    if private and key is None:
        raise UsageError(f"access private needs the archive's key of a person who may read it: set {KEY}")
    endpoint = resolve_endpoint(config.s3endpoint or arguments.endpoint_url)
    bucket = config.s3bucket or BUCKET
    directory = arguments.output or Path("manifests")
    with _lock(directory):
        summary = DandiImport(
            DandiApi(api_address(instance), key),
            store := open_for_reading(Target(bucket, endpoint, manner=read_manner(arguments))),
            ZarrEntries(
                store, WebApi(arguments.zarr_manifests, {}, secret=False) if arguments.zarr_manifests else None
            ),
            DandiRequest(
                directory,
                only,
                ContentRule(bucket, endpoint, _pattern(config.content_url_regex), _pattern(config.asset_filter)),
                ManifestHeader(bucket, "", endpoint, "", "0" * 64, "", {"import": instance, "access": config.access}),
                access=config.access,
                accept=arguments.accept,
                mode=config.mode,
                zarr_mode=config.zarr_mode,
                workers=config.workers,
                since=utc_or_none(arguments.since),
                versions=arguments.versions or private,
                tags=config.enable_tags,
            ),
            lambda text: print(printable(text), flush=True),
        ).run()
    return _tell(summary, directory, config.access)


def _settings(arguments: argparse.Namespace) -> "Config":
    from lading.mirror.config import load_config

    names = ("asset_filter", "mode", "zarr_mode", "access")
    return load_config(arguments.config, {name: getattr(arguments, name) for name in names})


def _parse(source: str) -> tuple[str, tuple[str, ...]]:
    """Return the instance and the dandisets that a source names."""
    if source.startswith("dandi+"):
        return source.removeprefix("dandi+"), ()
    instance, *rest = source.removeprefix("dandi://").rstrip("/").split("/")
    only = tuple(name for part in rest for name in part.split(","))
    wrong = [name for name in only if not is_identifier(name)]
    if instance not in INSTANCES or wrong:
        raise UsageError(
            f"{source} is not a DANDI source; write dandi://INSTANCE or dandi://INSTANCE/000003,000004 with one of "
            f"{', '.join(INSTANCES)}, or dandi+https://host/api"
        )
    return instance, only


def _pattern(text: str | None) -> "re.Pattern[str] | None":
    return re.compile(text) if text else None


def utc_or_none(text: str | None) -> str | None:
    """Return a time that a flag gives; ``UsageError`` when it is none."""
    try:
        return utc(text) if text else None
    except ValueError:
        raise UsageError(f"--since {text!r} is not a time; write it like 2026-11-28T12:00:00Z") from None


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    with open(path, "a+", encoding="utf-8") as stream:
        if not try_lock(stream, posix=True):
            holder = read_holder(path)
            raise LockHeldError(
                f"another import works on {directory}: {holder if holder.pid else 'it just began'}; this one did "
                "nothing; wait for it, then run the same command again"
            )
        with sign(stream):
            yield


def _tell(summary: DandiSummary, directory: Path, access: str) -> int:
    other = f", {summary.others:,} {'embargoed' if access == 'public' else 'open'} left out" if summary.others else ""
    print(
        f"{counted(summary.dandisets, 'dandiset')}{other}; {len(summary.changed):,} changed, "
        f"{len(summary.removed):,} removed, "
        f"{counted(len(summary.failed), 'failure')}; {directory}"
    )
    if summary.failed:
        lines = [printable(f"{name}: {reason}") for name, reason in sorted(summary.failed.items())]
        more = [f"and {len(lines) - _MOST_SHOWN:,} more"] if len(lines) > _MOST_SHOWN else []
        raise PartialFailure(
            "\n".join([*lines[:_MOST_SHOWN], *more, "the rest was imported; run the same command again"])
        )
    return os.EX_OK
