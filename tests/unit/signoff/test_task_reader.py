"""Tasks of a sign-off: entries are looked at once, large files are shared, and what changes is named."""

import os
from pathlib import Path

import pytest

from lading.checksums.digest import DIGESTED
from lading.checksums.kept_digests import KeptDigest, KeptDigests, encode_header
from lading.core.atomic import encode_record
from lading.signoff import task_reader
from lading.signoff.entry_checks import EntryChecks
from lading.signoff.fault_kinds import SignoffRules, parse_levels
from lading.signoff.task_reader import TaskFindings, TaskReader, WalkTask

OFF = EntryChecks(SignoffRules(levels=parse_levels("all=off")))


def do_all(reader: TaskReader, waiting: list[WalkTask]) -> tuple[TaskFindings, int]:
    """Do tasks and all that follow; returns what was found, and how many tasks there were."""
    whole, count = TaskFindings(), 0
    while waiting:
        found = TaskFindings()
        waiting += reader.do(waiting.pop(), found)
        whole.digests += found.digests
        whole.findings += found.findings
        whole.counts.add(found.counts)
        count += 1
    return whole, count


def test_large_files_are_left_to_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_reader, "CORES", 2)
    for number in range(20):
        with (tmp_path / f"f{number:02d}").open("wb") as stream:
            stream.truncate((8 << 20) + number)
    (tmp_path / "small").write_bytes(b"small")
    read = DIGESTED.bytes
    found, tasks = do_all(TaskReader(str(tmp_path), OFF), [WalkTask("")])
    assert tasks >= 3  # the listing, and several pieces
    assert sorted(kept.path for kept in found.digests) == sorted(os.listdir(tmp_path))
    assert found.counts.files == found.counts.read_files == 21
    assert DIGESTED.bytes - read == found.counts.bytes


def test_tasks_travel(tmp_path: Path) -> None:
    for task in (WalkTask("a/b\udce9"), WalkTask("a", ("x", "new\nline", "\udcff")), WalkTask("")):
        _, path, depth, names = task.pack()
        assert WalkTask.unpack(path, depth, names) == task


def test_what_is_gone_or_replaced_is_named(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    reader = TaskReader(str(tmp_path), OFF)
    found, _ = do_all(reader, [WalkTask("", ("directory", "gone")), WalkTask("nowhere", ("x",))])
    assert {(one.kind, one.path, one.detail) for one in found.findings} == {
        ("unsteady", "directory", "it is a directory now"),
        ("unreadable", "gone", task_reader.GONE),
        ("unreadable", "nowhere/x", "No such file or directory"),
    }


def test_digests_of_an_earlier_run_are_taken(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_bytes(b"a")
    status = (tmp_path / "data/a").stat()
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    row = KeptDigest("a", *state, "etag", "md5", "sha256", "crc64", status.st_ctime_ns + 10**10)
    line = encode_record(row.as_json())
    (tmp_path / "digests").write_bytes(encode_header(str(tmp_path / "data"), "now", {}) + line)
    kept = KeptDigests(tmp_path / "digests")
    found, _ = do_all(TaskReader(str(tmp_path / "data"), OFF, kept), [WalkTask("")])
    assert found.digests == [row]
    assert (found.counts.read_files, found.counts.reused_files) == (0, 1)
    os.utime(tmp_path / "data/a", (1, 1))
    found, _ = do_all(TaskReader(str(tmp_path / "data"), OFF, kept), [WalkTask("")])
    assert (found.counts.read_files, found.counts.reused_files) == (1, 0)
