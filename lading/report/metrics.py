"""What releases are at, as Prometheus reads it: a file for node exporter's textfile collector, or an answer.

Input: ``FleetStatus``. Output: samples; their text, valid as OpenMetrics 1.0 and as the older text format alike.
Invariant: gauges alone, without time stamps: node exporter takes the older format, and counters have two spellings.
What is not known is left out, never 0. Moments are Unix times: an age goes on growing when nothing writes any more.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lading.core.atomic import atomic_write
from lading.core.errors import UsageError
from lading.journal.stage_result import StageResult
from lading.report.fleet import FleetRow, FleetStatus

if TYPE_CHECKING:  # the library is an extra: loaded where metrics are made
    from prometheus_client.core import Metric as Metric

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
# Node exporter passes over files of any other name.
SUFFIX = ".prom"

Number = float | int | None
# Of a release: the name of a metric → what it says, and where a row has it.
OF_RELEASE: dict[str, tuple[str, Callable[[FleetRow], Number]]] = {
    "release_exit_code": (
        "0 all well, 3 something failed, 4 a difference, 5 something is late",
        lambda row: row.exit_code,
    ),
    "release_objects": ("Objects of the plan.", lambda row: row.objects),
    "release_bytes": ("Bytes of the plan.", lambda row: row.bytes),
    "release_left_objects": ("Objects of the plan that are not in the bucket yet.", lambda row: row.objects_left),
    "release_left_bytes": ("Bytes of the plan that are not in the bucket yet.", lambda row: row.bytes_left),
    "release_rate_bytes_per_second": ("Rate of the upload that runs, or of the last one.", lambda row: row.rate),
    "release_remaining_seconds": ("What the rest takes at this rate.", lambda row: row.eta),
    "release_oldest_proof_timestamp_seconds": (
        "When the bytes were read that were read longest ago.",
        lambda row: row.oldest_proof,
    ),
    "release_never_read_bytes": (
        "Bytes that no scrub has read yet.",
        lambda row: row.never_read if "scrub" in row.stages else None,
    ),
    "release_mirrored_timestamp_seconds": ("When the mirror was brought up to date last.", lambda row: row.mirrored),
    "release_locked_timestamp_seconds": (
        "Since when a run holds the lock; left out while it is free.",
        lambda row: row.lock.since if row.lock else None,
    ),
}
# Of a stage: the last run, and what of earlier ones still matters.
OF_STAGE: dict[str, tuple[str, Callable[[StageResult], Number]]] = {
    "stage_exit_code": ("Exit code of the last run.", lambda stage: stage.exit),
    "stage_duration_seconds": ("How long the last run took.", lambda stage: _duration(stage)),
    "stage_ended_timestamp_seconds": ("When the last run ended.", lambda stage: stage.ended),
    "stage_success_timestamp_seconds": ("When a run succeeded last.", lambda stage: stage.succeeded),
    "stage_failure_timestamp_seconds": (
        "When a run failed last.",
        lambda stage: stage.failed.at if stage.failed else None,
    ),
    "stage_refused_timestamp_seconds": (
        "When a run found the lock taken last.",
        lambda stage: stage.refused.at if stage.refused else None,
    ),
    "stage_sent_objects": ("Objects that the last run sent.", lambda stage: stage.counts.get("sent")),
    "stage_sent_bytes": ("Bytes that the last run sent.", lambda stage: _of("upload", stage, "bytes")),
    "stage_read_bytes": ("Bytes that the last run read back.", lambda stage: _of("scrub", stage, "bytes")),
    "stage_verified_objects": ("Objects that the last run verified.", lambda stage: stage.counts.get("verified")),
    "stage_failed_objects": (
        "Objects that the last run gave up, or found missing, different or unreadable.",
        lambda stage: _wrong(stage),
    ),
    "stage_retries": ("Requests that the last run tried again.", lambda stage: stage.counts.get("retries")),
}
_WRONG = ("failed", "missing", "different", "unreadable", "wrong")


def _duration(stage: StageResult) -> Number:
    return stage.ended - stage.began if stage.ended is not None and stage.began is not None else None


def _of(name: str, stage: StageResult, count: str) -> Number:
    return stage.counts.get(count) if stage.stage == name else None


def _wrong(stage: StageResult) -> Number:
    found = [stage.counts[name] for name in _WRONG if name in stage.counts]
    return sum(found) if found else None


def label(text: str) -> str:
    """Return a text as a label's value: a byte that is not UTF-8 is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def fleet_families(status: FleetStatus) -> "Iterator[Metric]":
    """Yield the metrics of a fleet, each with the samples of all its releases."""
    yield gauge("fleet_seen_timestamp_seconds", "When the releases were looked at.", [((), status.at)])
    yield gauge("fleet_look_seconds", "How long looking at all releases took.", [((), status.seconds)])
    yield gauge("fleet_faults", "Errors in the list of releases.", [((), len(status.faults))])
    counts = (((state,), count) for state, count in status.counts().items())
    yield gauge("releases", "Releases by state, each by the worst of its problems.", counts, "state")
    names = [label(row.name) for row in status.rows]
    rows = list(zip(names, status.rows, strict=True))
    about = (((name, label(row.bucket), row.stage or "none"), 1) for name, row in rows)
    yield gauge("release_info", "Where a release goes, and the first stage that is not done.", about, *_INFO)
    for name, (text, value) in OF_RELEASE.items():
        yield gauge(name, text, (((owner,), value(row)) for owner, row in rows), "release")
    stages = [((owner, stage), found) for owner, row in rows for stage, found in row.stages.items()]
    for name, (text, take) in OF_STAGE.items():
        yield gauge(name, text, ((labels, take(found)) for labels, found in stages), "release", "stage")


_INFO = ("release", "bucket", "stage")


def gauge(name: str, text: str, samples: Iterable[tuple[tuple[str, ...], Number]], *labels: str) -> "Metric":
    """Return one metric with its samples; what is None is left out."""
    from prometheus_client.core import GaugeMetricFamily

    found = GaugeMetricFamily(f"lading_{name}", text.rstrip("."), labels=labels)
    for values, number in samples:
        if number is not None:
            found.add_metric(values, float(number))
    return found


class _Given:
    """What the library asks for metrics."""

    def __init__(self, families: "Iterable[Metric]") -> None:
        self._families = families

    def collect(self) -> "Iterable[Metric]":
        """Return the metrics that were given."""
        return self._families


def render_metrics(families: "Iterable[Metric]") -> bytes:
    """Return metrics as text."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    given: Any = _Given([family for family in families if family.samples])
    registry.register(given)
    render: Callable[[CollectorRegistry], bytes] = generate_latest  # its own hints are half there
    return render(registry)


def write_metrics(status: FleetStatus, path: Path) -> None:
    """Replace a file of node exporter's textfile collector; ``UsageError`` for a name that it would not read."""
    if path.suffix != SUFFIX:
        raise UsageError(
            f"{path} does not end in {SUFFIX}, so node exporter would not read it; name it like lading{SUFFIX}"
        )
    with atomic_write(path, "wb", sweep=True) as stream:
        stream.write(render_metrics(fleet_families(status)))


def content_type(accept: str) -> str:
    """Return how the text is to be called for who asks: it is valid as either."""
    return OPEN_METRICS if "application/openmetrics-text" in accept else PLAIN
