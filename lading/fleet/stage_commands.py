"""The command line of each stage of a release in the list.

Input: what the list says, the share of an upload. Output: words for a child process in the folder of the release.
Invariant: words, never a shell's text; what the list does not say, the stage's own default says.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.objectstore.rate_schedule import RateSchedule, parse_bandwidth
from lading.report.release_list import FleetFile, ReleaseEntry

_DAY_MINUTES = 1440


@dataclass(frozen=True)
class UploadShare:
    """What one of ``at_once`` uploads may take: bytes per second, files in flight; None: no bound."""

    bandwidth: RateSchedule | None = None
    workers: int | None = None


def share_of(shared: FleetFile, entry: ReleaseEntry) -> UploadShare:
    """Return the share of a release: of the fleet's, and at most its own limit."""
    whole = parse_bandwidth(shared.bandwidth).share(shared.at_once) if shared.bandwidth else None
    own = parse_bandwidth(entry.limits.bandwidth) if entry.limits.bandwidth else None
    workers = max(1, shared.workers // shared.at_once) if shared.workers else None
    if entry.limits.workers:
        workers = min(workers, entry.limits.workers) if workers else entry.limits.workers
    return UploadShare(_lower(whole, own), min(workers, 512) if workers else None)


def _lower(one: RateSchedule | None, other: RateSchedule | None) -> RateSchedule | None:
    """Return the schedule that keeps both."""
    if one is None or other is None:
        return one or other
    starts = sorted({start for schedule in (one, other) for start, _ in schedule.entries})
    return RateSchedule(
        tuple((start, min(filter(None, (one.rate(start), other.rate(start))), default=None)) for start in starts)
    )


def format_bandwidth(schedule: RateSchedule) -> str:
    """Return a schedule as ``--bandwidth`` takes it."""
    if len(schedule.entries) == 1 and schedule.entries[0][1]:
        return str(max(1000, schedule.entries[0][1]))
    return ";".join(
        f"{start // 60:02d}:{start % 60:02d},{max(1000, rate) if rate else 'off'}" for start, rate in schedule.entries
    )


def make_command(stage: str, entry: ReleaseEntry, share: UploadShare) -> list[str]:
    """Return the words that run a stage in the folder of its release."""
    return [sys.executable, "-m", "lading", stage, *_WORDS[stage](entry, share), *entry.flags.get(stage, ())]  # type: ignore[call-overload]


def _find(entry: ReleaseEntry, _: UploadShare) -> list[str]:
    return [entry.release or entry.root, "-o", "find.json"]


def _batch(entry: ReleaseEntry, _: UploadShare) -> list[str]:
    words = [entry.release or entry.root, "--file-tree", "find.json", "-o", "batch.json", "--upload-root", entry.root]
    words += ["--subdir", entry.subdir] if entry.subdir else []
    words += ["--min-batch-size", str(entry.min_batch)] if entry.min_batch else []
    words += ["--max-batch-size", str(entry.max_batch)] if entry.max_batch else []
    return [*words, *_remap(entry.remap)]


def _upload(entry: ReleaseEntry, share: UploadShare) -> list[str]:
    words = [entry.root, "--bucket", entry.place, "--batch", "batch.json", *_remap(entry.remap), *_endpoint(entry)]
    words += ["--bandwidth", format_bandwidth(share.bandwidth)] if share.bandwidth else []
    words += ["--max-workers", str(share.workers)] if share.workers else []
    return words + (["--max-time", f"{entry.limits.time:.0f}"] if entry.limits.time else [])


def _verify(entry: ReleaseEntry, _: UploadShare) -> list[str]:
    return [entry.root, "--bucket", entry.place, "--batch", "batch.json", *_remap(entry.remap), *_endpoint(entry)]


def _scrub(entry: ReleaseEntry, _: UploadShare) -> list[str]:
    words = ["--bucket", entry.place, *_endpoint(entry)]
    words += ["--period", f"{entry.scrub_period:.0f}"] if entry.scrub_period else []
    return words + (["--bytes", str(entry.scrub_bytes)] if entry.scrub_bytes else [])


def _mirror(entry: ReleaseEntry, _: UploadShare) -> list[str]:
    config = entry.mirror_config or ("mirror.yaml" if (Path(entry.folder) / "mirror.yaml").exists() else "")
    return [*(["--config", config] if config else ["--store", "mirror"]), "update"]


def _remap(rules: Mapping[str, str]) -> list[str]:
    return ["--remap", json.dumps(rules)] if rules else []


def _endpoint(entry: ReleaseEntry) -> list[str]:
    return ["--endpoint-url", entry.endpoint] if entry.endpoint else []


_WORDS = {"find": _find, "batch": _batch, "upload": _upload, "verify": _verify, "scrub": _scrub, "mirror": _mirror}
