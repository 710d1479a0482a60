"""Job lists: every spelling of the documents, every fault with its place."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.core.errors import UsageError
from lading.sessions import naming, table
from lading.sessions.columns import JOB_COLUMNS, MODALITY_COLUMNS, recognise
from lading.sessions.commands import explain
from lading.sessions.job_model import Checked, check
from lading.sessions.precedence import Context, Flags

# The two lists of the published document, as they stand there.
LEGACY = """data-source, s3-bucket, subject-id, modality, platform, acq-datetime, aws_param_store_name
dir/data_set_1, some_bucket, 123454, ecephys, ecephys, 2020-10-10 14:10:10, /aind/data/transfer/endpoints
dir/data_set_2, some_bucket2, 123456, ophys, multiplane-ophys, 2020-10-11 13:10:10, /aind/data/transfer/endpoints
"""
LEGACY_CAPSULE = """codeocean_process_capsule_id, data-source, s3-bucket, subject-id, modality, platform, \
acq-datetime, aws_param_store_name
xyz-123-456, dir/data_set_1, some_bucket, 123454, ecephys, ecephys, 2020-10-10 14:10:10, /aind/data/transfer/endpoints
xyz-123-456, dir/data_set_2, some_bucket2, 123456, ophys, multiplane-ophys, 2020-10-11 13:10:10, \
/aind/data/transfer/endpoints
"""
# Twelve different faults in five rows.
FAULTY = """\
s3_bucket,platform,subject_id,acq_datetime,modality0,modality0.source,modality0.compress_raw_data,log_level,user_email,\
metadata_service_domain,modality1,modality1.source
b-1,ecefys,1,2020-10-10 14:10:10,ecephys,/d/1,maybe,,,,,
b!,ecephys,,2020-10-10 14:10,ecephys,/d/2,,,,,,
b-1,ecephys,a_b,2020-13-10 14:10:10,ecefys,/d/3,,LOUD,,,,
b-1,ecephys,4,2020-10-10 14:10:10,ecephys,C:\\data,,,nobody,,,
b-1,ecephys,5,2020-10-10 14:10:10,ecephys,/d/5,,,,,behavior,/d/5/inside
"""
FAULTY_PLACES = ["2:2", "2:7", "3:1", "3:3", "3:4", "4:3", "4:4", "4:5", "4:8", "5:6", "5:9", "6:12"]


def parsed(text: str, **context: object) -> Checked:
    return check(table.read_bytes(text.encode(), "list.csv"), Context(**context))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [LEGACY, LEGACY_CAPSULE], ids=["legacy", "capsule"])
def test_the_documents_lists_parse(text: str) -> None:
    checked = parsed(text)
    assert not checked.faults
    first, second = checked.jobs
    assert first.prefix == "ecephys_123454_2020-10-10_14-10-10"
    assert second.prefix == "multiplane-ophys_123456_2020-10-11_13-10-10"
    assert [job.s3_bucket for job in checked.jobs] == ["some_bucket", "some_bucket2"]
    assert first.modalities[0].source == Path.cwd() / "dir/data_set_1"
    assert (first.modalities[0].compress_raw_data, second.modalities[0].compress_raw_data) == (True, False)
    assert first.aws_param_store_name == "/aind/data/transfer/endpoints"
    assert first.codeocean_process_capsule_id == ("xyz-123-456" if "xyz" in text else None)


def test_every_fault_with_its_place(run, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(FAULTY)
    result = run("-m", "jobs", "check", path)
    assert result.returncode == 2
    lines = result.stdout.splitlines()
    assert [re.match(r"\d+:\d+", line)[0] for line in lines] == FAULTY_PLACES, result.stdout
    assert "did you mean 'ecephys'?" in lines[0]
    document = json.loads(run("-m", "jobs", "check", path, "--json").stdout)
    assert [f"{fault['line']}:{fault['column']}" for fault in document["faults"]] == FAULTY_PLACES
    assert document["faults"][0]["name"] == "platform"


def test_one_bad_row_leaves_the_others() -> None:
    checked = parsed(LEGACY.replace("2020-10-11 13:10:10", "yesterday"))
    assert [job.line for job in checked.jobs] == [2]
    assert [(fault.line, fault.column) for fault in checked.faults] == [(3, 6)]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("subjct_id", "subject_id"),
        ("s3_buckets", "s3_bucket"),
        ("modaltity0", "modality0"),
        ("modality0.compres_raw_data", "modality0.compress_raw_data"),
        ("modality0.input_sorce", "modality0.input_source"),
        ("upload_data_to_s3.skip_tsk", "upload_data_to_s3.skip_task"),
        ("upload_data_s3.skip_task", "upload_data_to_s3"),
    ],
)
def test_unknown_columns_are_refused_by_the_nearest_name(header: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"did you mean {hint!r}?")):
        recognise(header)


@given(
    st.sampled_from([*JOB_COLUMNS, *(f"modality{n}.{c}" for n in (0, 12) for c in MODALITY_COLUMNS)]),
    st.randoms(use_true_random=False),
)
def test_spelling_of_a_header_does_not_matter(name: str, random) -> None:
    written = "".join(random.choice([c.upper(), c]) for c in name)
    written = "".join(random.choice("-_") if c == "_" else c for c in written)
    assert recognise(f"  {written} ") == name


def test_repeated_modalities_are_numbered_and_none_dropped() -> None:
    header = "platform,subject_id,acq_datetime,s3_bucket," + ",".join(
        f"modality{n},modality{n}.source" for n in range(3)
    )
    row = "ecephys,1,2020-10-10 14:10:10,b-1,Behavior_Videos,/a,ECEPHYS,/b,behavior-videos,/c"
    (job,) = parsed(f"{header}\n{row}\n").jobs
    assert [entry.folder for entry in job.modalities] == ["behavior-videos", "ecephys", "behavior-videos1"]
    assert [str(entry.source) for entry in job.modalities] == ["/a", "/b", "/c"]


@pytest.mark.parametrize(
    "text",
    ["2020-10-10 14:10:10", "2020-10-10T14:10:10", "10/10/2020 2:10:10 PM", "10/10/2020 02:10:10 pm"],
)
def test_all_date_forms_are_one_time(text: str) -> None:
    assert naming.prefix("x", "1", naming.parse_datetime(text)) == "x_1_2020-10-10_14-10-10"


@given(st.datetimes(min_value=naming.datetime(1900, 1, 1), max_value=naming.datetime(9999, 12, 31)))
def test_forms_of_one_time_agree(moment: naming.datetime) -> None:
    moment = moment.replace(microsecond=0)
    american = f"{moment.month}/{moment.day}/{moment.year} {moment.strftime('%I:%M:%S %p')}"
    assert naming.parse_datetime(moment.isoformat(" ")) == naming.parse_datetime(american) == moment


def test_mark_blank_rows_quotes_and_short_rows() -> None:
    text = "\ufeffsubject_id,acq_datetime,platform,s3_bucket,modality,source,job_type\r\n\r\n,,,,,,\r\n"
    text += '1,2020-10-10 14:10:10,ecephys,b-1,ecephys,"/a, b"\r\n'
    checked = parsed(text.replace(",job_type", ",log_level"))
    (job,) = checked.jobs
    assert (job.line, str(job.modalities[0].source)) == (4, "/a, b")


def test_a_value_beyond_the_header_is_a_fault_that_hides_it() -> None:
    checked = parsed(LEGACY.rstrip("\n") + ", hunter2-the-password\n")
    assert [(fault.line, fault.column) for fault in checked.faults] == [(3, 8)]
    assert "hunter2" not in str(checked.faults)


def test_dotted_columns_become_settings() -> None:
    text = LEGACY.splitlines()
    text[0] += ", modality0.chunk_seconds, upload_data_to_s3.skip_task, compress_data.image_resources.memory_gb"
    text[1] += ", 5, true, 64"
    text[2] += ",,,"
    job = parsed("\n".join(text)).jobs[0]
    assert job.task("compress_data", "ecephys").job_settings == {"chunk_seconds": 5}
    assert job.task("compress_data", "ecephys").image_resources == {"memory_gb": 64}
    assert job.task("upload_data_to_s3").skip_task is True


def test_flags_only_switch_on_and_win() -> None:
    text = LEGACY.splitlines()
    text[0] += ", dry_run, modality.compress_raw_data"
    text[1] += ", FALSE, FALSE"
    text[2] += ", TRUE, "
    plain = parsed("\n".join(text)).jobs
    assert [job.dry_run for job in plain] == [False, True]
    assert [job.modalities[0].compress_raw_data for job in plain] == [False, False]
    flagged = parsed("\n".join(text), flags=Flags(dry_run=True, compress_raw_data=True)).jobs
    assert [job.dry_run for job in flagged] == [True, True]
    assert [job.modalities[0].compress_raw_data for job in flagged] == [True, True]


def test_the_parameter_store_beats_the_cell_and_null_erases_nothing() -> None:
    parameters = {
        "/aind/data/transfer/endpoints": {
            "codeocean_process_capsule_id": None,
            "log_level": "DEBUG",
            "codeocean_domain": "https://co.example.org",
            "codeocean_api_token": "env:TOKEN",
            "codeocean_trigger_capsule_id": "trigger",
        }
    }
    text = LEGACY_CAPSULE.replace("aws_param", "log_level, aws_param").replace(", /aind", ", ERROR, /aind")
    (first, _) = parsed(text, parameters=parameters).jobs
    assert (first.codeocean_process_capsule_id, first.log_level) == ("xyz-123-456", "DEBUG")


def test_equal_prefixes_in_one_list_are_refused() -> None:
    rows = LEGACY.splitlines()
    checked = parsed("\n".join([*rows, rows[1].replace("data_set_1", "other")]))
    assert [fault.line for fault in checked.faults] == [4]
    assert "line 2" in checked.faults[0].message
    assert len(checked.jobs) == 2


def test_xlsx_reads_like_csv(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.append(
        ["job_type", "project_name", "platform", "acq_datetime", "subject_id", "modality0", "modality0.source"]
    )
    sheet.append(
        ["default", "A project", "ecephys", naming.datetime(2020, 10, 10, 14, 10, 10), 123456, "ecephys", "/d"]
    )
    sheet.append([])
    sheet.append(["default", "A project", "ecephys", "10/10/2020 2:10:10 PM", 123457.0, "ecephys", "/d"])
    book.save(tmp_path / "list.xlsx")
    checked = check(table.read(tmp_path / "list.xlsx"), Context(Flags(s3_bucket="b-1")))
    assert not checked.faults
    assert [job.prefix for job in checked.jobs] == [
        "ecephys_123456_2020-10-10_14-10-10",
        "ecephys_123457_2020-10-10_14-10-10",
    ]
    assert [job.line for job in checked.jobs] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", b"", "must end in .csv or .xlsx"),
        ("list.xlsx", b"no workbook", "is not an xlsx workbook"),
        ("list.csv", b"a,b\n\xff,1\n", "line 2: not UTF-8"),
        ("list.csv", b'subject_id\n"open\n', "line 2: not csv"),
    ],
)
def test_files_that_are_no_list(name: str, content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        table.read_bytes(content, name)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_a_traceback(content: bytes) -> None:
    with contextlib.suppress(UsageError):
        check(table.read_bytes(content, "x.csv"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=7, max_size=7))
def test_every_cell_is_a_value_or_a_fault(cells: list[str]) -> None:
    """Any text in any cell: the row is a job, or has a fault, or was blank."""
    import csv
    import io

    stream = io.StringIO()
    csv.writer(stream).writerows([LEGACY.splitlines()[0].replace(" ", "").split(","), cells])
    try:
        checked = check(table.read_bytes(stream.getvalue().encode(), "x.csv"))
    except UsageError:
        return
    assert bool(checked.jobs) != bool(checked.faults)
    assert all(fault.line >= 1 and fault.column >= 1 for fault in checked.faults)


def test_secrets_are_in_no_text_form() -> None:
    text = LEGACY.splitlines()
    text[0] += ", codeocean_api_token"
    text[1] += ", s3cr3t-token"
    text[2] += ", "
    (job, _) = parsed("\n".join(text)).jobs
    assert job.codeocean_api_token is not None
    assert job.codeocean_api_token.get_secret_value() == "s3cr3t-token"
    assert "s3cr3t" not in repr(job) + job.model_dump_json()


def test_ten_thousand_rows_are_checked_in_one_answer(run, tmp_path: Path) -> None:
    header, row, _ = LEGACY.splitlines()
    rows = [row.replace("123454", str(100000 + number)) for number in range(10_000)]
    rows[7_000] = rows[7_000].replace("some_bucket", "!")
    (tmp_path / "long.csv").write_text("\n".join([header, *rows]))
    result = run("-m", "jobs", "check", "--offline", tmp_path / "long.csv")
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == ["7002:2"]


def test_explain_names_the_source_of_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flag over cell over preset over default, and a secret masked."""
    site = tmp_path / "presets"
    settings = {
        "job_types/v2/default/tasks/modality_transformation_settings/pophys": {
            "job_settings": {"compress_raw_data": True, "pack": "plain", "kind": "generic"}
        },
        "job_types/v2/default/tasks/upload_data_to_s3": {"skip_task": False},
        "site/settings": {"defaults": {"log_level": "INFO", "metadata_service_domain": "https://m.example.org"}},
    }
    for key, value in settings.items():
        path = site / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    header, first, second = LEGACY.splitlines()
    lines = [
        f"{header}, modality0.pack, log_level, codeocean_api_token, dry_run",
        f"{first}, , , s3cr3t-t0ken, ",
        f"{second}, copy, ERROR, , FALSE",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    flags = ["--presets", str(site), "--no-parameters", "--dry-run", "--json"]
    assert explain.main([str(tmp_path / "list.csv"), *flags]) == 0
    text = capsys.readouterr().out
    assert "s3cr3t" not in text
    first_row, second_row = (json.loads(line) for line in text.splitlines())
    sources = {value["name"]: (value["value"], value["source"]) for value in second_row["values"]}
    transform = "modality_transformation_settings/0.job_settings"
    preset = "preset job_types/v2/default/tasks/modality_transformation_settings/pophys"
    assert sources["dry_run"] == (True, "flag --dry-run")
    assert sources["log_level"] == ("ERROR", "cell 3:9")
    assert sources["metadata_service_domain"] == ("https://m.example.org", "preset site/defaults")
    assert sources["modality0.compress_raw_data"] == (True, preset)
    assert sources[f"{transform}.pack"] == ("copy", "cell 3:8")
    assert sources[f"{transform}.kind"] == ("generic", preset)
    assert sources["email_notification_types"] == ("fail", "default")
    masked = {value["name"]: value["value"] for value in first_row["values"]}
    assert masked["codeocean_api_token"] == "**********"
    assert masked["log_level"] == "INFO"


def test_a_parameter_that_cannot_be_read_is_a_fault_of_its_rows() -> None:
    text = LEGACY.replace("13:10:10, /aind/data/transfer/endpoints", "13:10:10, /elsewhere")
    checked = parsed(text, unreadable={"/elsewhere": "the parameter store has no /elsewhere"})
    assert [job.line for job in checked.jobs] == [2]
    assert [str(fault) for fault in checked.faults] == [
        "3:7: aws_param_store_name: the parameter store has no /elsewhere"
    ]


@pytest.mark.parametrize("word", ["null", "0", "1", "no", "none", "[]", '""""""'])
def test_only_false_orders_a_deletion(word: str) -> None:
    """Anything that is neither true nor false is a fault of its cell, never an order."""
    header = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,remove_source_folders.dry_run"
    checked = parsed(f"{header}\necephys,1,2020-10-10 14:10:10,b-1,ecephys,/d,{word}\n")
    assert [(fault.line, fault.column, fault.name) for fault in checked.faults] == [
        (2, 7, "remove_source_folders.dry_run")
    ]
    assert "is neither true nor false" in checked.faults[0].message
