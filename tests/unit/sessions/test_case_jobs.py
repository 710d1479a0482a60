"""Lists and requests as laboratories send them: each input with what becomes of it.

The inputs are in ``tests/data/jobs``. An outcome is the prefixes of the jobs
and, for each fault, its place and some of its words.
"""

import io
import json
from pathlib import Path

import pytest
from openpyxl import Workbook

from lading.core.errors import UsageError
from lading.portal.submissions import ParsedSubmission, take_json
from lading.sessions import table
from lading.sessions.job_model import Checked, check
from lading.sessions.jobfile import encode_job, read_job
from lading.sessions.precedence import Context, Flags
from lading.sessions.presets import Presets

CASES = Path(__file__).parents[2] / "data" / "jobs"
BUCKETS = {"buckets": {"default": "default-bucket", "open": "open-bucket", "private": "private-bucket"}}
SITE = Presets(site=BUCKETS)
GOOD = "ecephys_123456_2024-05-27_16-07-59"
NO_POSIX = "is not a POSIX path"

# Name → prefixes (or how many), and (line, column, words) of every fault.
LISTS: dict[str, tuple[object, list[tuple[int, int, str]]]] = {
    "01_bom.csv": ([GOOD], []),
    "02_bom_crlf.csv": ([GOOD], []),
    "03_cr_only.csv": ([GOOD], []),
    "04_semicolon.csv": ([GOOD], []),
    "05_tab.csv": ([GOOD], []),
    "06_sep_line.csv": ([GOOD], []),
    "09_leading_blank_line.csv": ([GOOD], []),
    "10_comment_first.csv": ([GOOD], []),
    "11_comment_row.csv": (1, [(2, 1, "is not a job_type")]),
    "12_trailing_blank.csv": ([GOOD], []),
    "13_short_row.csv": ([], [(2, 8, "is blank")]),
    "14_long_row.csv": ([GOOD], [(2, 9, "has no header above it")]),
    "15_trailing_commas.csv": ([GOOD], []),
    "16_dup_rows.csv": ([GOOD], [(3, 5, "already the prefix of line 2")]),
    "17_dup_subject_tz.csv": ([GOOD], [(3, 5, "already the prefix of line 2")]),
    "18_tz_z.csv": ([GOOD], []),
    "19_frac.csv": ([GOOD], []),
    "20_date_only.csv": ([], [(2, 5, "is not a date")]),
    "21_excel_us_noseconds.csv": ([], [(2, 5, "is not a date")]),
    "22_us_24h.csv": ([], [(2, 5, "is not a date")]),
    "23_us_lower.csv": ([GOOD], []),
    "24_eu.csv": ([], [(2, 5, "is not a date")]),
    "25_folder_style.csv": ([], [(2, 5, "is not a date")]),
    "26_nbsp.csv": ([GOOD], []),
    "27_zwsp.csv": ([], [(2, 4, "is not a subject ID")]),
    "28_mod_upper.csv": (4, [(5, 7, "did you mean 'behavior-videos'?")]),
    "29_mod_old.csv": (12, []),
    "30_platforms.csv": (17, []),
    "31_win_path.csv": (
        3,
        [(line, 8, NO_POSIX) for line in (2, 3, 4, 6, 7, 9, 10, 11, 12, 14, 15)],
    ),
    "33_formula.csv": (1, [(3, 4, "is not a subject ID")]),
    "34_unicode_path.csv": ([GOOD], []),
    "35_header_case.csv": ([GOOD], []),
    "36_header_dup.csv": ([GOOD], [(1, 9, "which column 4 already holds")]),
    "37_header_typo.csv": ([], [(1, 5, "did you mean 'acq_datetime'?")]),
    "38_quotes.csv": ([GOOD], []),
    "40_newline_in_cell.csv": ([GOOD], []),
    "41_header_newline.csv": ([GOOD], [(1, 2, "did you mean 'project_name'?")]),
    "42_empty.csv": ([], [(1, 1, "no header")]),
    "43_header_only.csv": ([], [(2, 1, "no row")]),
    "46_two_same.csv": ([GOOD], []),
    "47_source_only.csv": ([], [(2, 9, "is blank")]),
    "48_modality_gap.csv": ([GOOD], []),
    "49_modality01.csv": ([GOOD], [(1, 9, "which column 7 already holds")]),
    "50_bucket.csv": (5, [(4, 6, "not a bucket name"), (5, 6, "not a bucket name")]),
    "51_bool.csv": (9, [(line, column, "neither true nor false") for line in (7, 12, 13) for column in (9, 10)]),
    "52_ampm_12.csv": (2, [(4, 5, "hours go from 1 to 12"), (5, 5, "hours go from 1 to 12")]),
    "53_dst.csv": (2, []),
    "55_old_example.csv": (2, []),
    "56_old_example_co.csv": (2, []),
    "x01_int_subject.xlsx": ([GOOD], []),
    "x02_float_subject.xlsx": ([GOOD], []),
    "x03_format0000.xlsx": (["ecephys_0012_2024-05-27_16-07-59"], []),
    "x04_1e5.xlsx": (["ecephys_100000_2024-05-27_16-07-59"], []),
    "x05_date_only.xlsx": ([], [(2, 5, "is not a date")]),
    "x06_ms_below.xlsx": (2, []),
    "x07_subject_autodate.xlsx": ([], [(2, 4, "is a date, not a subject ID")]),
    "x08_formula_uncached.xlsx": ([], [(2, 4, "is blank")]),
    "x09_error_cells.xlsx": ([], [(2, 4, "is not a subject ID")]),
    "x10_hidden_first.xlsx": ([GOOD], []),
    "x11_readme_first_active_second.xlsx": ([GOOD], []),
    "x12_merged_bucket.xlsx": (2, []),
    "x13_formatted_blank.xlsx": ([GOOD], []),
    "x14_formatted_last_row.xlsx": ([GOOD], []),
    "x15_hidden_row.xlsx": (2, []),
    "x16_filtered_row.xlsx": (2, []),
    "x17_comment.xlsx": ([GOOD], []),
    "x18_time_cell.xlsx": ([], [(2, 5, "is not a date")]),
    "x19_bool_cells.xlsx": ([], [(2, 4, "is a truth value")]),
    "x20_notes_active_second.xlsx": ([GOOD], []),
    "x21_rich.xlsx": ([GOOD], []),
    "x22_iso_text.xlsx": ([GOOD], []),
    "x23_title_row.xlsx": ([GOOD], [(1, 1, "named on line 2")]),
    "x24_iso_dates.xlsx": ([GOOD], []),
    "x25_1904.xlsx": ([GOOD], []),
}


def read(name: str, site: Presets = SITE) -> Checked:
    path = CASES / name
    return check(table.read(path if path.exists() else CASES / "lists" / name), Context(Flags(), site), CASES)


def assert_faults(found: Checked, wanted: list[tuple[int, int, str]]) -> None:
    assert [(fault.line, fault.column) for fault in found.faults] == [(line, column) for line, column, _ in wanted]
    for fault, (_, _, words) in zip(found.faults, wanted):
        assert words in fault.message


@pytest.mark.parametrize("name", LISTS)
def test_a_list(name: str) -> None:
    jobs, faults = LISTS[name]
    found = read(name)
    assert_faults(found, faults)
    prefixes = [job.prefix for job in found.jobs]
    assert (prefixes if isinstance(jobs, list) else len(prefixes)) == jobs


@pytest.mark.parametrize("name", ["07_utf16.csv", "08_latin1.csv", "39_quote_open.csv"])
def test_a_file_that_is_no_list(name: str) -> None:
    with pytest.raises(UsageError, match=r"not UTF-8|a quote may be left open"):
        read(name)


def test_every_list_has_an_outcome() -> None:
    apart = {"07_utf16.csv", "08_latin1.csv", "39_quote_open.csv"}
    own = {"32_subjects.csv", "45_settings_text.csv", "54_emails.csv", "57_all_doc_columns.csv"}
    assert {path.name for path in (CASES / "lists").iterdir()} == set(LISTS) | apart | own


@pytest.mark.parametrize(("place", "active"), [(0, 0), (7, 0), (19, 19), (13, 4)])
def test_a_workbook_of_twenty_sheets(place: int, active: int) -> None:
    book, content = Workbook(), io.BytesIO()
    book.remove(book.worksheets[0])
    header = ["platform", "subject_id", "acq_datetime", "s3_bucket", "modality0", "modality0.source"]
    for number in range(20):
        sheet = book.create_sheet(f"sheet {number}")
        if number == place:
            sheet.append(header)
            sheet.append(["ecephys", "a_b", "2024-05-27 16:07:59", "b-1", "ecephys", "/a"])
        else:
            sheet.append(["What", "platform", "means"])
            sheet.sheet_state = "visible" if number % 3 or number == active else "hidden"
    book.active = active
    book.save(content)
    found = check(table.read_bytes(content.getvalue(), "list.xlsx"))
    (fault,) = found.faults
    assert (fault.line, fault.column) == (2, 2)
    assert fault.message.startswith(f"sheet 'sheet {place}': subject_id:")


def test_platforms_are_spelled_as_the_reference_spells_them() -> None:
    spelled = {job.platform for job in read("30_platforms.csv").jobs}
    assert {"SmartSPIM", "MERFISH"} <= spelled
    own = Presets(site={**BUCKETS, "platforms": ["smartSPIM"]})
    assert "smartSPIM" in {job.platform for job in read("30_platforms.csv", own).jobs}


def test_windows_paths_where_the_site_mounts_them() -> None:
    mounts = {r"\\allen\aind": "/allen/aind", "C:": "/mnt/c"}
    found = read("31_win_path.csv", Presets(site={**BUCKETS, "mounts": mounts}))
    assert {"/mnt/c/data/a", "/allen/aind/a"} <= {str(job.modalities[0].source) for job in found.jobs}


def test_subjects() -> None:
    found = read("32_subjects.csv")
    assert [job.subject_id for job in found.jobs][:3] == ["0012", "1E5", "sub-01"]
    (decimals,) = [fault for fault in found.faults if fault.line == 5]
    assert decimals.message.endswith("write 123456")


def test_emails() -> None:
    found = read("54_emails.csv")
    assert len(found.jobs) == 4
    assert {(fault.line, fault.column) for fault in found.faults} == {(5, 9), (5, 10), (6, 10), (7, 9)}


def test_every_column_of_the_document() -> None:
    found = read("57_all_doc_columns.csv")
    assert not any("metadata_service_domain" in fault.message for fault in found.faults)


def test_settings_that_no_compression_reads_are_refused_and_a_program_gets_them_as_text() -> None:
    found = read("45_settings_text.csv")
    assert not found.jobs
    assert all("'instrument_id' is not read" in fault.message for fault in found.faults)
    script = {"modality_transformation_settings": {"ecephys": {"command_script": "x %JOB_SETTINGS"}}}
    jobs = read("45_settings_text.csv", Presets(types={"default": script}, site=BUCKETS)).jobs
    seen = [job.task("compress_data", "ecephys").job_settings["instrument_id"] for job in jobs]
    assert seen == ["0012", "13", "1.50", "1E5", "true", "null"]
    people = [job.task("gather_preliminary_metadata").job_settings["investigators"] for job in jobs]
    assert people == [["Ada"], ["Ada"], ["Ada"], ["Ada", "Bob"], ["x"], ["x"]]


def test_settings_of_a_compression_are_looked_at() -> None:
    assert_faults(read("aind_presets.csv"), [(2, 11, "is not one of"), (2, 12, "is not a number")])


def test_what_code_ocean_cannot_do_is_known_beforehand() -> None:
    found = read("co_no_token.csv")
    assert [(fault.line, fault.name) for fault in found.faults] == [
        (2, "codeocean_domain"),
        (3, "modality0.capsule_id"),
        (4, "modality0.capsule_id"),
    ]


def request(name: str, presets: Presets = SITE) -> ParsedSubmission:
    content = json.loads((CASES / name).read_text())
    shared = {key: content[key] for key in ("user_email", "email_notification_types") if key in content}
    return take_json([{**shared, **job} for job in content["upload_jobs"]], presets)


@pytest.mark.parametrize(
    "name", ["rest_01_dag_id.json", "rest_02_s3_prefix.json", "rest_06_image_resources.json", "rest_09_opt_out.json"]
)
def test_a_request_of_the_reference(name: str) -> None:
    found = request(name)
    assert [fault.message for fault in found.faults] == []
    (job,) = found.checked.jobs
    assert job.prefix == "behavior_1_2024-01-01_01-02-03"
    assert str(job.modalities[0].source) == "/data/s1/behavior"


def test_resources_of_one_modality() -> None:
    (job,) = request("rest_06_image_resources.json").checked.jobs
    resources = job.task("compress_data", "behavior").image_resources
    assert resources["memory_per_cpu"] == {"set": True, "number": 6000}


def test_no_mail_is_an_answer() -> None:
    (job,) = request("rest_09_opt_out.json").checked.jobs
    assert job.email_notification_types == ()


def test_a_prefix_that_is_another_one_is_refused() -> None:
    content = json.loads((CASES / "rest_02_s3_prefix.json").read_text())
    content["upload_jobs"][0]["s3_prefix"] = "behavior_1_2024-01-01_01-02-04"
    (fault,) = take_json(content["upload_jobs"], SITE).faults
    assert "is not the prefix of this job" in fault.message


def test_a_capsule_of_the_pipeline_monitor() -> None:
    presets = Presets(site={**BUCKETS, "portal": {"secrets": ["env:TOK"], "domains": ["https://co.example.org"]}})
    found = request("rest_05_codeocean_nested.json", presets)
    assert [fault.message for fault in found.faults] == []
    (job,) = found.checked.jobs
    settings = job.task("run_codeocean_pipeline", "behavior").job_settings
    assert settings == {"pipeline_monitor_settings": {"run_params": {"capsule_id": "cap"}}}


def test_text_stays_text(tmp_path: Path) -> None:
    found = request("rest_08_typed_strings.json")
    assert not found.checked.jobs
    assert all("is not read by" in fault.message for fault in found.faults)
    content = json.loads((CASES / "rest_08_typed_strings.json").read_text())
    task = content["upload_jobs"][0]["tasks"]["modality_transformation_settings"]["behavior"]
    task["command_script"] = "run '%JOB_SETTINGS'"
    allowed = Presets(site={**BUCKETS, "portal": {"allow_programs": True}})
    found = take_json(content["upload_jobs"], allowed)
    assert [fault.message for fault in found.faults] == []
    (job,) = found.checked.jobs
    wanted = {"instrument_id": "13", "version": "1.10", "flag": "true", "y": "1e3", "a.b": 1}
    assert job.task("compress_data", "behavior").job_settings == wanted
    # The runner reads the same.
    (tmp_path / "job.json").write_text(encode_job(job))
    again = read_job(tmp_path / "job.json", allowed)
    assert again.task("compress_data", "behavior").job_settings == wanted


def test_the_transformation_of_all_modalities_is_skipped() -> None:
    found = request("rest_10_skip_modality_settings.json")
    assert [fault.message for fault in found.faults] == []
    (job,) = found.checked.jobs
    assert job.modalities[0].source is None
    assert job.task("compress_data", "behavior").skip_task
