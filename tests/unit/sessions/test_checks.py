"""What is looked at before hours of work begin: every fault of every source in one sentence each."""

import threading
from pathlib import Path

import pytest

from lading.core.errors import LadingError
from lading.sessions.journal import JobState
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from lading.sessions.tasks import checks
from tests.unit.sessions.test_table import parsed

HEADER = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,modality1,modality1.source,metadata_dir"


def work_of(tmp_path: Path, first: Path, second: Path, metadata: str = "") -> TaskContext:
    row = f"ecephys,1,2020-10-10 14:10:10,b-1,ecephys,{first},behavior,{second},{metadata}"
    checked = parsed(f"{HEADER}\n{row}\n")
    assert not checked.faults
    (job,) = checked.jobs
    place = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix)
    settings = RunSettings(state_root=tmp_path / "runs")
    return TaskContext(job, place, settings, "check_source_folders_exist", "", JobState(), threading.Event(), print)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two sources as they should be; a link to a file elsewhere is one of them."""
    for name in ("ephys", "behavior"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.bin").write_bytes(b"12345")
    (tmp_path / "behavior" / "link.bin").symlink_to(tmp_path / "ephys" / "data.bin")
    return tmp_path / "ephys", tmp_path / "behavior"


def test_good_sources_are_counted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    counts = checks.sources(work_of(tmp_path, *folders))
    assert counts == {"modality0": {"files": 1, "bytes": 5}, "modality1": {"files": 2, "bytes": 10}}


def test_links_that_lead_nowhere_or_round_are_named_all_at_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ephys, behavior = folders
    (ephys / "deep").mkdir()
    (ephys / "deep" / "lost file").symlink_to(tmp_path / "gone.bin")
    (ephys / "lost folder").symlink_to(tmp_path / "gone", target_is_directory=True)
    (behavior / "round").symlink_to(tmp_path / "behavior")
    with pytest.raises(LadingError) as raised:
        checks.sources(work_of(tmp_path, ephys, behavior, str(tmp_path / "no metadata")))
    faults = str(raised.value).split("; ")
    assert sorted(faults) == sorted(
        [
            f"modality0: {ephys}/deep/lost file is a symbolic link that leads nowhere",
            f"modality0: {ephys}/lost folder is a symbolic link that leads nowhere",
            f"modality1: {behavior}/round is a link to a directory above it",
            f"metadata_dir: {tmp_path}/no metadata does not exist",
        ]
    )


def test_a_source_that_is_itself_a_lost_link_or_empty(folders: tuple[Path, Path], tmp_path: Path) -> None:
    lost, empty = tmp_path / "lost", tmp_path / "empty"
    lost.symlink_to(tmp_path / "nothing")
    empty.mkdir()
    with pytest.raises(LadingError) as raised:
        checks.sources(work_of(tmp_path, lost, empty))
    assert f"modality0: {lost} is a symbolic link that leads nowhere" in str(raised.value)
    assert f"modality1: {empty} holds no file" in str(raised.value)


def test_modalities_that_are_nested_by_way_of_a_link(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ephys, _ = folders
    (ephys / "videos").mkdir()
    (ephys / "videos" / "face.mp4").write_bytes(b"1")
    alias = tmp_path / "alias"
    alias.symlink_to(ephys / "videos")
    with pytest.raises(LadingError, match=r"is inside modality0.*modalities must not be nested"):
        checks.sources(work_of(tmp_path, ephys, alias))
