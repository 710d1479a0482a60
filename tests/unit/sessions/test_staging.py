"""Staging copies the whole of a source or says why not, and what it copied is on disk."""

import errno
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lading.core.atomic import AppendLog
from lading.core.errors import LadingError
from lading.core.walking import walk_followed
from lading.sessions.journal import JobState
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from lading.sessions.tasks import checks, staging
from tests.unit.sessions.test_table import parsed


def work_of(tmp_path: Path, source: Path) -> TaskContext:
    header = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,derivatives_dir"
    (job,) = parsed(f"{header}\nbehavior,1,2020-10-10 14:10:10,b-1,behavior,{source},{source}\n").jobs
    place = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix).create()
    settings = RunSettings(state_root=tmp_path / "runs")
    return TaskContext(job, place, settings, "compress_data", "", JobState(), threading.Event(), print)


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


def moved(work: TaskContext, above: Path) -> TaskContext:
    """The same job with another temp_directory."""
    above.mkdir(exist_ok=True)
    return replace(work, job=work.job.model_copy(update={"temp_directory": above}))


def test_a_staging_folder_of_another_temp_directory_is_found_again(source: Path, tmp_path: Path) -> None:
    work = work_of(tmp_path, source)
    folders = []
    for name in ("one", "two"):
        staging.create(here := moved(work, tmp_path / name))
        folders.append(here.staging)
        (here.staging / "bytes").write_bytes(b"staged")
    assert [folder.exists() for folder in folders] == [False, True], "the first one went when the second was made"
    assert not work.place.old_stagings.exists()
    staging.create(work)
    assert not folders[1].exists()
    assert work.staging == work.place.directory / "staged"


def test_what_cannot_be_removed_is_named_until_it_can(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    work = replace(work_of(tmp_path, source), say=said.append)
    staging.create(first := moved(work, tmp_path / "one"))
    old = first.staging
    remove_tree = staging._remove_tree

    def refuse(folder: Path) -> None:
        if folder == old:
            raise LadingError(f"the staging folder {folder} cannot be removed: Read-only file system")
        remove_tree(folder)

    monkeypatch.setattr(staging, "_remove_tree", refuse)
    staging.create(moved(work, tmp_path / "two"))
    staging.create(third := moved(work, tmp_path / "three"))
    assert [sentence for sentence in said if str(old) in sentence and "Read-only" in sentence] == said
    assert len(said) == 2
    assert staging.remove(third)["left"]
    monkeypatch.setattr(staging, "_remove_tree", remove_tree)
    assert "left" not in staging.remove(third)
    assert not old.exists()
    assert not work.place.old_stagings.exists()
    # A folder of another machine's own disk: not here, and not forgotten.
    with AppendLog(work.place.old_stagings) as log:
        log.append([{"folder": str(old), "host": "node07"}])
    assert "perhaps on node07" in str(staging.remove(third)["left"])
    assert work.place.old_stagings.exists()


def test_a_staging_folder_in_a_source_is_refused(source: Path, tmp_path: Path) -> None:
    work = work_of(tmp_path, source)
    inside = source / "deep"
    for folder in (inside, tmp_path / "alias"):
        if folder != inside:
            folder.symlink_to(inside)  # only the file system knows where it leads
        with pytest.raises(LadingError, match=r"modality0.source, .*, overlap; give a temp_directory"):
            staging.create(moved(work, folder))
        with pytest.raises(LadingError, match="overlap"):
            checks.sources(moved(work, folder))
    assert sorted(os.listdir(inside)) == ["b.bin"]
    # A source in the folder would go when that is made anew.
    work.place.directory.joinpath("staged").mkdir()
    shutil.move(source, work.place.directory / "staged" / "source")
    source.symlink_to(work.place.directory / "staged" / "source")
    with pytest.raises(LadingError, match="overlap"):
        staging.create(work)
    assert (source / "a.bin").exists()


def test_a_temp_directory_in_a_source_is_an_error_of_its_cell() -> None:
    header = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,temp_directory"
    for folder in ("/data/s", "/data/s/tmp"):
        checked = parsed(f"{header}\nbehavior,1,2020-10-10 14:10:10,b-1,behavior,/data/s,{folder}\n")
        assert "temp_directory: is inside modality0.source, /data/s" in str(checked.faults[0])
    assert not parsed(f"{header}\nbehavior,1,2020-10-10 14:10:10,b-1,behavior,/data/s,/data/tmp\n").faults


def test_links_that_lead_round_end(source: Path, tmp_path: Path) -> None:
    """Two folders that name one another, many times: the ways through them are without number."""
    other = tmp_path / "other"
    other.mkdir()
    for number in range(12):
        (source / f"to{number}").symlink_to(other)
        (other / f"back{number}").symlink_to(source)
    with pytest.raises(LadingError, match=r"to0/back0 is a link to a directory above it"):
        copied(source, tmp_path / "staged")
    found: list[str] = []
    assert len(list(walk_followed(source, lambda path, why: found.append(f"{path} {why}")))) == 2 + 12
    assert len(found) == 144
