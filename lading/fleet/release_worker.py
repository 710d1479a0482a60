"""Does what is due of one release: one child process a stage, in order.

Input: an entry of the list. Output: the exit codes of its stages; the log of each in the release's own folder.
Invariant: two runs never work on one release: a lock in the fleet's home, and what is due is decided under it. A stage
that fails keeps the later ones of the chain from running, and nothing else. No child outlives this process.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import lading
from lading.coordination.heartbeat import LivenessMonitor
from lading.coordination.lock import hold
from lading.core import exit_codes
from lading.core.atomic import AppendLog, atomic_write
from lading.core.bounded import SMALL_BYTES, read_bounded
from lading.core.errors import LadingError, LockHeldError
from lading.core.identity import this_process
from lading.core.processes import end_child, set_parent_death_signal
from lading.fleet.notifiers import DONE, FAIL, START, ping, redact
from lading.fleet.schedule import ALONE, due_stages
from lading.fleet.stage_commands import make_command, share_of
from lading.journal.stage_result import FOLDER, StageResult, read_result, write_result
from lading.report.fleet import read_row
from lading.report.release_list import FleetSettings, ReleaseEntry

POLL = 1.0
TAIL = 1 << 16
BUSY = "busy"


@dataclass(frozen=True)
class ReleaseOutcome:
    """What a run did of a release: (stage, exit code); ``busy``: another run works on it."""

    name: str
    stages: tuple[tuple[str, int], ...] = ()
    busy: str = ""
    seconds: float = 0.0


class FleetLog:
    """The log of one run of the fleet, for several threads."""

    def __init__(self, home: Path, writer: str) -> None:
        (home / "runs").mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._log = AppendLog(home / "runs" / f"{stamp}-{writer}.jsonl")
        self._lock = threading.Lock()

    def note(self, kind: str, **members: Any) -> None:
        """Append a record; a full disk does not stop the fleet."""
        with self._lock, suppress(LadingError, OSError):
            self._log.append([{"kind": kind, "at": time.time(), **members}])
            self._log.sync()

    def close(self) -> None:
        """Close it."""
        with suppress(LadingError, OSError):
            self._log.close()


def remove_dead(place: Path) -> None:
    """Remove the heartbeats that killed runs left beside a lock."""
    with suppress(OSError):
        LivenessMonitor(place / "holders").find_all()


class ReleaseWorker:
    """Runs releases, one at a time for each thread that calls ``run``; ``stop`` ends them all gently."""

    def __init__(self, settings: FleetSettings, log: FleetLog, *, force: bool = False, shared: bool = True) -> None:
        self._settings, self._log, self._force, self._shared = settings, log, force, shared
        self._writer = this_process().writer
        self.stopping = threading.Event()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Begin nothing more, and ask the children to end."""
        self.stopping.set()
        self._each(lambda child: child.send_signal(signal.SIGTERM))

    def kill(self) -> None:
        """End the children at once."""
        self.stopping.set()
        self._each(lambda child: end_child(child, group=True))

    def _each(self, act: Callable[["subprocess.Popen[bytes]"], object]) -> None:
        with self._lock:
            children = list(self._children.values())
        for child in children:
            with suppress(ProcessLookupError):
                act(child)

    def run(self, entry: ReleaseEntry) -> ReleaseOutcome:
        """Do what is due of a release; raises nothing for what goes wrong with it."""
        started = time.monotonic()
        try:
            with self._slot():
                if self.stopping.is_set():
                    return ReleaseOutcome(entry.name)
                place = self._settings.home / "locks" / entry.name
                with hold(place, self._writer):
                    remove_dead(place)
                    done = self._run(entry)
        except LockHeldError as error:
            return ReleaseOutcome(entry.name, busy=str(error))
        except (LadingError, OSError) as error:
            self._log.note("error", release=entry.name, sentence=redact(str(error)))
            done = ((BUSY, exit_codes.FAILED),)
        return ReleaseOutcome(entry.name, done, seconds=time.monotonic() - started)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold one of ``at_once`` places, which all runs on this list share."""
        if not self._shared:
            yield
            return
        places = self._settings.home / "slots"
        while not self.stopping.is_set():
            for number in range(self._settings.shared.at_once):
                slot = hold(places / str(number), f"{self._writer}-{threading.get_ident()}")
                try:
                    slot.__enter__()
                except LockHeldError:
                    continue
                try:
                    yield
                finally:
                    slot.__exit__(None, None, None)
                return
            self.stopping.wait(POLL)
        yield  # nothing is begun any more

    def _run(self, entry: ReleaseEntry) -> tuple[tuple[str, int], ...]:
        row = read_row(entry.look(), time.time())
        due = due_stages(entry, row.stages, time.time(), force=self._force)
        done: list[tuple[str, int]] = []
        if due and entry.ping:
            self._say(ping(entry.ping, START), entry)
        broken = False
        for stage in due:
            if self.stopping.is_set() or (broken and stage not in ALONE):
                continue
            code = self._stage(entry, stage)
            done.append((stage, code))
            gap = stage == "find" and code == exit_codes.SOME_FAILED  # the rest of the tree is good
            broken = broken or (code != exit_codes.DONE and not gap and stage not in ALONE)
        if done and entry.ping and not self.stopping.is_set():
            self._say(ping(entry.ping, FAIL if any(code for _, code in done) else DONE), entry)
        return tuple(done)

    def _say(self, sentences: list[str], entry: ReleaseEntry) -> None:
        for sentence in sentences:
            self._log.note("notifier", release=entry.name, sentence=sentence)

    def _stage(self, entry: ReleaseEntry, stage: str) -> int:
        """Run one stage; returns its exit code."""
        began = time.time()
        self._log.note("begin", release=entry.name, stage=stage)
        sentence = ""
        with _open_log(self._settings.home, entry, stage) as stream:
            try:
                code = self._child(make_command(stage, entry, share_of(self._settings.shared, entry)), entry, stream)
            except OSError as error:
                code, sentence = exit_codes.FAILED, f"{entry.folder}: {error.strerror}"
        sentence = self._see_to_result(entry, stage, began, code, sentence)
        self._log.note("end", release=entry.name, stage=stage, exit=code, sentence=redact(sentence))
        return code

    def _child(self, command: list[str], entry: ReleaseEntry, stream: IO[bytes]) -> int:
        child = subprocess.Popen(
            command,
            cwd=entry.folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
            preexec_fn=set_parent_death_signal(),
        )
        with self._lock:
            self._children[child.pid] = child
        if self.stopping.is_set():  # it came between
            child.send_signal(signal.SIGTERM)
        code = child.wait()
        with self._lock:
            del self._children[child.pid]
        if code < 0:
            return exit_codes.INTERRUPTED if self.stopping.is_set() else 128 - code
        return code

    def _see_to_result(self, entry: ReleaseEntry, stage: str, began: float, code: int, sentence: str) -> str:
        """Return what the stage said; note it where the stage itself could not: it was killed, or the disk is full."""
        found = _result(entry.folder, stage)
        if found and (found.ended or 0.0) >= began:
            _clear_trouble(self._settings.home, entry.name)
            return found.sentence
        if code == exit_codes.LOCKED and found and found.refused and found.refused.at >= began:
            return found.refused.sentence
        said = (
            sentence
            or _last_error(stage_log(self._settings.home, entry.name, stage))
            or f"{stage} ended with {code} and without a word"
        )
        write_result(entry.folder, stage, began, code, said)
        found = _result(entry.folder, stage)
        if not (found and max(found.ended or 0.0, found.refused.at if found.refused else 0.0) >= began):
            write_trouble(self._settings.home, entry.name, f"{stage}: {said}")
        return said


def child_environment() -> dict[str, str]:
    """Return the environment of a stage: this Lading first, and no alarms of its own."""
    own = str(Path(lading.__file__).resolve().parent.parent)
    paths = [own, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    alone = ("LADING_NOTIFY", "LADING_PING", "LADING_METRICS")  # of a release that runs by itself
    rest = {name: value for name, value in os.environ.items() if name not in alone}
    return {**rest, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def stage_log(home: Path, name: str, stage: str) -> Path:
    """Return where the last run of a stage said what it did: in the fleet's home, whose disk may be another one."""
    return home / "logs" / name / f"{stage}.log"


@contextmanager
def _open_log(home: Path, entry: ReleaseEntry, stage: str) -> Iterator[IO[bytes]]:
    """Open the log of a stage, the last one kept beside it, and lead to it from the folder of the release."""
    path = stage_log(home, entry.name, stage)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.replace(path, path.with_name(f"{path.name}.1"))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    with suppress(OSError):
        lead = entry.folder / FOLDER / path.name
        lead.parent.mkdir(exist_ok=True)
        if not lead.is_symlink() or os.readlink(lead) != str(path):
            lead.unlink(missing_ok=True)
            lead.symlink_to(path)
    with open(descriptor, "wb") as stream:
        yield stream


def _result(folder: Path, stage: str) -> StageResult | None:
    try:
        return read_result(folder, stage)
    except (OSError, ValueError):
        return None


def _last_error(log: Path) -> str:
    """Return the last error in the log of a stage."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL))
            lines = stream.read(TAIL).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line.strip()] or [""])[-1].removeprefix("error: ")


# What could not be noted in the folder of a release: its disk is full, or it is gone.


def write_trouble(home: Path, name: str, sentence: str) -> None:
    """Keep a sentence on a release in the fleet's home."""
    with suppress(OSError, LadingError):
        (home / "troubles").mkdir(parents=True, exist_ok=True)
        with atomic_write(home / "troubles" / name, sweep=True) as stream:
            json.dump({"at": time.time(), "sentence": redact(sentence)}, stream)


def read_troubles(home: Path) -> Mapping[str, str]:
    """Return the sentences that are kept, by release."""
    found = {}
    with suppress(OSError):
        for name in os.listdir(home / "troubles"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                if not name.startswith("."):
                    found[name] = str(json.loads(read_bounded(home / "troubles" / name, SMALL_BYTES))["sentence"])
    return found


def _clear_trouble(home: Path, name: str) -> None:
    with suppress(OSError):
        (home / "troubles" / name).unlink(missing_ok=True)
