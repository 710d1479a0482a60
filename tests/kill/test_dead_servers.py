"""Commands end when they are told to although a file server or an S3 server is dead, and say who does not answer."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from tests import labtree
from tests.conftest import REPOSITORY
from tests.kill.test_hangs import ENGINES, GRACE_BOUND, HURRY, MATRIX, TWICE_BOUND, survivors
from tests.servers import faults, stuck
from tests.servers.faults import Fault, Request, Silent, kind

FILES = {"a.bin": 200_000, "b.bin": 3_000_000, "c.bin": 10}
# find.py looks at the root, then the walk opens it; the others open a file, or their target.
FILE_SERVER = {
    "find": (stuck.OPENDIR, 2),
    "batch": (stuck.OPEN, 1),
    "upload": (stuck.OPEN, 1),
    "verify": (stuck.OPEN, 1),
    "restore": (stuck.OPENDIR, 1),
}


class Release:
    """A release that is in a bucket, and the command lines of all stages for it."""

    def __init__(self, server, directory: Path, root: Path, files: dict[str, int] | None = None) -> None:
        self.server, self.directory, self.root = server, directory / "run", root
        self.bucket = "b-" + os.urandom(6).hex()
        server.make_bucket(self.bucket)
        for name, size in (files or {}).items():
            root.mkdir(exist_ok=True)
            (root / name).write_bytes(bytes(size))
        labtree.make_plan(root, self.directory, mtime=False)

    def deliver(self, server) -> None:
        for step in (labtree.upload, labtree.verify):
            done = step(self.root, self.directory, server, self.bucket)
            assert done.returncode == 0, done.stderr

    def command(self, stage: str, server, to: Path, *more: str) -> list[str]:
        if stage == "upload":
            return labtree.upload_command(self.root, server, self.bucket, "--max-workers", "4", *more)
        if stage == "verify":
            return labtree.verify_command(self.root, server, self.bucket, *more)
        if stage == "restore":
            return [
                sys.executable, "-m", "lading", "restore", "--manifest", "manifest.jsonl.zst",
                "--to", str(to), "--endpoint-url", server.endpoint, *more,
            ]  # fmt: skip
        script = [sys.executable, str(REPOSITORY / f"{stage}.py"), str(self.root), *more]
        return script if stage == "find" else [*script, "--file-tree", str(to)]

    @contextmanager
    def run(self, command: list[str], seconds: str = "") -> Iterator["Run"]:
        mark = os.urandom(8).hex()
        log = self.directory / f"log-{mark}"
        environment = {**os.environ, "LADING_MARK": mark, "LADING_SECONDS": seconds}
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=self.directory, env=environment, stdout=stream, stderr=stream)
            try:
                yield Run(process, log)
                deadline = time.monotonic() + 3
                while survivors(mark) and time.monotonic() < deadline:
                    time.sleep(0.1)
                assert survivors(mark) == [], log.read_text()
            finally:
                process.kill()


class Run:
    """A command that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def await_words(self, words: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < deadline, (words, self.said)
            assert self.process.poll() is None, (words, self.said)
            time.sleep(0.05)

    def end(self, number: int, *, twice: bool) -> float:
        """Tell it to end, and return the seconds that it took from the last signal on."""
        assert self.process.poll() is None, self.said
        self.process.send_signal(number)
        told = time.monotonic()
        if twice:
            try:
                self.process.wait(1.5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(number)
                told = time.monotonic()
        self.process.wait(60)
        took = time.monotonic() - told
        # A second signal may meet an interpreter that is ending, and has no handler any more.
        ends = {130, -signal.SIGTERM, *((-number,) if twice else ())}
        assert self.process.returncode in ends, (self.process.returncode, self.said)
        assert took < (TWICE_BOUND if twice else GRACE_BOUND), (took, self.said)
        assert "Traceback" not in self.said
        return took


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A directory to mount on; skips where this user may not mount."""
    place = tmp_path / "mount"
    place.mkdir()
    try:
        with stuck.serve(place, {"x": 1}):
            pass
    except OSError as error:
        pytest.skip(f"{error.strerror} ({error.filename or '/dev/fuse'})")
    return place


def hang(s3, directory: Path, mount: Path, stage: str, number: int, *more: str, twice: bool) -> None:
    """End a stage that waits for files of a server that died."""
    with stuck.serve(mount, {**FILES, "find.json": 1000}) as server:
        release = Release(s3, directory, mount)
        if stage in ("verify", "restore"):
            release.deliver(s3)
        server.dies_after, server.chances = FILE_SERVER[stage]
        to = mount / "find.json" if stage == "batch" else mount
        with release.run(release.command(stage, s3, to, *more)) as run:
            assert server.dead.wait(120), run.said
            time.sleep(3 if stage == "upload" else 0.5)  # until it catches signals: before, they end it by themselves
            took = run.end(number, twice=twice)
            print(f"{stage} {signal.Signals(number).name} {'twice' if twice else 'once'}: {took:.1f} s")


@pytest.mark.parametrize("stage", ["find", "upload"])
def test_a_stage_ends_although_its_files_hang(s3, tmp_path: Path, mount: Path, stage: str) -> None:
    number = signal.SIGTERM if stage == "upload" else signal.SIGINT
    hang(s3, tmp_path, mount, stage, number, *(["--source"] if stage == "verify" else []), twice=True)


# Once each; LADING_MATRIX=all has every signal for every stage, once and twice.
SOME = [
    ("find", signal.SIGINT, False),
    ("batch", signal.SIGINT, True),
    ("verify", signal.SIGINT, True),
    ("restore", signal.SIGINT, True),
    ("find", signal.SIGTERM, False),
    ("batch", signal.SIGTERM, False),
    ("upload", signal.SIGTERM, False),
    ("verify", signal.SIGTERM, False),
    ("restore", signal.SIGTERM, False),
]
ALL = list(product(FILE_SERVER, (signal.SIGTERM, signal.SIGINT), (False, True)))


@pytest.mark.long
@pytest.mark.parametrize(("stage", "number", "twice"), ALL if MATRIX == "all" else SOME)
def test_each_signal_ends_each_stage(
    s3, tmp_path: Path, mount: Path, stage: str, number: signal.Signals, twice: bool
) -> None:
    if stage == "upload" and number == signal.SIGINT and twice:
        return  # the second Ctrl-C is the first of the test above
    hang(s3, tmp_path, mount, stage, number, *(["--source"] if stage == "verify" else []), twice=twice)


ASKS = {"verify": "ListObjectsV2", "restore": "GetObject", "upload": "PutObject"}


def deaf(s3, directory: Path, stage: str, number: int, twice: bool) -> None:
    """End a stage that waits for a server which accepts and never answers."""
    release = Release(s3, directory, directory / "data", FILES)
    seen: list[str] = []
    sick = False

    def pick(request: Request) -> Fault | None:
        if sick and kind(request) == ASKS[stage] and "canary" not in request.key:
            seen.append(request.key)
            return Silent()
        return None

    with faults.serve(s3, pick) as proxy:
        if stage != "upload":
            release.deliver(proxy)
        sick = True
        with release.run(release.command(stage, proxy, directory / "to")) as run:
            deadline = time.monotonic() + 30
            while not seen and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
            took = run.end(number, twice=twice)
            print(f"{stage} {signal.Signals(number).name} {'twice' if twice else 'once'}: {took:.1f} s")


@pytest.mark.parametrize("stage", ["verify"])
def test_a_stage_ends_although_the_server_says_nothing(s3, tmp_path: Path, stage: str) -> None:
    deaf(s3, tmp_path, stage, signal.SIGINT, twice=False)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", list(ASKS))
def test_each_signal_ends_each_stage_at_a_deaf_server(s3, tmp_path: Path, stage: str, number: signal.Signals) -> None:
    for twice in (False, True):
        directory = tmp_path / str(twice)
        directory.mkdir()
        deaf(s3, directory, stage, number, twice=twice)


def silence(s3, directory: Path, stage: str, how: str, *more: str) -> None:
    """A server goes silent, or vanishes, in a run, and comes back: both are said, and the run comes to its end."""
    directory.mkdir()
    release = Release(s3, directory, directory / "data", FILES)
    seen, sick = threading.Event(), False

    def pick(request: Request) -> Fault | None:
        if not sick or kind(request) != ASKS[stage] or "canary" in request.key:
            return None
        seen.set()
        return Silent()

    with faults.serve(s3, pick) as proxy:
        if stage != "upload":
            release.deliver(proxy)
        sick = True
        command = release.command(stage, proxy, directory / "to", *more)
        with release.run(command, f"{HURRY} patience=60 call=60 read=3") as run:
            assert seen.wait(120), run.said
            if how == "gone":
                proxy.down(True)
            run.await_words(f"no answer from {proxy.endpoint} since ")
            sick = False
            if how == "gone":
                proxy.down(False)
            assert run.process.wait(90) == 0, run.said
            assert re.search(rf"no answer from {re.escape(proxy.endpoint)} since \d\d:\d\d:\d\d\n", run.said), run.said
            assert f"{proxy.endpoint} answers again" in run.said, run.said


SILENCES = [
    ("upload", "s5cmd"),
    ("upload", "obstore"),
    ("upload", "boto3"),
    ("upload", "crt"),
    ("verify", ""),
    ("restore", ""),
]


@pytest.mark.parametrize("how", [pytest.param("silent", marks=pytest.mark.long), "gone"])
def test_who_does_not_answer_is_said(s3, tmp_path: Path, how: str) -> None:
    with ThreadPoolExecutor(len(SILENCES)) as pool:
        done = [
            pool.submit(silence, s3, tmp_path / f"{stage}{engine}", stage, how, *(ENGINES[engine] if engine else []))
            for stage, engine in SILENCES
        ]
        errors = [error for future in done if (error := future.exception())]
    assert not errors, errors
