"""Settings at every place where one may be written: shown, received and recorded alike; an unknown key is refused.

A place is a column (plain, with ``job_settings``, as one cell of JSON) of a
csv or a workbook, a request, a preset (of a task, of one modality, of all of
them in one value), a file of settings.
"""

import io
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from lading.core.errors import LadingError
from lading.portal.submissions import take_json
from lading.sessions import job_runner, table, task_settings
from lading.sessions import tasks as steps
from lading.sessions.job_model import Checked, check
from lading.sessions.precedence import Context, Flags, trails
from lading.sessions.presets import PresetDirectory, Presets, load
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from lading.sessions.task_reading import preset_errors

TRANSFORM = "modality_transformation_settings"
BASE = {
    "job_type": "default", "project_name": "Lab", "platform": "ecephys", "subject_id": "1",
    "acq_datetime": "2024-05-27 16:07:59", "s3_bucket": "b-1", "modality0": "ecephys", "modality0.source": "/a",
    "remove_source_folders.skip_task": "FALSE",  # off by itself, and then nothing reads its settings
}  # fmt: skip
CHOICES: dict[tuple[str, str], list[Any]] = {
    ("gather_preliminary_metadata", "institution"): ["AIND", "1.10", "0012"],
    ("gather_preliminary_metadata", "tags"): [["a", "1"], ["x"]],
    ("gather_preliminary_metadata", "allow_unreachable"): [True, False],
    ("gather_preliminary_metadata", "timeout"): [5, 2.5],
    ("check_metadata_files", "strict"): [True, False],
    ("remove_staging_folder", "always"): [True, False],
    ("remove_source_folders", "level"): ["etag", "download"],
    ("upload_data_to_s3", "replace_others"): [True, False],
    ("update_docdb_record", "collection"): ["13", "true", "1e3"],
    ("register_data_asset_to_codeocean", "properties"): [{"a": "1.10"}, {"b": "x", "c": "y"}],
    (TRANSFORM, "codec"): ["pcodec", "blosc-zstd"],
    (TRANSFORM, "level"): [1, 5],
    (TRANSFORM, "chunk_seconds"): [1, 0.5],
    (TRANSFORM, "no_clip"): [True, False],
}
LIST_PLACES = ("column", "job_settings column", "JSON cell")
PRESET_PLACES = ("preset", "preset of the modality", "preset in one value")
PLACES = (*LIST_PLACES, "request", *PRESET_PLACES)
Picked = list[tuple[tuple[str, str], Any, str]]


@st.composite
def chosen(draw: st.DrawFn) -> tuple[Picked, str]:
    """Some settings, each with its place, and how the rows come."""
    way = draw(st.sampled_from(["csv", "xlsx", "request"]))
    rows = ("request",) if way == "request" else LIST_PLACES
    picked: Picked = []
    for key in draw(st.lists(st.sampled_from(list(CHOICES)), unique=True, max_size=6)):
        places = (*rows, *PRESET_PLACES) if key[0] == TRANSFORM else (*rows, "preset")
        picked.append((key, draw(st.sampled_from(CHOICES[key])), draw(st.sampled_from(places))))
    if any(place == "preset in one value" for *_, place in picked):
        # A file of a task holds fields, or modalities with their fields.
        picked = [(key, value, "preset in one value" if (key[0], place) == (TRANSFORM, "preset") else place)
                  for key, value, place in picked]  # fmt: skip
    return picked, way


def presets_of(picked: Picked) -> dict[str, Any]:
    """Presets as files hold them: key → value."""
    found: dict[str, Any] = {}
    for (task, key), value, place in picked:
        name, keys = f"job_types/v2/default/tasks/{task}", ["job_settings", key]
        if place == "preset of the modality":
            name += "/ecephys"
        elif place == "preset in one value":
            # Of one task there is one file: the modality's own wins over it.
            keys = ["ecephys", *keys]
        elif place != "preset":
            continue
        below = found.setdefault(name, {})
        for part in keys[:-1]:
            below = below.setdefault(part, {})
        below[keys[-1]] = value
    return found


def cells_of(picked: Picked) -> dict[str, Any]:
    cells: dict[str, Any] = dict(BASE)
    together: dict[str, dict[str, Any]] = {}
    for (task, key), value, place in picked:
        owner = "modality0" if task == TRANSFORM else task
        if place == "column":
            cells[f"{owner}.{key}"] = value
        elif place == "job_settings column":
            cells[f"{owner}.job_settings.{key}"] = value
        elif place == "JSON cell":
            together.setdefault(f"{owner}.job_settings", {})[key] = value
    return cells | together


def as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def made(picked: Picked, way: str, directory: Path) -> Checked:
    """The job with its settings at their places."""
    for name, value in presets_of(picked).items():
        path = directory / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    presets = load(PresetDirectory(directory), "here") if any(directory.iterdir()) else Presets()
    if way == "request":
        return take_json([request_of(picked)], presets).checked
    cells = cells_of(picked)
    content = io.BytesIO()
    if way == "xlsx":
        book = Workbook()
        assert book.active
        book.active.append(list(cells))
        # A spreadsheet has numbers and truth values of its own; text stays text.
        book.active.append([as_text(value) if isinstance(value, (dict, list)) else value for value in cells.values()])
        book.save(content)
    else:
        rows = [list(cells), [as_text(value) for value in cells.values()]]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
        content.write("\n".join(lines).encode())
    return check(table.read_bytes(content.getvalue(), f"list.{way}"), Context(Flags(), presets))


def request_of(picked: Picked) -> dict[str, Any]:
    tasks: dict[str, Any] = {TRANSFORM: {"ecephys": {"job_settings": {"input_source": "/a"}}}}
    for (task, key), value, place in picked:
        if place == "request":
            below = tasks.setdefault(task, {})
            below = below.setdefault("ecephys", {}) if task == TRANSFORM else below
            below.setdefault("job_settings", {})[key] = value
    tasks.setdefault("remove_source_folders", {})["skip_task"] = False
    fields = {name: value for name, value in BASE.items() if not name.startswith(("modality", "remove"))}
    return {**fields, "modalities": ["ecephys"], "tasks": tasks}


def run(found: Checked, directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each task's function got, by the names that ``explain`` has for it."""
    received: dict[str, Any] = {}

    def stand_in(name: str, *, dry_run: bool) -> Any:
        def task(work: TaskContext) -> Mapping[str, Any]:
            owner = f"{TRANSFORM}/0" if name == "compress_data" else name
            for trail, value in trails(work.options):
                received[".".join([owner, "job_settings", *trail])] = value
            return {}

        return task

    patch.setattr(steps, "find", stand_in)
    (job,) = found.jobs
    result = job_runner.run_job(job, RunSettings(state_root=directory), threading.Event())
    assert (result.state, result.message) == ("done", "")
    return received


@settings(max_examples=25, deadline=None)
@given(chosen())
def test_shown_received_and_recorded_are_one(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Picked, str]
) -> None:
    picked, way = drawn
    directory = tmp_path_factory.mktemp("places")
    (directory / "presets").mkdir()
    found = made(picked, way, directory / "presets")
    assert [str(fault) for fault in found.faults] == []
    (row,) = found.rows
    assert row.job
    shown = {value.name: value.value for value in row.values if value.trail[:1] == ("job_settings",)}
    with pytest.MonkeyPatch.context() as patch:
        received = run(found, directory / "runs", patch)
    assert shown == received
    # The record of the run holds the same.
    place = paths_of(directory / "runs", row.job.s3_bucket, row.job.prefix)
    recorded = json.loads(place.job.read_text())["job"]["tasks"]
    kept = {
        ".".join([f"{TRANSFORM}/0" if task == "compress_data" else task, "job_settings", *trail]): value
        for task, parts in recorded.items()
        for fields in parts.values()
        for trail, value in trails(fields["job_settings"])
    }
    assert kept == received
    # And it is what was given, in its own type.
    for (task, key), value, _ in picked:
        name = f"{TRANSFORM}/0" if task == TRANSFORM else task
        for trail, item in trails({key: value}):
            assert received[".".join([name, "job_settings", *trail])] == item


KEYS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=14)
KNOWN = {
    name
    for model in (
        *task_settings.TASK_SETTINGS.values(),
        *task_settings.KIND_SETTINGS.values(),
        task_settings.MapperSettings,
        task_settings.EncryptSettings,
    )
    for name in task_settings.names_of(model)
} | {"metadata_dir", "source", "input_source", "data_source", "skip_task", "image", "kind", "derivatives_dir"}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*dict.fromkeys(task for task, _ in CHOICES), "codeocean_pipeline_settings", "send_job_end_email"]),
    KEYS,
    st.sampled_from(PLACES),
    st.sampled_from(["csv", "xlsx"]),
)
def test_an_unknown_key_is_refused_at_every_place(
    tmp_path_factory: pytest.TempPathFactory, task: str, key: str, place: str, form: str
) -> None:
    if key in KNOWN or key in task_settings.OLD_MAPPER_KEYS or key.endswith(("capsule_id", "pipeline_id")):
        return
    mapped = task in (TRANSFORM, "codeocean_pipeline_settings")
    if task == "codeocean_pipeline_settings" and place not in PRESET_PLACES:
        place = "preset of the modality"
    if not mapped and place in PRESET_PLACES:
        place = "preset"
    directory = tmp_path_factory.mktemp("unknown")
    way = "request" if place == "request" else form
    try:
        faults = [str(fault) for fault in made([((task, key), "x", place)], way, directory).faults]
    except LadingError as error:  # the store of presets as a whole
        faults = [str(error)]
    assert faults
    assert any(key in fault for fault in faults), faults


@settings(max_examples=30, deadline=None)
@given(KEYS)
def test_an_unknown_field_of_a_job_or_a_task_is_refused(key: str) -> None:
    if key in KNOWN:
        return
    for fields in (
        {**request_of([]), key: "x"},
        {**request_of([]), "tasks": {**request_of([])["tasks"], "upload_data_to_s3": {key: "x"}}},
        {**request_of([]), "tasks": {TRANSFORM: {"ecephys": {key: "x", "job_settings": {"input_source": "/a"}}}}},
    ):
        (fault, *_) = take_json([fields], Presets()).faults
        assert key in fault.message


@pytest.mark.parametrize(
    ("task", "fields", "words"),
    [
        ("upload_data_to_s3", {"skip_task": "maybe"}, "neither true nor false"),
        ("upload_data_to_s3", {"nonsense": 1}, "not a field of a task"),
        ("upload_data_to_s3", {"job_settings": {"nonsense": 1}}, "is not read"),
        ("upload_data_to_s3", {"job_settings": 5}, "is an object"),
        ("gather_preliminary_metadata", {"job_settings": {"timeout": "soon"}}, "is not a number"),
        (TRANSFORM, {"job_settings": {"codec": "nope"}}, "is not one of"),
        (TRANSFORM, {"ecephys": {"job_settings": {"chunk_seconds": -1}}}, "greater than 0"),
        (TRANSFORM, {"image_resources": {"memory": "lots"}}, "memory"),
        ("uplod_data_to_s3", {}, "did you mean 'upload_data_to_s3'?"),
    ],
)
def test_a_preset_that_cannot_work_is_known(task: str, fields: dict[str, Any], words: str) -> None:
    errors = preset_errors(task, "", fields)
    assert errors
    assert any(words in error for error in errors), errors


def test_a_key_of_its_own_is_laid_over_one_that_says_more(tmp_path: Path) -> None:
    for name, value in {
        f"{TRANSFORM}/ecephys": {"job_settings": {"codec": "pcodec"}},
        TRANSFORM: {"ecephys": {"job_settings": {"level": 3, "codec": "blosc-zstd"}}},
        "register_data_asset": {"skip_task": True},
        "register_data_asset_to_codeocean": {"job_settings": {"properties": {"a": "b"}}},
    }.items():
        path = tmp_path / f"job_types/v2/default/tasks/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    tasks = load(PresetDirectory(tmp_path), "here").types["default"]
    assert tasks[TRANSFORM]["ecephys"] == {"job_settings": {"level": 3, "codec": "pcodec"}}
    assert tasks["register_data_asset_to_codeocean"][""] == {
        "skip_task": True,
        "job_settings": {"properties": {"a": "b"}},
    }
