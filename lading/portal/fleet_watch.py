"""The releases that a portal shows beside its jobs.

Input: a list of releases, or a directory of them; jobs. Output: ``FleetStatus``, lines of the page, metrics.
Invariant: folders are looked at when somebody asks, at most once in ``LOOK_SECONDS``; meanwhile all get the last look.
A list with errors is a status that says so.
"""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.errors import LadingError
from lading.fleet.fleet_run import look_at
from lading.portal.service import PortalService
from lading.portal.store import CANCELLED, FAILED, QUEUED, RUNNING, STATES, SUCCESS, Filter, StoredJob
from lading.report import fleet
from lading.report.fleet import FleetStatus, format_age
from lading.report.fleet_page import FleetLine
from lading.report.metrics import gauge
from lading.report.release_list import read_releases

if TYPE_CHECKING:
    from lading.report.metrics import Metric

LOOK_SECONDS = 20.0
# Of the portal's jobs: the newest in each state that are shown beside the releases.
MOST_JOBS = 200
# What a job's state is among releases.
_STATES = {
    QUEUED: fleet.RUNNING, RUNNING: fleet.RUNNING, SUCCESS: fleet.WELL, FAILED: fleet.FAILED, CANCELLED: fleet.NEW,
}  # fmt: skip


class FleetWatch:
    """The last look at the releases of a list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._looking = threading.Lock()
        self._status: FleetStatus | None = None
        self._until = 0.0
        self.logs: Path | None = None  # where the fleet keeps what stages said

    def status(self) -> FleetStatus:
        """Return the status, of a new look where the last one is old."""
        last = self._status
        if last is not None and (time.monotonic() < self._until or self._looking.locked()):
            return last
        with self._looking:
            if self._status is None or time.monotonic() >= self._until:
                self._status = self._look()
                self._until = time.monotonic() + LOOK_SECONDS
            return self._status

    def _look(self) -> FleetStatus:
        try:
            settings = read_releases(self.path)
            self.logs = settings.logs
            return look_at(settings)
        except LadingError as error:
            return FleetStatus((), time.time(), faults=tuple(str(error).splitlines()))


def job_lines(service: PortalService, now: float) -> Iterator[FleetLine]:
    """Yield the portal's jobs as lines of the page of releases, the newest of each state."""
    for state in STATES:
        for job in service.store.select(Filter(states=(state,)), 0, MOST_JOBS)[1]:
            yield _line(job, service.current_task(job), now)


def _line(job: StoredJob, task: str, now: float) -> FleetLine:
    ended = datetime.fromisoformat(job.ended).timestamp() if job.ended else None
    state = _STATES[job.state]
    success = ended if job.state == SUCCESS else None
    at = f"{success:.0f}" if success else "-1"
    return FleetLine(
        "job",
        job.prefix,
        f"/job_tasks_table?dag_run_id={job.id}",
        state,
        job.state,
        task,
        success=format_age(success, now) if success else "",
        sentence="" if job.comment == job.state else job.comment,
        keys=f"{fleet.STATES.index(state)},-1,-1,-1,{at},-1,-1",
    )


def job_families(service: PortalService) -> "Iterator[Metric]":
    """Yield the metrics of the portal's jobs."""
    found = service.store.summarise()
    counts = (((state,), count) for state, count in found.counts.items())
    yield gauge("portal_jobs", "Jobs of the portal by state.", counts, "state")
    yield gauge("portal_retries", "How often jobs of the portal were queued again.", [((), found.retries)])
    for name, text, at in (
        ("queued", "When the oldest queued job was submitted.", found.oldest_queued),
        ("success", "When a job succeeded last.", found.last_success),
    ):
        moment = datetime.fromisoformat(at).timestamp() if at else None
        yield gauge(f"portal_{name}_timestamp_seconds", text, [((), moment)])
