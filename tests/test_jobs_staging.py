"""Staging copies the whole of a source or says why not, and what it copied is on disk."""

import errno
import os
import threading
from pathlib import Path

import pytest

from jobs.journal import JobState
from jobs.places import place_of
from jobs.steps import staging
from jobs.work import RunSettings, Work
from lading.errors import LadingError
from tests.test_jobs_table import parsed


def work_of(tmp_path: Path, source: Path) -> Work:
    header = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,derivatives_dir"
    (job,) = parsed(f"{header}\nbehavior,1,2020-10-10 14:10:10,b-1,behavior,{source},{source}\n").jobs
    place = place_of(tmp_path / "runs", job.s3_bucket, job.prefix).create()
    settings = RunSettings(state_root=tmp_path / "runs")
    return Work(job, place, settings, "compress_data", "", JobState(), threading.Event(), print)


def copied(source: Path, target: Path, **more: Path) -> list[str]:
    return [copy.key for copy in staging.copy_tree(source, target, "behavior", check=lambda: None, **more)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source with a file at its top and one below."""
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "a.bin").write_bytes(b"1")
    (tmp_path / "source" / "deep" / "b.bin").write_bytes(b"2")
    return tmp_path / "source"


def test_a_source_that_is_gone_or_not_mounted_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(LadingError, match=r"typo cannot be read: No such file or directory"):
        copied(tmp_path / "typo", tmp_path / "staged")
    (tmp_path / "mount").mkdir()
    with pytest.raises(LadingError, match=r"mount holds no file"):
        copied(tmp_path / "mount", tmp_path / "staged")
    assert copied(source, tmp_path / "staged") == ["behavior/a.bin", "behavior/deep/b.bin"]
    (source / "a.bin").unlink()
    assert copied(source, tmp_path / "rest", leave_out=source / "deep") == []
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(LadingError, match="holds no file"):  # also where something else is to be left out
        copied(bare, tmp_path / "none", leave_out=source / "deep")


def test_a_directory_that_cannot_be_listed_stops_the_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def failing(path: str) -> object:
        if os.fspath(path).endswith("deep"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(LadingError, match=r"deep cannot be read: Input/output error"):
        copied(source, tmp_path / "staged")


def test_copies_are_on_disk_before_the_task_ends(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task flushes after its last copy, and before anything says that it is done; a failed flush is told."""
    work = work_of(tmp_path, source)
    staging.create(work)
    flushed: list[list[str]] = []
    sync = staging.sync_file_system

    def flush(folder: Path) -> None:
        flushed.append(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.bin")))
        assert list(work.place.lineage.iterdir()) == []
        sync(folder)

    monkeypatch.setattr(staging, "sync_file_system", flush)
    staging.copy_derivatives(work)
    staging.stage_folder(work, source, "behavior")
    derived = ["derivatives/a.bin", "derivatives/deep/b.bin"]
    assert flushed == [derived, ["behavior/a.bin", "behavior/deep/b.bin", *derived]]
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "gone")
