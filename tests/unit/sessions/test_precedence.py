"""Which of several values counts, and what the service's own clients send."""

import json
from pathlib import Path

import pytest

from lading.portal.submissions import take_json
from lading.sessions.precedence import Flags
from lading.sessions.presets import PresetDirectory, Presets, load
from tests.unit.sessions.test_table import parsed

HEADER = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source"
ROW = "ecephys,1,2020-10-10 14:10:10,b-1,ecephys,/a"


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    """What is said for every modality, and what for one."""
    tasks = tmp_path / "job_types/v2/default/tasks"
    (tasks / "modality_transformation_settings").mkdir(parents=True)
    general = {"codec": "blosc-zstd", "level": 1, "skip_staging": True, "compress_raw_data": False}
    special = {"codec": "pcodec", "compress_raw_data": True}
    (tasks / "modality_transformation_settings.json").write_text(json.dumps({"job_settings": general}))
    (tasks / "modality_transformation_settings" / "ecephys.json").write_text(json.dumps({"job_settings": special}))
    return load(PresetDirectory(tmp_path), "presets")


def test_a_preset_for_one_modality_goes_before_the_one_for_all(presets: Presets) -> None:
    more = f"{HEADER},modality0.job_settings.chunk_seconds\n{ROW},3\n"
    (job,) = parsed(more, presets=presets).jobs
    # Key by key, the row last.
    found = job.task("compress_data", "ecephys").job_settings
    assert found == {"codec": "pcodec", "level": 1, "chunk_seconds": 3, "compress_raw_data": True}
    assert (job.modalities[0].compress_raw_data, job.modalities[0].skip_staging) == (True, True)
    (other,) = parsed(f"{HEADER}\n{ROW.replace(',ecephys,', ',behavior,')}\n", presets=presets).jobs
    # It is not compressed: what is said for all modalities is of no use to it.
    assert other.task("compress_data", "behavior").job_settings == {"compress_raw_data": False}


def test_objects_are_merged_and_lists_replaced_where_a_program_reads_them(tmp_path: Path) -> None:
    tasks = tmp_path / "job_types/v2/default/tasks/modality_transformation_settings"
    tasks.mkdir(parents=True)
    general = {"command_script": "echo %JOB_SETTINGS", "job_settings": {"keep": {"a": 1, "b": [2]}, "n": {"x": 1}}}
    (tasks / "ecephys.json").write_text(json.dumps(general))
    job = job_of_the_models()
    inner = job["tasks"]["modality_transformation_settings"]["ecephys"]["job_settings"]
    inner |= {"keep": {"b": [3]}, "n": None, "a.b": "1.10"}
    (made,) = take_json([job], load(PresetDirectory(tmp_path), "presets")).checked.jobs
    found = made.task("compress_data", "ecephys").job_settings
    assert found == {"keep": {"a": 1, "b": [3]}, "n": None, "a.b": "1.10"}


def test_each_source_gives_way_to_the_one_before_it(presets: Presets) -> None:
    header = f"{HEADER},aws_param_store_name,modality0.compress_raw_data"
    stored = {"/p": {"compress_raw_data": True}}
    sources = []
    for flags, name, cell in (
        (Flags(compress_raw_data=True), "/p", "FALSE"),
        (Flags(), "/p", "FALSE"),
        (Flags(), "", "FALSE"),
        (Flags(), "", ""),
    ):
        text = f"{header}\n{ROW},{name},{cell}\n"
        checked = parsed(text, flags=flags, presets=presets, parameters=stored)
        assert not checked.faults
        value = next(value for value in checked.rows[0].values if value.name == "modality0.compress_raw_data")
        sources.append((value.source.split()[0], value.value))
    bare = parsed(f"{header}\n{ROW},,\n").rows[0].values
    value = next(value for value in bare if value.name == "modality0.compress_raw_data")
    sources.append((value.source, value.value))
    assert sources == [
        ("flag", True), ("parameter", True), ("cell", "FALSE"), ("preset", True), ("default", True),
    ]  # fmt: skip


def test_resources_that_slurm_would_refuse_are_faults_of_their_row() -> None:
    header = f"{HEADER},compress_data.image_resources.memroy"
    checked = parsed(f"{header}\n{ROW},5\n{ROW.replace('1,2020', '2,2020')},\n")
    assert [(fault.line, fault.column) for fault in checked.faults] == [(2, 7)]
    assert "memroy is not known" in checked.faults[0].message
    assert [job.line for job in checked.jobs] == [3]


def test_resources_of_a_preset_are_named_with_it(tmp_path: Path) -> None:
    preset = tmp_path / "job_types/v2/default/tasks/modality_transformation_settings/ecephys.json"
    preset.parent.mkdir(parents=True)
    preset.write_text(json.dumps({"image_resources": {"partition": "a b"}}))
    (fault,) = parsed(f"{HEADER}\n{ROW}\n", presets=load(PresetDirectory(tmp_path), "presets")).faults
    assert fault.line == 2
    assert "'a b' is not a value for --partition" in fault.message
    assert "preset job_types/v2/default/tasks/modality_transformation_settings/ecephys" in fault.message


def job_of_the_models(**more: object) -> dict:
    """A job as the service's own model writes it: whole objects for modality and platform, empty fields of tasks."""
    task = {"skip_task": False, "image": None, "image_resources": {}, "command_script": ""}
    return {
        "job_type": "default",
        "project_name": "Lab",
        "platform": {"name": "Electrophysiology platform", "abbreviation": "ecephys"},
        "subject_id": "1",
        "acq_datetime": "2024-05-27T16:07:59",
        "s3_bucket": "b-1",
        "modalities": [{"name": "Extracellular electrophysiology", "abbreviation": "ecephys"}],
        "tasks": {
            "modality_transformation_settings": {"ecephys": {**task, "job_settings": {"input_source": "/a"}}},
            "check_s3_folder_exists": {**task, "skip_task": True, "job_settings": {}},
        },
        **more,
    }


def test_what_clients_with_the_services_models_send_is_understood() -> None:
    intake = take_json([job_of_the_models()], Presets())
    assert not intake.faults
    (job,) = intake.checked.jobs
    assert (job.prefix, str(job.modalities[0].source)) == ("ecephys_1_2024-05-27_16-07-59", "/a")
    assert job.task("check_s3_folder_exists").skip_task


def test_a_job_of_another_shape_is_one_fault() -> None:
    tasks = {"modality_transformation_settings": {"ecephys": {"image": "x", "job_settings": {"input_source": "/a"}}}}
    intake = take_json([job_of_the_models(tasks=tasks)], Presets())
    assert {fault.line for fault in intake.faults} == {2}
    assert any("modality0.image: is not read without a command_script" in fault.message for fault in intake.faults)
