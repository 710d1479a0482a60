"""Artefacts of an earlier version (tests/data/edition2) are read, and nothing is sent or computed again.

The archive holds the data, a working directory with every artefact, and the bucket. Plans, journals and markers hold
absolute paths and the server's address, so both are put where they were: a fixed directory and a fixed port.
"""

import fcntl
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.plan.batch_plan import read_plan
from lading.testing.s3_server import Server, serve
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import read_meta
from lading.verification.manifest import read_manifest
from tests import oracle
from tests.conftest import REPOSITORY, need_program
from tests.integration.test_whole_way import fingerprints
from tests.mirrors import git
from tests.portal import Portal
from tests.servers.slurm import free_ports

pytestmark = pytest.mark.xdist_group("edition2")

ARCHIVE = REPOSITORY / "tests" / "data" / "edition2" / "artefacts.tar.xz"
# As in tests/data/edition2/make.py.
DIRECTORY = Path("/tmp/lading-edition2")
PORT = 28517
BUCKET = "edition2"
DATA, WORK = DIRECTORY / "data", DIRECTORY / "work"
RELEASE = DATA / "dr1"
SESSIONS = ["ecephys_123454_2024-05-27_16-07-59", "behavior_123456_2024-05-29_09-30-00"]


@pytest.fixture(scope="module")
def unpacked() -> Iterator[Server]:
    """The directory as the earlier version left it, and its bucket served; one run of the tests at a time has it."""
    with open(f"{DIRECTORY}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        DIRECTORY.mkdir()
        packed = lzma.decompress(ARCHIVE.read_bytes())
        subprocess.run(["tar", "-C", str(DIRECTORY), "-xf", "-"], input=packed, check=True)
        try:
            with serve(DIRECTORY / "s3", port=PORT) as server:
                yield server
        finally:
            shutil.rmtree(DIRECTORY)


@pytest.fixture
def old(unpacked: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    for name, value in unpacked.environment().items():
        monkeypatch.setenv(name, value)
    return unpacked


@pytest.fixture
def stage(make, old):
    """Run a target in the old directory with the settings of then; nothing may arrive in the bucket."""

    def call(*targets: str, **more: object) -> str:
        before = fingerprints(old, BUCKET)
        settings: dict[str, object] = {
            "root": DATA,
            "release": RELEASE,
            "bucket": f"s3://{BUCKET}",
            "endpoint": old.endpoint,
            "remap": '{"spectro/data": "raw"}',
            "min_batch": "3k",
            "max_batch": "9k",
            "max_workers": 4,
            "workers": 2,
        }
        done = make(*targets, cwd=WORK, **settings, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert fingerprints(old, BUCKET) == before
        return done.stdout + done.stderr

    return call


def tree_and_plan() -> dict[str, tuple[int, int]]:
    return {
        name: (os.stat(WORK / name).st_mtime_ns, os.stat(WORK / name).st_ino) for name in ("find.json", "batch.json")
    }


def test_tree_plan_journal_and_manifest_have_their_values(old) -> None:
    tree = read_tree(WORK / "find.json").tree
    expected = oracle.files(RELEASE)
    assert {path for path, _ in tree.files()} == set(expected)
    assert tree.sizes[0] == sum(size for size, _ in expected.values())
    assert (WORK / "find.json").read_bytes() == oracle.find_json(RELEASE)
    meta = read_meta(WORK / "find.meta.json")
    assert (meta.root, meta.files, meta.links) == (str(RELEASE), 16, 1)
    plan = read_plan(WORK / "batch.json")
    assert (len(plan.batches), sum(batch.files for batch in plan.batches)) == (8, 16)
    manifest = read_manifest(WORK / "manifest.jsonl.zst")
    assert manifest.end.complete
    assert {row.path: (row.size, row.md5) for row in manifest.rows()} == expected


def test_upload_and_verify_find_nothing_to_do(stage, tmp_path) -> None:
    before = tree_and_plan()
    assert "nothing to send" in stage("upload")
    assert "16 of 16 objects" in stage("verify")
    assert tree_and_plan() == before
    assert "nothing to send" in stage("upload")


def test_restore_brings_every_file(stage, tmp_path) -> None:
    stage("restore", to=tmp_path / "back")
    found = {path: fact for path, fact in oracle.files(tmp_path / "back").items() if not path.startswith(".lading")}
    assert found == oracle.files(RELEASE)


def test_status_and_report(stage) -> None:
    status = json.loads(stage("status", json=1))
    assert (status["plan"]["batches"], status["plan"]["files"], status["failures"]) == (8, 16, [])
    assert status["upload"]["batches"] == {"listed": 8, "completed": 8, "queued": 0, "failed": 0}
    assert (status["verify"]["objects"]["proven"], status["verify"]["complete"]) == (16, True)
    assert status["manifest"]["complete"]
    stage("report")
    assert "edition2" in (WORK / "report" / "index.html").read_text()


def test_the_mirror_is_taken_up(stage) -> None:
    need_program("git-annex", "datalad")
    changes = {}
    repositories = sorted(path.parent for path in (WORK / "mirror").glob("???/*/HEAD"))
    before = {path: git("rev-parse", "main", cwd=path).decode().strip() for path in repositories}
    assert len(before) == 4
    # A name that DataLad cannot hold has another spelling today (docs/reference/mirror.md); no other file changes.
    assert "0 added, 1 changed, 0 removed" in stage("mirror")
    for path, commit in before.items():
        changes[path] = git("-c", "core.quotePath=false", "diff", "--name-status", commit, "main", cwd=path)
    assert sorted(changes.values()) == [
        b"",
        b"",
        b"M\t.mirror/datasets.json\nM\todd\n",
        b"R100\tlatin-\xe9\xff.bin\t%6Catin-%E9%FF.bin\n",
    ]
    after = {path: git("rev-parse", "main", cwd=path) for path in repositories}
    stage("mirror")
    assert {path: git("rev-parse", "main", cwd=path) for path in repositories} == after
    stage("mirror", verb="verify")


@pytest.mark.parametrize(("kind", "name"), [("ephys", "probe"), ("imaging", "stack")])
def test_a_compression_is_known_to_be_done(old, run, kind, name) -> None:
    report = json.loads((WORK / name / "compress.json").read_text())
    markers = {path: path.stat().st_mtime_ns for path in (WORK / f"{name}.state" / "done").rglob("*.json")}
    done = run("-m", "lading", "compress", DATA / "sessions" / name, name, "--kind", kind, cwd=WORK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in markers} == markers
    again = json.loads((WORK / name / "compress.json").read_text())
    assert (again["units"], again["decoded_checksum"]) == (report["units"], report["decoded_checksum"])
    # Work that is left cannot be taken up: nothing says which bytes of the source the units had read.
    (WORK / name / "compress.json").unlink()
    done = run("-m", "lading", "compress", DATA / "sessions" / name, name, "--kind", kind, cwd=WORK)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "was begun by an earlier version of Lading" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in markers if path.exists()}.items() <= markers.items()


def test_job_lists_are_done_and_run_nothing(old, run) -> None:
    before = fingerprints(old, BUCKET)
    journals = {name: (WORK / "sessions" / BUCKET / name / "journal.jsonl").read_bytes() for name in SESSIONS}
    sessions = DATA / "sessions" / "sessions.csv"
    status = run("-m", "jobs", "status", sessions, "--state", "sessions", "--json", cwd=WORK)
    assert status.returncode == 0, status.stdout + status.stderr
    assert [job["state"] for job in json.loads(status.stdout)["jobs"]] == ["done", "done"]
    command = ("-m", "jobs", "run", sessions, "--endpoint-url", old.endpoint, "--state", "sessions")
    done = run(*command, cwd=WORK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fingerprints(old, BUCKET) == before
    for name, text in journals.items():
        later = (WORK / "sessions" / BUCKET / name / "journal.jsonl").read_bytes()
        assert later.startswith(text)
        assert b'"state":"started"' not in later[len(text) :]


def test_the_portal_lists_its_job(old) -> None:
    portal = Portal(WORK / "portal", free_ports(1), ("--endpoint-url", old.endpoint))
    portal.start()
    try:
        (job,) = portal.jobs()
        assert (job["job_state"], job["name"]) == ("success", "behavior_123457_2024-05-30_10-00-00")
    finally:
        portal.client.close()
        portal.process.terminate()
        portal.process.wait(30)
