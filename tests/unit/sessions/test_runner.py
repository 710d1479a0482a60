"""One job in this process: how it is stopped, and what its notices may not do to it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.core.atomic import read_log
from lading.sessions import job_runner as workflow
from lading.sessions import tasks as steps
from lading.sessions.job_model import Job
from lading.sessions.journal import read_state
from lading.sessions.result import JobResult
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from tests.servers.web import serve
from tests.unit.sessions.test_table import parsed

HEADER = (
    "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,check_s3_folder_exists.skip_task,"
    "remove_staging_folder.always"
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A session of one file, of which nothing is left in staging after a failure."""
    (tmp_path / "behavior").mkdir()
    (tmp_path / "behavior" / "data.bin").write_bytes(b"12345")
    row = f"behavior,1,2020-10-10 14:10:10,b-1,behavior,{tmp_path / 'behavior'},TRUE,TRUE"
    (job,) = parsed(f"{HEADER}\n{row}\n").jobs
    return job


def done(job: Job, tmp_path: Path, stop: threading.Event, **site: object) -> JobResult:
    settings = RunSettings(state_root=tmp_path / "runs", site=site)
    return workflow.run_job(job, settings, stop, until="gather_final_metadata")


def after(monkeypatch: pytest.MonkeyPatch, task: str, action: Callable[[], None]) -> None:
    """Have something done as a task ends."""
    find = steps.find

    def found(name: str, *, dry_run: bool) -> Callable[[TaskContext], Any]:
        run = find(name, dry_run=dry_run)

        def watched(work: TaskContext) -> Any:
            facts = run(work)
            if name == task:
                action()
            return facts

        return watched

    monkeypatch.setattr(steps, "find", found)


def test_a_row_that_is_reached_after_the_stop_is_left_alone(job: Job, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    outcome = done(job, tmp_path, stop)
    assert (outcome.state, outcome.message.split(";")[0]) == ("failed", "interrupted")
    assert not (tmp_path / "runs").exists()


def test_an_interruption_is_told_to_nobody_and_keeps_the_staging_folder(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    place = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix)
    with serve(lambda request: (200, {})) as web:
        with monkeypatch.context() as patch:
            after(patch, "compress_data", stop.set)
            assert done(job, tmp_path, stop, webhook={"url": web.url}).message.startswith("interrupted")
        assert [request.body["event"] for request in web.requests] == ["begin"]
        assert (place.directory / "staged" / "behavior" / "data.bin").exists()
        assert done(job, tmp_path, threading.Event(), webhook={"url": web.url}).message.startswith("done up to")
    assert read_state(place.journal).task("compress_data", "behavior").attempts == 1


def test_a_notice_that_cannot_be_made_ends_no_job(job: Job, tmp_path: Path) -> None:
    Path(job.modalities[0].source / "data.bin").unlink()
    outcome = done(job, tmp_path, threading.Event(), webhook="https://hooks.example.org")
    assert (outcome.state, outcome.task) == ("failed", "check_source_folders_exist")
    log = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix).log("send_job_end_email").read_text()
    assert "the notice of fail could not be sent: unexpected AttributeError" in log


def test_a_corrected_file_of_settings_or_metadata_is_read_again(tmp_path: Path) -> None:
    for name in ("behavior", "prepared"):
        (tmp_path / name).mkdir()
    (tmp_path / "behavior" / "data.bin").write_bytes(b"12345")
    configs, notes, other = tmp_path / "c.yaml", tmp_path / "prepared" / "notes.json", tmp_path / "prepared" / "b.json"
    header = HEADER.removesuffix(",remove_staging_folder.always") + ",modality0.extra_configs,metadata_dir"
    row = f"behavior,1,2020-10-10 14:10:10,b-1,behavior,{tmp_path / 'behavior'},TRUE,{configs},{tmp_path / 'prepared'}"
    configs.write_text("{a: 1}")
    notes.write_text('{"note": 1}')
    other.write_text("{}")
    (job,) = parsed(f"{header}\n{row}\n").jobs
    place = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix)

    def starts() -> tuple[int, int]:
        done(job, tmp_path, threading.Event())
        events = [event for event in read_log(place.journal) if event and event.get("state") == "finished"]
        tasks = [event["task"] for event in events]
        return tasks.count("gather_preliminary_metadata"), tasks.count("modality_transformation_settings")

    assert starts() == (1, 1)
    assert starts() == (1, 1)
    notes.write_text('{"note": 2}')
    other.unlink()
    assert starts() == (2, 1)
    staged = place.directory / "staged"
    assert (staged / "notes.json").read_text().split() == ["{", '"note":', "2", "}"]
    assert not (staged / "b.json").exists()
    configs.write_text("{a: 2}")
    assert starts() == (3, 2)
    configs.unlink()
    assert starts() == (3, 2)
