"""Settings of aind-metadata-mapper: read where it is installed, refused with the extra's name where it is not."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from lading.core.extras import is_there
from lading.portal.submissions import take_json
from lading.sessions import job_runner, task_reading, task_settings
from lading.sessions.job_model import Job
from lading.sessions.presets import Presets
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings
from tests.conftest import need
from tests.servers.web import Reply, Request, serve

GATHER = "gather_preliminary_metadata"


def checked(settings: dict[str, Any], presets: Presets | None = None, **more: Any) -> tuple[list[Job], list[str]]:
    fields = {
        "job_type": "default", "project_name": "Lab", "subject_id": "123456",
        "acq_datetime": "2024-05-27T16:07:59-07:00",
        "s3_bucket": "b-1", "modalities": ["behavior"], **more,
        "tasks": {
            "modality_transformation_settings": {
                "behavior": {"job_settings": {"input_source": more.get("source", "/a")}}
            },
            GATHER: {"job_settings": settings},
            "check_s3_folder_exists": {"skip_task": True},
        },
    }  # fmt: skip
    fields.pop("source", None)
    found = take_json([fields], presets or Presets())
    return list(found.checked.jobs), [fault.message for fault in found.faults]


def test_without_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_settings, "has_mapper", lambda: False)
    jobs, faults = checked({"instrument_settings": {"instrument_id": "13A"}})
    assert not jobs
    (fault,) = faults
    assert "instrument_settings" in fault
    assert "pip install 'lading[mapper]'" in fault


def test_what_older_versions_read_is_refused_by_any() -> None:
    for key in ("session_settings", "directory_to_write_to", "rig_settings"):
        jobs, faults = checked({key: "%OUTPUT_LOCATION"})
        assert not jobs
        assert any("before 1.0" in fault for fault in faults)


def test_with_it_its_settings_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_reading.task_settings, "has_mapper", lambda: True)
    given = {"data_description_settings": {"tags": ["a"]}, "output_dir": "%OUTPUT_LOCATION", "raise_if_invalid": True}
    (job,), faults = checked(given)
    assert faults == []
    assert job.task(GATHER).job_settings == given
    for settings, words in (
        ({"instrument_settings": {"instrument": "13A"}}, "is not read by aind-metadata-mapper"),
        ({"output_dir": "/somewhere"}, "is not one of"),
        ({**given, "tags": ["b"]}, "write it into data_description_settings"),
        ({**given, "raise_if_invald": True}, "raise_if_invald"),
    ):
        jobs, faults = checked(settings)
        assert not jobs
        assert any(words in fault for fault in faults), faults
    # What a preset says for everybody is of no use to this job, and is in neither.
    preset = Presets(types={"default": {GATHER: {"": {"job_settings": {"tags": ["of all"], "timeout": 5}}}}})
    (job,), faults = checked(given, preset)
    assert faults == []
    assert job.task(GATHER).job_settings == {**given, "timeout": 5}


@pytest.mark.parametrize("platform", [None, pytest.param("behavior", marks=pytest.mark.long)])
def test_it_is_run_on_copies_and_its_files_are_kept(tmp_path: Path, platform: str | None) -> None:
    need(None if is_there(task_settings.MAPPER) else "not installed: aind-metadata-mapper")
    (tmp_path / "behavior").mkdir()
    (tmp_path / "behavior" / "data.bin").write_bytes(b"12345")
    prepared = tmp_path / "metadata"
    prepared.mkdir()
    (prepared / "notes.json").write_text('{"note": 1}')
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        asked.append(request.path)
        if "funding" in request.path:
            return 200, [
                {
                    "funder": {
                        "name": "Allen Institute",
                        "abbreviation": "AI",
                        "registry": "Research Organization Registry (ROR)",
                        "registry_identifier": "03cpe7c52",
                    }
                }
            ]
        if "investigators" in request.path:
            return 200, [{"name": "Ada Lovelace"}]
        return 404, {"message": "no such subject"}

    settings = {
        "metadata_dir": str(prepared),
        "data_description_settings": {"tags": ["from the list"], "data_summary": "A try"},
        "allow_unreachable": True,
    }
    with serve(answer) as service:
        more = {"platform": platform} if platform else {}
        (job,), faults = checked(
            settings, source=str(tmp_path / "behavior"), metadata_service_domain=service.url, **more
        )
        assert faults == []
        run = RunSettings(state_root=tmp_path / "runs")
        result = job_runner.run_job(job, run, threading.Event(), until="check_metadata_files")
    place = paths_of(tmp_path / "runs", "b-1", job.prefix)
    assert result.message == "done up to check_metadata_files", (result, place.log(GATHER).read_text()[-3000:])
    staged = Path(place.staging.read_text())
    description = json.loads((staged / "data_description.json").read_text())
    assert description["name"] == job.prefix
    assert description["tags"] == ["from the list"]
    assert description["project_name"] == "Lab"
    assert json.loads((staged / "notes.json").read_text()) == {"note": 1}
    assert any("123456" in path for path in asked)
    # The directory that somebody prepared is as it was, and nothing of the mapper's own is sent.
    assert [path.name for path in prepared.iterdir()] == ["notes.json"]
    assert {path.name for path in staged.iterdir()} >= {"behavior", "data_description.json", "metadata.nd.json"}
    assert not (staged / "original_metadata").exists()
