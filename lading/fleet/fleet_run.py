"""One run over the fleet: what is due, in order, side by side within limits, here or in Slurm.

Input: the settings, which releases. Output: work done; alarms; the status after it.
Invariant: a release that fails stops no other. A signal stops everything gently, a second one at once; the same command
goes on where it was, whatever became of the run before.
"""

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lading.core import exit_codes
from lading.core.identity import this_process
from lading.core.progress import format_seconds
from lading.fleet.alarms import FleetAlarms, forget_removed, read_alarms
from lading.fleet.fleet_array import FleetArray, find_element
from lading.fleet.notifiers import DONE, FAIL, START, ping
from lading.fleet.release_worker import FleetLog, ReleaseOutcome, ReleaseWorker, read_troubles, remove_dead
from lading.fleet.schedule import due_stages
from lading.report.fleet import FleetRow, FleetStatus, read_fleet, read_row
from lading.report.release_list import FleetSettings, ReleaseEntry

LOOK = 0.2
GENTLE_SECONDS = 60.0  # from a signal to the end of children that do not end
TELL_SECONDS = 60.0  # at the end, for what is still to be told


@dataclass(frozen=True)
class FleetRunOptions:
    """``force``: all stages, due or not; ``quiet``: say nothing of what goes well; ``executor``: not as listed."""

    force: bool = False
    quiet: bool = False
    executor: str | None = None


def look_at(settings: FleetSettings, now: float | None = None) -> FleetStatus:
    """Return the status of the fleet, with what could not be noted in folders."""
    seen = read_alarms(settings.home).seen
    troubles = read_troubles(settings.home)
    releases = [
        replace(release, faults=(troubles[release.name],)) if release.name in troubles else release
        for release in settings.look(seen)
    ]
    return read_fleet(releases, now)


class AlarmThread:
    """Tells of releases as they end, beside the work: a slow notifier holds nothing up."""

    def __init__(self, alarms: FleetAlarms, look: Callable[[str], FleetRow]) -> None:
        self._alarms, self._look = alarms, look
        self._names: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="alarms", daemon=True)
        self._thread.start()

    def ended(self, name: str) -> None:
        """Tell of a release if there is something to tell."""
        self._names.put(name)

    def close(self, seconds: float = TELL_SECONDS) -> None:
        """Wait until all is told, or the time is up."""
        self._names.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        last = False
        while not last:
            names = [self._names.get()]
            while not self._names.empty():
                names.append(self._names.get_nowait())
            last = None in names
            rows = [self._look(name) for name in dict.fromkeys(names) if name is not None]
            if rows:
                self._alarms.tell(rows, time.time())


class FleetRun:
    """One run; ``run`` returns its exit code."""

    def __init__(self, settings: FleetSettings, options: FleetRunOptions, chosen: Sequence[str] = ()) -> None:
        self._settings, self._options = settings, options
        self._entries = {entry.name: entry for entry in settings.only(chosen).releases}
        settings.home.mkdir(parents=True, exist_ok=True)
        self._log = FleetLog(settings.home, this_process().writer)
        self._worker = ReleaseWorker(settings, self._log, force=options.force)
        self._alarms = FleetAlarms(settings, self._note)
        self._signals = 0
        self._stopped = 0.0

    def _note(self, sentence: str) -> None:
        print(f"note: {sentence}", file=sys.stderr, flush=True)
        self._log.note("notifier", sentence=sentence)

    def run(self) -> int:
        """Do what is due; returns the exit code of the fleet's status after it."""
        settings = self._settings
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for place in (
                *(settings.home / "slots").glob("*"),
                settings.home / "telling",
                settings.home / "submitting",
            ):
                remove_dead(place)
            self._ping(START)
            forget_removed(settings.home, (entry.name for entry in settings.releases))
            status = look_at(settings)
            self._alarms.tell(status.rows, status.at, whole=status)
            due = self.find_due(status)
            self._log.note("run", due=[entry.name for entry in due], releases=len(status.rows))
            teller = AlarmThread(self._alarms, self._look)
            try:
                if (self._options.executor or settings.shared.executor) == "slurm":
                    FleetArray(settings, self._worker.stopping, self._note).run(due, teller.ended)
                else:
                    self._work(due, teller)
            finally:
                teller.close()
            status = look_at(settings)
            if self._signals:
                self._log.note("stopped", signals=self._signals)
                return exit_codes.INTERRUPTED
            self._alarms.tell(status.rows, status.at, whole=status)
            self._log.note("done", counts=status.counts())
            self._ping(FAIL if status.exit_code else DONE)
            return status.exit_code
        finally:
            self._log.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def find_due(self, status: FleetStatus) -> list[ReleaseEntry]:
        """Return the releases of which something is due, in the order of the list."""
        return [
            self._entries[row.name]
            for row in status.rows
            if row.name in self._entries
            and due_stages(self._entries[row.name], row.stages, status.at, force=self._options.force)
        ]

    def _look(self, name: str) -> FleetRow:
        troubles = read_troubles(self._settings.home)
        release = self._entries[name].look(read_alarms(self._settings.home).seen.get(name))
        return read_row(replace(release, faults=(troubles[name],)) if name in troubles else release, time.time())

    def _ping(self, suffix: str) -> None:
        if self._settings.shared.ping:
            for sentence in ping(self._settings.shared.ping, suffix):
                self._note(sentence)

    def _work(self, due: Sequence[ReleaseEntry], teller: AlarmThread) -> None:
        todo: queue.Queue[ReleaseEntry] = queue.Queue()
        for entry in due:
            todo.put(entry)

        def work() -> None:
            while not self._worker.stopping.is_set():
                try:
                    entry = todo.get_nowait()
                except queue.Empty:
                    return
                outcome = self._worker.run(entry)
                self._report(outcome)
                if outcome.stages:
                    teller.ended(entry.name)

        threads = [
            threading.Thread(target=work, name=f"release-{number}")
            for number in range(min(self._settings.shared.at_once, len(due)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(LOOK)
                if self._signals and time.monotonic() - self._stopped > GENTLE_SECONDS:
                    self._worker.kill()

    def _report(self, outcome: ReleaseOutcome) -> None:
        if outcome.busy:
            print(f"{outcome.name}  skipped: {outcome.busy}", flush=True)
        elif outcome.stages and not (self._options.quiet and not any(code for _, code in outcome.stages)):
            said = ", ".join(f"{stage} {'done' if code == 0 else f'exit {code}'}" for stage, code in outcome.stages)
            print(f"{outcome.name}  {said}, in {format_seconds(outcome.seconds)}", flush=True)

    def _hear(self, number: int, _frame: object) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stopped = time.monotonic()
            threading.Thread(target=self._worker.stop, daemon=True).start()
        else:
            threading.Thread(target=self._worker.kill, daemon=True).start()


def run_element(settings: FleetSettings) -> int:
    """Do the release of an element of an array; returns the highest exit code of its stages."""
    name = find_element(settings.home)
    log = FleetLog(settings.home, this_process().writer)
    worker = ReleaseWorker(settings, log, shared=False)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=worker.stop, daemon=True).start())
    try:
        outcome = worker.run(settings.only([name]).releases[0])
    finally:
        log.close()
    return max((code for _, code in outcome.stages), default=exit_codes.LOCKED if outcome.busy else exit_codes.DONE)
