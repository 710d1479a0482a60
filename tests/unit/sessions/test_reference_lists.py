"""The lists of the AIND transfer tools: same prefixes, tasks and defaults here, or a refusal with its place."""

import io
from datetime import datetime
from pathlib import Path

import pytest
from openpyxl import Workbook

from lading.core.errors import UsageError
from lading.sessions import table
from lading.sessions.job_model import Checked, check
from lading.sessions.precedence import Context, Flags
from lading.sessions.presets import Presets
from tests.reference_lists import LISTS, A, B, C, ReferenceList, lines

SITE = {
    "buckets": {"default": "default-bucket", "open": "open-bucket", "private": "private-bucket"},
    "defaults": {"codeocean_domain": "https://co.example.org", "codeocean_api_token": "env:TOKEN"},
}


def made(text: str | bytes, name: str = "list.csv") -> Checked:
    content = text.encode() if isinstance(text, str) else text
    # The parameter store of the first tool's lists holds the endpoints.
    endpoints = {"codeocean_domain": "https://co.example.org", "codeocean_trigger_capsule_id": "trigger"}
    stored = dict.fromkeys(("/lab/endpoints", "/lab/e", "/e"), endpoints)
    types = {"default": {}, "ecephys": {}}
    context = Context(Flags(s3_bucket="flag-bucket"), Presets(types=types, site=SITE), stored)
    return check(table.read_bytes(content, name), context, Path("/base"))


def as_workbook(text: str) -> bytes:
    book, content = Workbook(), io.BytesIO()
    assert book.active
    for line in text.splitlines():
        cells = [cell.strip() or None for cell in line.split(",")]
        for number, cell in enumerate(cells):
            # Excel keeps such text as a date.
            if cell and len(cell) == 19 and cell[4] == "-" and cell[10] == " ":
                cells[number] = datetime.fromisoformat(cell)  # type: ignore[call-overload]
        book.active.append(cells)
    book.save(content)
    return content.getvalue()


@pytest.mark.parametrize("form", ["csv", "xlsx"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_the_reference(name: str, form: str) -> None:
    given: ReferenceList = LISTS[name]
    found = made(given.text) if form == "csv" else made(as_workbook(given.text), "list.xlsx")
    assert [(fault.line, fault.column) for fault in found.faults] == [
        (line, column) for line, column, _ in given.refused
    ]
    for fault, (_, _, words) in zip(found.faults, given.refused):
        assert words in fault.message
    assert [job.prefix for job in found.jobs] == given.prefixes


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must end in \.csv or \.xlsx"):
        made(LISTS["new"].text, "list.txt")


def test_defaults_of_the_first_tool() -> None:
    one, two, three = made(LISTS["first tool, optional columns"].text).jobs
    assert [job.modalities[0].compress_raw_data for job in (one, two, three)] == [False, True, True]
    assert [job.dry_run for job in (one, two, three)] == [False, False, True]
    assert (str(three.behavior_dir), three.metadata_dir) == ("/base/data/videos", None)
    assert (str(one.modalities[0].source), one.modalities[0].modality) == ("/base/data/spim", "SPIM")
    mri = made(LISTS["first tool, capsule per row"].text).jobs[1]
    assert (mri.modalities[0].modality, mri.codeocean_process_capsule_id) == ("MRI", "zyx-2")
    assert made(LISTS["first tool, old modality names"].text).jobs[1].modalities[0].modality == "pophys"


def test_defaults_and_tasks_of_the_legacy_lists() -> None:
    forced, capsule, twice = made(LISTS["legacy"].text).jobs
    assert [job.prefix for job in (forced, capsule, twice)] == [A, B, C]
    assert [job.force_cloud_sync for job in (forced, capsule, twice)] == [True, False, False]
    assert [job.s3_bucket for job in (forced, capsule, twice)] == ["private-bucket", "open-bucket", "default-bucket"]
    # The service keeps only the last of two equal modalities; here both are kept, each in a folder of its own.
    assert [entry.folder for entry in twice.modalities] == ["behavior-videos", "behavior-videos1"]
    assert [entry.process_capsule_id for entry in capsule.modalities] == ["cap-1", None]
    (pipeline,) = made(LISTS["legacy, pipeline"].text).jobs
    assert pipeline.modalities[0].pipeline_id == "pipe-1"


def test_settings_of_the_documents_lists() -> None:
    (job,) = made(LISTS["document, videos"].text).jobs
    # Who asks for a compression gets it; without one, videos go up as they are.
    assert job.modalities[0].compress_raw_data
    assert job.task("compress_data", "behavior-videos").job_settings["preset"] == "gamma-fix"
    one, *_ = made(LISTS["new"].text).jobs
    assert str(one.metadata_dir) == "/base/data/m"
    assert one.user_email == "a@example.org"


def test_the_default_bucket_of_a_blank_cell() -> None:
    assert made(LISTS["new"].text).jobs[2].s3_bucket in ("flag-bucket", "default-bucket")


@pytest.mark.parametrize("word", ["custom", "Custom", "CUSTOM"])
def test_the_type_without_presets_is_read_in_any_case(word: str) -> None:
    (job, *_) = made(LISTS["new"].text.replace(", ecephys, data/m", f", {word}, data/m")).jobs
    assert job.job_type == "custom"


def test_a_list_is_read_as_it_is_whatever_ends_its_lines() -> None:
    text = lines(*LISTS["new"].text.splitlines()).replace("\n", "\r\n")
    assert [job.prefix for job in made(text).jobs] == LISTS["new"].prefixes
