"""Who is told what of many releases: failures, differences, lateness, the first success after one, a digest a week.

Input: rows of the fleet, what was told before (``alarms.json`` in the fleet's home). Output: messages; the new state.
Invariant: a trouble is told once, and again when it changes; what did not get through to anybody is told by the next
run. The state is replaced whole, by one process at a time. Notifiers that are dead cost a bounded time and a note.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from lading.coordination.lock import hold
from lading.core.atomic import atomic_write
from lading.core.bounded import decode, read_object
from lading.core.errors import LadingError, LockHeldError
from lading.core.identity import this_process
from lading.core.progress import counted, format_bytes
from lading.fleet.notifiers import notify
from lading.report.fleet import DIFFERENT, FAILED, LATE, FleetProblem, FleetRow, FleetStatus, format_age
from lading.report.release_list import FleetSettings, parse_digest

FORMAT = 1
WEEK = 7 * 86400.0
MOST_TOLD = 20  # releases named in one message
MOST_LINES = 6  # of one sentence
WAIT_SECONDS = 20.0  # for another run that tells
POLL = 0.5
WORDS = {DIFFERENT: "differs", FAILED: "failed", LATE: "is late"}
RECOVERED = "works again"


@dataclass(frozen=True)
class AlarmState:
    """What was told: troubles by release; ``seen``: when a release was first looked at; ``digest``: the last one."""

    told: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    digest: float | None = None


@dataclass(frozen=True)
class AlarmEvent:
    """Something to tell of one release: its row, the problems that are new; none: it works again."""

    row: FleetRow
    problems: tuple[FleetProblem, ...] = ()

    @property
    def title(self) -> str:
        """In a few words."""
        kinds = [kind for kind in WORDS if any(found.kind == kind for found in self.problems)]
        return f"{self.row.name} {WORDS[kinds[0]] if kinds else RECOVERED}"

    def lines(self, now: float) -> list[str]:
        """As a message has it."""
        row = self.row
        lines = [self.title + (f" in {self.problems[0].stage}" if self.problems and self.problems[0].stage else "")]
        for found in self.problems:
            code = f" (exit {found.exit})" if found.exit is not None else ""
            sentences = found.sentence.splitlines() or [""]
            lines += [f"  {line}" for line in [f"{sentences[0]}{code}", *sentences[1:MOST_LINES]]]
        lines.append(f"  folder {row.folder}, bucket {row.bucket or 'unknown'}")
        lines.append(f"  last success: {format_age(row.last_success, now)}")
        lines += [f"  contacts: {', '.join(row.contacts)}"] if row.contacts else []
        return lines + ([f"  next: lading logs {row.folder}"] if self.problems else [])


def read_alarms(home: Path) -> AlarmState:
    """Return what was told; nothing where the state is missing or damaged: then it is told again."""
    try:
        record = read_object(home / "alarms.json")
        return decode(AlarmState, record)
    except (OSError, ValueError):
        return AlarmState()


def heed_now(state: AlarmState, now: float) -> AlarmState:
    """Return a state none of whose times are still to come: a wrong clock made them, and they would keep all silent."""
    digest = None if state.digest is None else min(state.digest, now)
    return replace(state, seen={name: min(at, now) for name, at in state.seen.items()}, digest=digest)


def write_alarms(home: Path, state: AlarmState) -> None:
    """Replace the state."""
    with atomic_write(home / "alarms.json", sweep=True) as stream:
        json.dump({"format": FORMAT, "kind": "fleet alarms", **asdict(state)}, stream)


def key_of(found: FleetProblem) -> str:
    """Return what makes a problem the same one as before: not its sentence, which may hold counts and times."""
    return f"{found.kind} {found.stage} {found.exit if found.exit is not None else ''}".strip()


def find_events(rows: Iterable[FleetRow], state: AlarmState) -> tuple[list[AlarmEvent], dict[str, tuple[str, ...]]]:
    """Return what is to be told, and what then counts as told."""
    events, told = [], dict(state.told)
    for row in rows:
        known = set(state.told.get(row.name, ()))
        fresh = tuple(found for found in row.problems if key_of(found) not in known)
        if fresh:
            events.append(AlarmEvent(row, fresh))
        elif known and not row.problems:
            events.append(AlarmEvent(row))
        told[row.name] = tuple(sorted({key_of(found) for found in row.problems}))
        if not told[row.name]:
            del told[row.name]
    return events, told


def digest_due(settings: FleetSettings, last: float | None, now: float) -> bool:
    """Tell whether the weekly digest is to go out."""
    if not settings.shared.digest:
        return False
    day, minute = parse_digest(settings.shared.digest)
    moment = time.localtime(now)
    back = (moment.tm_wday - day) % 7
    parts = (moment.tm_year, moment.tm_mon, moment.tm_mday - back, minute // 60, minute % 60, 0, 0, 0, -1)
    due = time.mktime(parts)
    due -= WEEK if due > now else 0.0
    return last is not None and last < due


def describe_digest(status: FleetStatus) -> tuple[str, str]:
    """Return title and text of the weekly digest."""
    counts = {state: count for state, count in status.counts().items() if count}
    sent = sum(
        run.bytes
        for row in status.rows
        for run in (row.stages["upload"].recent if "upload" in row.stages else ())
        if run.began > status.at - WEEK
    )
    title = f"lading: {counted(len(status.rows), 'release')} this week: " + ", ".join(
        f"{count} {s}" for s, count in counts.items()
    )
    left = sum(row.bytes_left or 0 for row in status.rows)
    lines = [
        f"sent this week: {format_bytes(sent)}; left: {format_bytes(left)} of {counted(len(status.rows), 'release')}",
        *(
            f"{row.name}: {row.state}: {row.problems[0].headline}"
            for row in status.worst_first()[:MOST_TOLD]
            if row.problems
        ),
    ]
    return title, "\n".join(lines)


class FleetAlarms:
    """Tells what is new in rows; ``note`` takes sentences on what did not get through."""

    def __init__(self, settings: FleetSettings, note: Callable[[str], None]) -> None:
        self._settings, self._note = settings, note
        self._own = {entry.name: entry.notify for entry in settings.releases}
        self._given_up: set[str] = set()  # releases of which this run could tell nobody

    def tell(self, rows: Sequence[FleetRow], now: float, *, whole: FleetStatus | None = None) -> int:
        """Tell what is new of some rows; of the ``whole`` fleet also the digest; returns how many events there were."""
        home = self._settings.home
        writer = this_process().writer
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                with hold(home / "telling", writer):
                    return self._tell(rows, now, whole)
            except LockHeldError:
                if time.monotonic() > deadline:
                    self._note("another run sends alarms at the moment; the next run sends what is left")
                    return 0
                time.sleep(POLL)
            except LadingError as error:
                self._note(f"no alarm was sent: {error}")
                return 0

    def _tell(self, rows: Sequence[FleetRow], now: float, whole: FleetStatus | None) -> int:
        state = heed_now(read_alarms(self._settings.home), now)
        events, told = find_events(rows, state)
        lost = self._send([event for event in events if event.row.name not in self._given_up], now)
        self._given_up |= lost
        lost = {row.name for row in rows} & self._given_up
        for name in lost:  # told by the next run
            told[name] = state.told.get(name, ())
        seen = {row.name: state.seen.get(row.name, now) for row in whole.rows} if whole else dict(state.seen)
        digest = state.digest
        if whole is not None and self._settings.shared.digest:
            digest = digest if digest is not None else now  # the first one goes out at its next time
            if digest_due(self._settings, digest, now):
                failed = self._notify(self._settings.shared.notify, *describe_digest(whole))
                digest = digest if failed else now
        found = AlarmState(told, seen, digest)
        if found != state:
            write_alarms(self._settings.home, found)
        return len(events)

    def _send(self, events: Sequence[AlarmEvent], now: float) -> set[str]:
        """Send events to whom they are for; returns the releases of which somebody was to be told and nobody was."""
        if not events:
            return set()
        lost: set[str] = set()
        groups: dict[tuple[str, ...], list[AlarmEvent]] = {}
        if self._settings.shared.notify:
            groups[self._settings.shared.notify] = list(events)
        for event in events:
            if own := self._own.get(event.row.name):
                groups.setdefault(own, [])
                groups[own] += [] if event in groups[own] else [event]
        reached: set[str] = set()
        for addresses, about in groups.items():
            names = {event.row.name for event in about}
            if self._notify(addresses, *describe_events(about, now)):
                lost |= names
            else:
                reached |= names
        return lost - reached

    def _notify(self, addresses: Sequence[str], title: str, text: str) -> bool:
        """Send one message; returns whether no notifier at all took it."""
        failed = notify(addresses, title, text)
        for sentence in failed:
            self._note(sentence)
        return bool(addresses) and len(failed) >= len(set(addresses))


def describe_events(events: Sequence[AlarmEvent], now: float) -> tuple[str, str]:
    """Return title and text of a message about some releases."""
    when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    bad = [event for event in events if event.problems]
    if len(events) == 1:
        title = f"lading: {events[0].title}"
    else:
        parts = [f"{len(bad)} need attention"] if bad else []
        parts += [f"{len(events) - len(bad)} work again"] if len(bad) < len(events) else []
        title = f"lading: {counted(len(events), 'release')}: {', '.join(parts)}"
    lines = [line for event in events[:MOST_TOLD] for line in [*event.lines(now), ""]]
    more = [f"and {len(events) - MOST_TOLD} more: lading fleet status"] if len(events) > MOST_TOLD else []
    return title, "\n".join([*lines, *more, when])


def forget_removed(home: Path, names: Iterable[str]) -> None:
    """Drop what was told of releases that are in the list no more."""
    state, known = read_alarms(home), set(names)
    kept = replace(
        state,
        told={name: keys for name, keys in state.told.items() if name in known},
        seen={name: at for name, at in state.seen.items() if name in known},
    )
    if kept != state:
        with suppress(LadingError, OSError):
            write_alarms(home, kept)
