"""Videos that are to be encrypted go up in no other way: what is refused, and what is left out."""

import threading
from pathlib import Path

import pytest

from lading.core.errors import LadingError
from lading.sessions.job_model import Job
from lading.sessions.journal import JobState
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from lading.sessions.tasks import checks, staging, transform
from tests.unit.sessions.test_table import parsed

HEADER = (
    "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,modality0.compress_raw_data,"
    "modality0.skip_staging,modality0.command_script,derivatives_dir,video_encryption_password,behavior_dir"
)


def check_row(modality: str, source: Path, cells: str, behavior: Path, derivatives: Path | str = "", key: str = "k"):
    """Judge a row whose modality has ``cells``: compress_raw_data, skip_staging, command_script."""
    row = f"behavior,1,2020-10-10 14:10:10,b-1,{modality},{source},{cells},{derivatives},{key},{behavior}"
    return parsed(f"{HEADER}\n{row}\n")


def work_of(job: Job, tmp_path: Path, task: str, part: str = "") -> TaskContext:
    place = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix).create()
    return TaskContext(job, place, RunSettings(tmp_path / "runs"), task, part, JobState(), threading.Event(), print)


@pytest.mark.parametrize("below", ["", "videos"])
@pytest.mark.parametrize("cells", ["TRUE,,", ",TRUE,", ",,cp %INPUT_SOURCE %OUTPUT_LOCATION"])
def test_it_is_refused_where_its_modality_sends_all(tmp_path: Path, cells: str, below: str) -> None:
    checked = check_row("ecephys", tmp_path, cells, tmp_path / below)
    (fault,) = checked.faults
    assert (fault.line, fault.column) == (2, 12)
    assert fault.message == (
        "behavior_dir: is inside the source of modality0, which would send its videos unencrypted; "
        f"move it out of {tmp_path}"
    )
    assert check_row("ecephys", tmp_path, cells, tmp_path / below, key="").faults == ()
    assert check_row("ecephys", tmp_path / "apart", cells, tmp_path / "videos").faults == ()


def test_it_is_refused_as_a_copied_source_and_below_derivatives(tmp_path: Path) -> None:
    assert len(check_row("behavior", tmp_path, ",,", tmp_path).faults) == 1
    (fault,) = check_row("behavior", tmp_path / "a", ",,", tmp_path / "d" / "b", tmp_path / "d").faults
    assert fault.message.startswith("behavior_dir: is inside derivatives_dir, which would send its videos unencrypted")
    assert check_row("behavior", tmp_path, ",,", tmp_path / "videos").faults == ()
    assert check_row("behavior-videos", tmp_path, ",,", tmp_path).faults == ()


def test_links_do_not_hide_it(tmp_path: Path) -> None:
    """A list shows no links: the sources are judged again where they are, and a copy leaves it out behind a link."""
    source = tmp_path / "rig"
    (source / "videos").mkdir(parents=True)
    (source / "videos" / "face.mp4").write_bytes(b"face")
    (source / "trials.csv").write_text("1")
    (tmp_path / "alias").symlink_to(source / "videos")
    (source / "again").symlink_to(source / "videos")
    (sent,) = check_row("behavior", source, ",TRUE,", tmp_path / "alias").jobs
    with pytest.raises(LadingError, match=r"behavior_dir: .*alias is inside the source of modality0"):
        checks.sources(work_of(sent, tmp_path, "check_source_folders_exist"))
    (copied,) = check_row("behavior", source, ",,", tmp_path / "alias").jobs
    work = work_of(copied, tmp_path, "compress_data", "behavior")
    checks.sources(work)
    staging.create(work)
    transform.settle(work)
    transform.transform(work)
    assert [path.name for path in (work.staging / "behavior").rglob("*")] == ["trials.csv"]
