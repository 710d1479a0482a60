"""A setting counts or is refused, wherever it stands; what is shown is what the task gets."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.compress.job import KINDS, load_kind
from lading.core.command_line import Parser
from lading.portal.submissions import take_json
from lading.sessions import early, metadata, naming, table
from lading.sessions.job_model import Checked, Job, check
from lading.sessions.precedence import Context, Flags, trails
from lading.sessions.presets import PresetDirectory, Presets, load
from lading.sessions.services import parameter_store
from lading.sessions.task_settings import KIND_SETTINGS, TASK_SETTINGS, names_of

HEADER = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source"
ROW = "ecephys,1,2024-05-27 16:07:59,b-1,ecephys,/a"
CHOICES: dict[str, dict[str, list[Any]]] = {
    "gather_preliminary_metadata": {
        "institution": ["AIND", "1.10"],
        "tags": [["a", "1"], ["x"]],
        "allow_unreachable": [True, False],
        "timeout": [5, 2.5],
    },
    "check_metadata_files": {"strict": [True, False]},
    "remove_source_folders": {"level": ["etag", "download"], "dry_run": [True, False]},
    "update_docdb_record": {"collection": ["13", "assets"], "docdb_version": ["v1", "v2"]},
    "modality_transformation_settings": {
        "codec": ["pcodec", "wavpack"],
        "level": [1, 5],
        "chunk_seconds": [1, 0.5],
        "no_clip": [True, False],
    },
}
PLACES = ("csv", "request", "preset")


@st.composite
def chosen(draw: st.DrawFn) -> list[tuple[str, str, Any, str]]:
    """Some settings, each with its value and where it is given."""
    names = [(task, key) for task, keys in CHOICES.items() for key in keys]
    picked = draw(st.lists(st.sampled_from(names), unique=True, max_size=6))
    return [
        (task, key, draw(st.sampled_from(CHOICES[task][key])), draw(st.sampled_from(PLACES))) for task, key in picked
    ]


def made(picked: list[tuple[str, str, Any, str]]) -> Checked:
    """A job with settings at their places: columns of a list, a request, presets below either."""
    presets: dict[str, Any] = {}
    request = {
        "job_type": "default", "project_name": "Lab", "platform": "ecephys", "subject_id": "1",
        "acq_datetime": "2024-05-27 16:07:59", "s3_bucket": "b-1", "modalities": ["ecephys"],
        "tasks": {"modality_transformation_settings": {"ecephys": {"job_settings": {"input_source": "/a"}}}},
    }  # fmt: skip
    columns, cells = [], []
    for task, key, value, place in picked:
        part = "ecephys" if task == "modality_transformation_settings" else ""
        if place == "preset":
            presets.setdefault(task, {}).setdefault(part, {}).setdefault("job_settings", {})[key] = value
        elif place == "request":
            inner = request["tasks"].setdefault(task, {})  # type: ignore[attr-defined]
            inner = inner.setdefault(part, {}) if part else inner
            inner.setdefault("job_settings", {})[key] = value
        else:
            columns.append(f"modality0.{key}" if part else f"{task}.{key}")
            cells.append(",".join(value) if isinstance(value, list) else str(value))
    context = Context(Flags(), Presets(types={"default": presets}))
    if columns:
        text = ",".join([HEADER, *columns]) + "\n" + ",".join([ROW, *(f'"{cell}"' for cell in cells)]) + "\n"
        return check(table.read_bytes(text.encode(), "list.csv"), context)
    return take_json([request], context.presets).checked


def received(job: Job) -> Iterator[tuple[str, Any]]:
    """What the tasks get, under the names of ``explain``."""
    for task, parts in job.tasks.items():
        for part, fields in parts.items():
            owner = f"modality_transformation_settings/{job.modalities[0].number}" if part else task
            for trail, value in trails(fields.model_dump(exclude_unset=True)):
                yield ".".join([owner, *trail]), value


@settings(max_examples=60, deadline=None)
@given(chosen())
def test_explain_shows_what_the_task_gets_and_its_record_holds(picked: list[tuple[str, str, Any, str]]) -> None:
    # Columns and a request are two ways to the same place; a list has one of them.
    ways = {place for *_, place in picked}
    picked = [one for one in picked if not ({"csv", "request"} <= ways and one[3] == "request")]
    found = made(picked)
    assert found.faults == ()
    (row,) = found.rows
    assert row.job is not None
    shown = {value.name: value.value for value in row.values if value.trail}
    assert shown == dict(received(row.job))
    recorded = json.loads(row.job.model_dump_json())["tasks"]
    for task, key, value, _ in picked:
        mapped, part = ("compress_data", "ecephys") if task.startswith("modality") else (task, "")
        assert recorded[mapped][part]["job_settings"][key] == value


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*CHOICES, "upload_data_to_s3", "codeocean_pipeline_settings"]),
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=12),
    st.sampled_from(PLACES),
)
def test_an_unknown_key_is_always_refused(task: str, key: str, place: str) -> None:
    known = {name for model in (*TASK_SETTINGS.values(), *KIND_SETTINGS.values()) for name in names_of(model)}
    columns = ("metadata_dir", "source", "input_source", "image", "compress_raw_data", "skip_staging", "capsule_id")
    if key in known or key in columns or key.endswith("_dir"):
        return
    if task == "codeocean_pipeline_settings":
        place = "preset" if place == "csv" else place
    if task == "codeocean_pipeline_settings":
        types = {task: {"ecephys": {"job_settings": {key: "x"}}}}
        text = f"{HEADER}\n{ROW}\n".encode()
        faults = check(table.read_bytes(text, "list.csv"), Context(Flags(), Presets(types={"default": types}))).faults
    else:
        faults = made([(task, key, "x", place)]).faults
    assert len(faults) == 1
    assert key in faults[0].message


def test_a_hundred_thousand_unknown_keys_are_an_answer_within_seconds() -> None:
    began = time.monotonic()
    settings_ = {f"key{number}": number for number in range(100_000)}  # ten times as many took a hundred times as long
    found = made([("gather_preliminary_metadata", key, value, "request") for key, value in settings_.items()])
    assert 1 < len(found.faults) < 100
    assert any("99980 more keys that Lading does not read" in fault.message for fault in found.faults)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("kind", KINDS)
def test_each_compressor_reads_what_its_model_declares(kind: str) -> None:
    parser = Parser(prog="x", add_help=False)
    load_kind(kind).add_options(parser)
    flags = {option.lstrip("-").replace("-", "_") for action in parser._actions for option in action.option_strings}
    assert flags == set(KIND_SETTINGS[kind].model_fields) - {"kind"}


def test_a_tree_that_others_use_too_is_read(tmp_path: Path) -> None:
    for name, value in {
        "job_types/v2/default/tasks/register_data_asset": {"job_settings": {"docdb_version": "v2"}},
        "job_types/v2/default/tasks/notify_the_elders": {"image": "x"},
        "job_types/v2/other/tasks/uplod_data_to_s3": {"skip_task": True},
    }.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    presets = load(PresetDirectory(tmp_path), "here")
    text = f"job_type,project_name,{HEADER}\n{{}},Lab,{ROW}\n"

    def checked(kind: str) -> Checked:
        return check(table.read_bytes(text.format(kind).encode(), "list.csv"), Context(Flags(), presets))

    (job,) = checked("default").jobs
    assert job.task("update_docdb_record").job_settings == {"docdb_version": "v2"}
    (fault,) = checked("other").faults
    assert "did you mean 'upload_data_to_s3'?" in fault.message


def test_a_parameter_sets_endpoints_and_never_the_row() -> None:
    text = f"{HEADER},aws_param_store_name\n{ROW},/aind/extra\n"
    stored = {"/aind/extra": {"s3_bucket": "evil-bucket", "subject_id": "999", "log_levl": "INFO"}}
    found = check(table.read_bytes(text.encode(), "list.csv"), Context(parameters=stored))
    assert not found.jobs
    told = " ".join(fault.message for fault in found.faults)
    assert "s3_bucket belongs to a row" in told
    assert "subject_id belongs to a row" in told
    assert "did you mean 'log_level'?" in told


@pytest.mark.parametrize(
    ("value", "name", "token"),
    [
        ('{"CODEOCEAN_READONLY_TOKEN": "ro", "CODEOCEAN_READWRITE_TOKEN": "rw"}', "/t", "rw"),
        ('{"A": "a", "B": "b"}', "/t#B", "b"),
        ('{"A": "a", "B": "b"}', "/t", None),
        ('{"only": "one"}', "/t", "one"),
        ("plain", "/t", "plain"),
    ],
)
def test_the_key_of_a_secret(value: str, name: str, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"/t": value, "/e": json.dumps({"codeocean_api_token_path": name})}
    monkeypatch.setattr(parameter_store, "read_parameter", stored.__getitem__)
    if token is None:
        with pytest.raises(parameter_store.UsageError, match="several keys"):
            parameter_store.read_endpoints("/e")
    else:
        assert parameter_store.read_endpoints("/e")["codeocean_api_token"].get_secret_value() == token


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata"])
def test_the_zone_of_the_site_holds_on_every_machine(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        presets = Presets(site={"time_zone": "America/Los_Angeles"})
        text = f"{HEADER}\n{ROW}\n"
        (row,) = check(table.read_bytes(text.encode(), "list.csv"), Context(Flags(), presets)).rows
        assert row.job is not None
        assert row.job.time_zone == "America/Los_Angeles"
        assert ("time_zone", "preset site/time_zone") in {(value.name, value.source) for value in row.values}
        moment = naming.in_zone(row.job.acq_datetime, row.job.time_zone)
        assert moment.isoformat() == "2024-05-27T16:07:59-07:00"
        bare = check(table.read_bytes(text.encode(), "list.csv")).rows[0]
        assert ("time_zone", zone) in {(value.name, value.value) for value in bare.values}
    finally:
        monkeypatch.undo()
        time.tzset()


def test_four_zones_make_one_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    made = set()
    for zone in ("UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        presets = Presets(site={"time_zone": "America/Los_Angeles"})
        forms = ("2024-05-27 16:07:59", "2024-05-27T16:07:59", "05/27/2024 4:07:59 PM")
        for form in (*forms, "2024-05-27T23:07:59Z", "2024-05-28T04:37:59+05:30"):
            text = f"{HEADER}\n{ROW.replace('2024-05-27 16:07:59', form)}\n"
            (job,) = check(table.read_bytes(text.encode(), "list.csv"), Context(Flags(), presets)).jobs
            described = metadata.data_description(job, {})
            moment = datetime.fromisoformat(described["creation_time"])
            made.add((form in forms, described["creation_time"] if form in forms else moment.timestamp()))
            if form in forms:
                assert job.prefix == described["name"] == "ecephys_1_2024-05-27_16-07-59"
    monkeypatch.undo()
    time.tzset()
    # The forms without a zone are one text, those with one are the same moment.
    assert made == {(True, "2024-05-27T16:07:59-07:00"), (False, 1716851279.0)}


@pytest.mark.parametrize(("moment", "words"), [("2024-03-10 02:30:00", "began"), ("2024-11-03 01:30:00", "came twice")])
def test_times_that_no_clock_showed_once(moment: str, words: str) -> None:
    presets = Presets(site={"time_zone": "America/Los_Angeles"})
    text = f"{HEADER}\n{ROW.replace('2024-05-27 16:07:59', moment)}\n"
    (fault,) = check(table.read_bytes(text.encode(), "list.csv"), Context(Flags(), presets)).faults
    assert (fault.line, fault.column) == (2, 3)
    assert words in fault.message


def test_what_lacks_is_said_before_hours_of_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOPE_TOKEN", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "config.json").write_text('{"codeck": "pcodec"}')
    header = f"{HEADER},modality0.extra_configs,codeocean_domain,codeocean_api_token"
    rows = [
        f"{ROW.replace('/a', str(tmp_path / 'data'))},config.json,https://co.example.org,env:NOPE_TOKEN",
        ROW.replace(",1,", ",2,").replace("/a", "/nope/nope") + ",,,",
    ]
    text = "\n".join([header, *rows]) + "\n"
    found = check(table.read_bytes(text.encode(), "list.csv"), base=tmp_path)
    assert found.faults == ()
    told = {(fault.line, fault.column): fault.message for fault in early.find_errors(found, tmp_path, {})}
    assert "'codeck' is not read" in told[2, 7]
    assert "NOPE_TOKEN" in told[2, 9]
    assert "does not exist" in told[3, 6]
