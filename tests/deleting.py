"""One session whose job steps run in this process: staged, compressed, uploaded, its sources deleted.

The programs that the steps start are called by their ``main`` instead, so that
a scenario takes a second; s5cmd, the S3 server and the disk are the real ones.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from lading.cli import batch, find, upload, verify
from lading.compress import launcher as launch
from lading.core.errors import LadingError
from lading.sessions import table
from lading.sessions import tasks as steps
from lading.sessions.job_model import Job, check
from lading.sessions.journal import JobState
from lading.sessions.precedence import Context
from lading.sessions.state_paths import JobPaths, paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from tests.conftest import REPOSITORY

MAINS = {
    "find.py": find.main,
    "batch.py": batch.main,
    "upload.py": upload.main,
    "verify": verify.main,
}
MIB = 1 << 20


def run_here(work: TaskContext, *arguments: object, directory: Path | None = None, **_: Any) -> int:
    """Do what ``TaskContext.run_python`` does, without a process of its own."""
    first, *rest = map(str, arguments)
    if first == "-m":
        first, *rest = rest
    name = first.removeprefix(f"{REPOSITORY}/")
    if name == "lading":
        name = rest.pop(0)
    main = MAINS.get(name)
    if name == "jobs":
        assert rest.pop(0) == "compress"
        main = importlib.import_module("lading.cli.compress").main
    assert main is not None, name
    with contextlib.chdir(directory or os.getcwd()), contextlib.redirect_stdout(io.StringIO()):
        code = main(rest)
    if code:
        raise LadingError(f"{name} ended with {code}")
    return code


@contextlib.contextmanager
def steps_in_process() -> Iterator[None]:
    """Let the steps of a job call their programs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskContext, "run_python", run_here)
        patch.setattr(launch, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))
        yield


class Session:
    """A row of a job list; ``sources`` maps a modality to its folder and further cells."""

    def __init__(self, directory: Path, endpoint: str, bucket: str, sources: dict[str, tuple[Path, dict[str, str]]]):
        self.endpoint, self.bucket = endpoint, bucket
        cells = {
            "platform": "ecephys", "subject_id": "1000", "acq_datetime": "2024-05-27 16:07:00", "s3_bucket": bucket,
        }  # fmt: skip
        for number, (modality, (source, more)) in enumerate(sources.items()):
            cells |= {f"modality{number}": modality, f"modality{number}.source": str(source)}
            cells |= {f"modality{number}.{name}": value for name, value in more.items()}
        text = ",".join(cells) + "\n" + ",".join(cells.values()) + "\n"
        checked = check(table.read_bytes(text.encode(), "list.csv"), Context())
        assert not checked.faults, checked.faults
        (self.job,) = checked.jobs
        self.settings = RunSettings(state_root=directory / "runs", endpoint=endpoint, workers=4)
        self.place: JobPaths = paths_of(self.settings.state_root, bucket, self.job.prefix).create()
        self.said: list[str] = []

    def work(self, task: str, part: str = "", job: Job | None = None) -> TaskContext:
        return TaskContext(
            job or self.job, self.place, self.settings, task, part, JobState(), threading.Event(), self.said.append
        )

    def step(self, task: str, part: str = "") -> dict[str, Any]:
        return dict(steps.find(task, dry_run=False)(self.work(task, part)))

    def stage(self) -> None:
        self.step("create_staging_folder")
        self.step("modality_transformation_settings")
        for entry in self.job.modalities:
            self.step("compress_data", entry.folder)

    def upload(self) -> None:
        self.step("upload_data_to_s3")

    def deliver(self) -> None:
        self.stage()
        self.upload()

    def remove(self, **options: Any) -> tuple[int, list[str]]:
        """Delete the sources; return how many files are gone and the sentences for those that stay."""
        settings = {"skip_task": False, "job_settings": {"dry_run": False, **options}}
        task = self.job.task("remove_source_folders").model_copy(update=settings)
        job = self.job.model_copy(update={"tasks": {**self.job.tasks, "remove_source_folders": {"": task}}})
        before = set(self.files())
        with contextlib.suppress(LadingError):
            steps.find("remove_source_folders", dry_run=False)(self.work("remove_source_folders", job=job))
        listed = self.place.directory / "removable.json"
        kept = json.loads(listed.read_text())["kept"] if listed.exists() else []
        return len(before - set(self.files())), kept

    def files(self) -> list[Path]:
        """Every file and link of every source, by ``os.walk`` alone."""
        found = []
        for entry in self.job.modalities:
            for directory, _, names in os.walk(entry.source):
                found += [Path(directory, name) for name in names]
            if entry.source.is_file():
                found.append(entry.source)
        return sorted(found)

    @functools.cached_property
    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.endpoint)

    @property
    def staged(self) -> Path:
        return Path(self.place.staging.read_text())
