"""kill -9 at random instants: nothing lost, nothing doubled, nothing proven that is not there.

LADING_KILLS and LADING_OBJECTS size the long test (defaults 25 and 2,000; the full claim is 300 and 20,000).
"""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from lading.core.atomic import read_log
from lading.verification.manifest import read_manifest
from tests import labtree
from tests.conftest import ODD_NAMES

# Read at import: the fixture that isolates tests takes LADING_* out of the environment.
KILLS = int(os.environ.get("LADING_KILLS", "25"))
OBJECTS = int(os.environ.get("LADING_OBJECTS", "2000"))
SEED = int(os.environ.get("LADING_SEED", "7"))
# The gateway's access line: … "PUT /bucket/key?query HTTP/1.1" 200 …
ACCESS = re.compile(r'beast: .*?"(PUT|POST) /([^/ ?]+)/([^ ?]*)(\?[^ ]*)? HTTP/1\.1" (\d+)')


class AccessLog:
    """The gateway's own log, read as it grows."""

    def __init__(self, path: Path, bucket: str) -> None:
        self.path, self.bucket = path, bucket
        self.position = path.stat().st_size
        self.rest = ""

    def wait_for_traffic(self, process: "subprocess.Popen[bytes]", seconds: float = 30) -> None:
        """Return when the gateway has written something since the last call of ``stored``, or the process ended."""
        deadline = time.monotonic() + seconds
        while self.path.stat().st_size == self.position and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def stored(self) -> list[str]:
        """Return the keys of the requests since the last call that stored bytes, whatever came of them."""
        with self.path.open("r", errors="replace") as stream:
            stream.seek(self.position)
            text = self.rest + stream.read()
            self.position = stream.tell()
        *lines, self.rest = text.split("\n")
        keys = []
        for line in lines:
            match = ACCESS.search(line)
            if match and match[2] == self.bucket and match[1] == "PUT":
                keys.append(unquote(match[3]))
        return keys


def proven(journal: Path) -> set[str]:
    """Fold the journals without the product's journal index: keys with a ``done`` of the highest generation."""
    state: dict[str, tuple[int, bool]] = {}
    for path in sorted(journal.glob("*.jsonl")):
        for record in read_log(path):
            if record and record["kind"] in ("done", "void"):
                rank = (record.get("gen", 0), record["kind"] == "void")
                state[record["key"]] = max(state.get(record["key"], (-1, False)), rank)
    return {key for key, (_, void) in state.items() if not void}


def engine_children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def strike(process: "subprocess.Popen[bytes]", children: list[int], whom: str) -> None:
    """Send SIGKILL to the uploader, its child or both."""
    for pid in [*(children if whom != "uploader" else []), *([process.pid] if whom != "child" else [])]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if whom != "child":
        process.wait()


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("engine", ["s5cmd", "crt"])
def test_kills_lose_and_double_nothing(gateway, bucket: str, tmp_path: Path, engine: str) -> None:
    chance = random.Random(SEED)
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, OBJECTS, seed=SEED)
    whole = len(labtree.expected(root))  # of very many hostile names some come twice
    labtree.make_plan(root, directory, largest="8M")
    gateway.make_bucket(bucket)
    access = AccessLog(gateway.directory / "log" / "client.rgw.a.log", bucket)
    command = labtree.upload_command(root, gateway, bucket, "--max-workers", "8", "--engine", engine)
    journal = directory / "journal"
    kills, runs, known, doubled, sent = 0, 0, set(), [], 0
    launched = time.monotonic()
    counters = {"uploader": 0, "child": 0, "both": 0}
    while kills < KILLS:
        with open(tmp_path / "log", "ab") as log:
            process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        runs += 1
        # Spread the kills over the whole plan: ahead of schedule, strike during the start; behind it, let it work.
        if len(known) / whole > kills / KILLS:
            pause = chance.uniform(0.05, 1.5)
        else:
            access.wait_for_traffic(process)
            pause = chance.uniform(0.0, 5.0)
        while process.poll() is None and kills < KILLS:
            try:
                process.wait(pause)
                break
            except subprocess.TimeoutExpired:
                pass
            children = engine_children(process.pid)
            whom = chance.choice(["uploader", "child", "child", "child", "both"] if children else ["uploader"])
            strike(process, children, whom)
            kills += 1
            counters[whom] += 1
            pause = chance.uniform(0.05, 1.5)
        if process.poll() is None:
            process.kill()
            process.wait()
        elif process.returncode == 0 and len(known) == whole:
            break  # all is proven: more kills would hit an idle run
        keys = access.stored()
        sent += len(keys)
        doubled += [key for key in keys if key in known]
        now = proven(journal)
        assert known <= now, f"proofs were lost: {sorted(known - now)[:5]}"
        known = now
        seconds = time.monotonic() - launched
        print(f"run {runs}: {kills} kills {counters}, {len(known)} proven, {sent} PUTs, {seconds:.0f} s", flush=True)
    assert kills >= min(KILLS, 5)
    last = labtree.upload(root, directory, gateway, bucket, "--engine", engine, timeout=900)
    assert last.returncode == 0, last.stderr
    time.sleep(0.5)  # the gateway writes its log behind the answer
    keys = access.stored()
    doubled += [key for key in keys if key in known]
    assert doubled == [], f"{len(doubled)} proven objects were sent again: {doubled[:5]}"
    # Killed between writing and deleting its canary, a run leaves it; the clean run at the end took them away.
    assert labtree.differences(gateway, bucket, root) == []
    audit = labtree.verify(root, directory, gateway, bucket)
    assert audit.returncode == 0, audit.stderr
    manifest = read_manifest(directory / "manifest.jsonl.zst")
    assert manifest.end.complete
    assert manifest.end.objects == whole
    wanted = labtree.expected(root)
    rows = {row.key: row for row in manifest.rows()}
    assert rows.keys() == wanted.keys()
    assert all(rows[key].md5 == labtree.md5(path) for key, path in wanted.items())
    # And the log of the gateway does show objects: a log in another format would prove nothing.
    assert sent + len(keys) >= whole
    print(f"{kills} kills in {runs} runs {counters}: {whole} objects, {sent + len(keys)} PUTs, none of a proven object")


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("engine", ["s5cmd", "crt"])
def test_hostile_names_arrive(gateway, bucket: str, tmp_path: Path, engine: str) -> None:
    """One clean run, so that a failure here is told apart from one by kills."""
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 300)
    names = {os.path.basename(path) for _, path in labtree.walk(root)}
    assert set(ODD_NAMES) <= names
    labtree.make_plan(root, directory)
    gateway.make_bucket(bucket)
    result = labtree.upload(root, directory, gateway, bucket, "--engine", engine)
    assert result.returncode == 0, result.stderr
    assert labtree.differences(gateway, bucket, root) == []
