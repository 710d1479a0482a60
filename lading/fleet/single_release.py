"""The alarms and metrics of one release that runs by itself: ``make upload notify=… ping=… metrics=…``.

Input: ``LADING_NOTIFY`` (addresses, separated by spaces), ``LADING_PING`` (a URL), ``LADING_METRICS`` (a file); how a
stage ended. Output: messages on a failure and on the first success after one; pings at begin and end; the metrics.
Invariant: what does not get through is a note on stderr, and nothing else.
"""

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from lading.core import exit_codes
from lading.core.errors import LadingError
from lading.fleet.notifiers import DONE, FAIL, START, notify, ping
from lading.journal.stage_result import StageResult
from lading.report.fleet import FleetRelease, read_fleet
from lading.report.metrics import write_metrics

_NEITHER = (exit_codes.LOCKED, exit_codes.INTERRUPTED)


def tell_begin() -> None:
    """Call the watchdog's URL: the work begins."""
    if url := os.environ.get("LADING_PING"):
        _note(ping(url, START))


def tell_end(folder: Path, before: StageResult, after: StageResult, code: int, sentence: str) -> None:
    """Tell how a stage ended: who runs into another run's lock, or was interrupted, tells nobody."""
    if path := os.environ.get("LADING_METRICS"):
        _note(note_metrics(folder, Path(path)))
    if code in _NEITHER:
        return
    if url := os.environ.get("LADING_PING"):
        _note(ping(url, DONE if code == exit_codes.DONE else FAIL))
    addresses = os.environ.get("LADING_NOTIFY", "").split()
    if not addresses or (code == exit_codes.DONE and not before.failing):
        return
    name, where = folder.name, f"folder: {socket.gethostname()}:{folder}"
    if code == exit_codes.DONE:
        title, lines = f"lading: {name}: {after.stage} works again", [f"{after.stage} of {name} succeeded.", where]
    else:
        title = f"lading: {name}: {after.stage} failed"
        lines = [
            f"{after.stage} of {name} ended with exit code {code}.",
            sentence,
            where,
            f"next: lading logs {folder}",
        ]
    _note(notify(addresses, title, "\n".join(lines)))


def note_metrics(folder: Path, path: Path) -> list[str]:
    """Write the metrics of one release; returns what went wrong."""
    try:
        write_metrics(read_fleet([FleetRelease(folder.name, folder)]), path)
    except (LadingError, OSError, ImportError) as error:
        return [f"no metrics: {error}"]
    return []


def _note(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"note: {sentence}", file=sys.stderr)
