"""A job between the portal and its runner: what was validated arrives, and no secret is on the way."""

import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from lading.core.errors import UsageError
from lading.portal.submissions import take_json
from lading.sessions.job_model import Job, Modality, TaskOptions
from lading.sessions.jobfile import encode_job, overlaid, read_job
from lading.sessions.precedence import Context, Flags
from lading.sessions.presets import Presets
from tests.portal import lab_job, list_text, serve

ODD = Path("/data/caf\udce9 ,'\"\N{SNOWMAN}")


def everything() -> Job:
    """A job with every field set, to something other than its default."""
    task = TaskOptions(
        skip_task=True,
        image="lab/tool",
        image_version="1.10",
        image_resources={"memory": "8G", "cpus": 4},
        job_settings={"a": {"b.c": [1, 2.5, None, True, "1"], "empty": {}}, "nul": "\0", "zip": "007"},
        command_script="run %INPUT_SOURCE\n",
    )
    plain = TaskOptions(job_settings={"level": 3})
    first = Modality(
        number=7,
        modality="ecephys",
        source=ODD,
        folder="ecephys",
        compress_raw_data=True,
        skip_staging=True,
        extra_configs=Path("/c.json"),
        capsule_id="capsule-1",
        process_capsule_id="capsule-2",
        pipeline_id="pipe-1",
    )
    second = Modality(number=8, modality="behavior", source=None, folder="behavior")
    return Job(
        line=12,
        job_type="ours",
        project_name="Lab 3",
        platform="ecephys",
        subject_id="007",
        acq_datetime=datetime(2024, 5, 27, 16, 7, 59),
        s3_bucket="lab-bucket",
        prefix="ecephys_007_2024-05-27_16-07-59",
        modalities=(first, second),
        metadata_dir=Path("/m"),
        metadata_dir_force=True,
        behavior_dir=Path("/b"),
        derivatives_dir=Path("/d"),
        temp_directory=Path("/t"),
        time_zone="America/Los_Angeles",
        log_level="DEBUG",
        user_email="a@example.org",
        email_notification_types=("begin", "fail"),
        dry_run=True,
        force_cloud_sync=True,
        compress_raw_data=True,
        skip_staging=False,
        aws_param_store_name="/p",
        codeocean_domain="https://co.example.org",
        codeocean_trigger_capsule_id="t",
        codeocean_trigger_capsule_version="2",
        codeocean_process_capsule_id="p",
        codeocean_api_token=SecretStr("env:TOKEN"),
        metadata_service_domain="https://md.example.org",
        aind_data_transfer_repo_location="https://repo.example.org",
        video_encryption_password=SecretStr("file:/secrets/video"),
        processor_name="Jo",
        process_name="transfer",
        s3_prefix="ecephys_007_2024-05-27_16-07-59",
        tasks={"compress_data": {"": plain, "ecephys": task}, "send_end_email": {"": TaskOptions(skip_task=True)}},
    )


def unset(model: BaseModel) -> set[str]:
    return set(type(model).model_fields) - model.model_fields_set


def through(job: Job, tmp_path: Path, presets: Presets | None = None) -> Job:
    path = tmp_path / "job.json"
    path.write_text(encode_job(job), encoding="ascii")
    return read_job(path, presets or Presets())


def test_a_job_with_every_field_set_arrives_equal(tmp_path) -> None:
    job = everything()
    # A field that is added to a model must be added here too.
    assert not unset(job)
    assert not unset(job.modalities[0])
    assert not unset(job.tasks["compress_data"]["ecephys"])
    again = through(job, tmp_path)
    assert again == job
    assert again.task("compress_data", "ecephys") == job.task("compress_data", "ecephys")
    assert again.codeocean_api_token == SecretStr("env:TOKEN")
    # What nobody set is still what nobody set: it leaves room for what is said for all modalities.
    assert again.tasks["compress_data"][""].model_fields_set == {"job_settings"}


def test_a_job_of_the_interface_arrives_equal(tmp_path) -> None:
    settings = {"compression_level": 3, "input_source": "/data/1"}
    tasks = {"modality_transformation_settings": {"behavior": {"job_settings": {"input_source": "/data/1"}}}}
    presets = Presets(
        types={"default": {"modality_transformation_settings": {"": {"job_settings": {"skip_staging": False}}}}}
    )
    intake = take_json([lab_job("1", Path(settings["input_source"]), tasks=tasks, s3_bucket="b-1")], presets)  # type: ignore[arg-type]
    assert not intake.faults
    (job,) = intake.checked.jobs
    # With what the presets said when it came, whatever they say now.
    assert through(job, tmp_path) == job


def with_secrets() -> tuple[Job, Presets]:
    settings: dict[str, Any] = {
        "api_token": "clear-1",
        "nested": {"passwords": [{"of": "clear-2"}, "env:HERE"], "user": "jo"},
        "token_file": "/not/a/secret",
    }
    of_behavior = {"job_settings": {"password": "clear-3"}}
    presets = Presets(
        types={
            "default": {
                "update_docdb_record": {"": {"job_settings": settings}},
                "modality_transformation_settings": {"behavior": of_behavior},
            }
        },
        site={"defaults": {"codeocean_api_token": "clear-4"}},
    )
    job = everything().model_copy(
        update={
            "job_type": "default",
            "codeocean_api_token": SecretStr("clear-4"),
            "tasks": {
                "update_docdb_record": {"": TaskOptions(job_settings=json.loads(json.dumps(settings)))},
                "compress_data": {"behavior": TaskOptions(job_settings={"password": "clear-3", "level": 3})},
            },
        }
    )
    return job, presets


def test_a_secret_of_a_preset_is_taken_from_the_preset_again(tmp_path) -> None:
    job, presets = with_secrets()
    assert "clear-" not in encode_job(job)
    assert "env:HERE" in encode_job(job)
    assert "/not/a/secret" in encode_job(job)
    assert through(job, tmp_path, presets) == job
    with pytest.raises(UsageError, match="the preset no longer has codeocean_api_token"):
        through(job, tmp_path, Presets(types=presets.types))
    with pytest.raises(UsageError, match="no longer has"):
        through(job, tmp_path, Presets(site=presets.site))


def test_flags_and_the_parameter_are_laid_over_it() -> None:
    job = everything().model_copy(update={"dry_run": False})
    stored = {"/p": {"codeocean_domain": "https://other.example.org", "compress_raw_data": False, "subject_id": None}}
    found = overlaid(job, Context(Flags(dry_run=True), Presets(), stored))
    assert (found.dry_run, found.codeocean_domain) == (True, "https://other.example.org")
    # As in a list, what a parameter says of the whole job goes before what a modality says.
    assert [entry.compress_raw_data for entry in found.modalities] == [False, False]
    assert (found.prefix, found.tasks, found.line) == (job.prefix, job.tasks, job.line)
    assert overlaid(job, Context()) is job


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2, "kind": "job", "job": {}}',
        '{"format": 1, "kind": "job", "job": {}}',
        '{"format": 1, "kind": "job", "job": {"modalities": 7, "tasks": {"x": 1}}}',
        '{"format": 1, "kind": "job", "job": {"line": 1, "unknown": "7"}}',
    ],
)
def test_what_is_no_job_is_one_sentence(run, tmp_path, text: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(text)
    done = run("-m", "jobs", "run", path, "--state", tmp_path / "runs")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "submit it again" in done.stderr


_OLD = """
create table job (
  id text primary key, prefix text not null, bucket text not null, job_type text not null, user_email text,
  row text not null, state text not null, comment text not null default '', attempt integer not null default 1,
  cancel integer not null default 0, submitted text not null, started text, ended text
);
"""


@pytest.mark.long
def test_jobs_of_an_old_database_are_done_and_new_ones_beside_them(tmp_path, s3, bucket) -> None:
    s3.make_bucket(bucket)
    source = tmp_path / "behavior"
    source.mkdir()
    (source / "trials.csv").write_bytes(b"1,2,3")
    (tmp_path / "home").mkdir(mode=0o700)
    row = {
        "project_name": "Lab",
        "job_type": "default",
        "platform": "behavior",
        "subject_id": "1",
        "acq_datetime": "2024-05-27 16:07:59",
        "modality0": "behavior",
        "modality0.source": str(source),
    }
    prefix = "behavior_1_2024-05-27_16-07-59"
    with closing(sqlite3.connect(tmp_path / "home" / "jobs.sqlite")) as connection:
        connection.executescript(_OLD)
        values = ("old", prefix, bucket, "default", None, list_text([row]), "queued", "2026-01-01T00:00:00.000Z")
        connection.execute(
            "insert into job (id, prefix, bucket, job_type, user_email, row, state, submitted) "
            "values (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        connection.commit()
    with serve(tmp_path, "--bucket", bucket, "--endpoint-url", s3.endpoint) as portal:
        answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("2", source)]})
        assert answer.status_code == 200, answer.text
        assert {job["name"]: job["job_state"] for job in portal.wait()} == {
            prefix: "success",
            "behavior_2_2024-05-27_16-07-59": "success",
        }
    (path,) = (tmp_path / "home" / "jobs").glob("*/job.json")
    (expected,) = take_json([lab_job("2", source)], Presets(), bucket).checked.jobs
    assert read_job(path, Presets()) == expected
