"""What is sent to break the portal: refused in one sentence, without a trace, without its memory growing."""

import csv
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openpyxl import Workbook

from lading.core.errors import UsageError
from lading.portal.json_bounds import DEEPEST, check_value
from lading.portal.submissions import MOST_JOBS
from lading.sessions.table import LARGEST_WORKBOOK, LAST_LINE, MOST_COLUMNS, read_bytes
from tests.portal import Portal, lab_job, serve

TOKEN = "correct-horse-battery-staple"
BEARER = {"authorization": f"Bearer {TOKEN}"}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def portal(tmp_path_factory) -> Iterator[Portal]:
    directory = tmp_path_factory.mktemp("portal")
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    (directory / "presets").mkdir()
    flags = ("--presets", str(directory / "presets"), "--token-file", str(directory / "token"))
    with serve(directory, "--bucket", "lab-bucket", *flags) as running:
        yield running
    assert "Traceback" not in running.home.with_suffix(".log").read_text()


def memory(portal: Portal) -> int:
    """The most that the portal ever held, bytes."""
    assert portal.process
    status = Path(f"/proc/{portal.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def validate(portal: Portal, name: str, content: bytes) -> httpx.Response:
    return portal.client.post("/api/v2/validate_csv", files={"file": (name, content)})


def workbook(sheet: bytes) -> bytes:
    """A workbook whose first sheet is ``sheet``, compressed as far as it goes."""
    empty, bomb = io.BytesIO(), io.BytesIO()
    Workbook().save(empty)
    with zipfile.ZipFile(empty) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for member in source.infolist():
            content = sheet if member.filename == "xl/worksheets/sheet1.xml" else source.read(member)
            target.writestr(member.filename, content)
    return bomb.getvalue()


def gigabyte() -> bytes:
    """A workbook of 5 MB that unpacks to a gigabyte."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        target.writestr("[Content_Types].xml", b"")
        with target.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as stream:
            for _ in range(1000):
                stream.write(bytes(MEGABYTE))
    return bomb.getvalue()


def sheet_xml(rows: str, claims: str = "A1:B2") -> bytes:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<worksheet xmlns="{space}"><dimension ref="{claims}"/><sheetData>{rows}</sheetData></worksheet>'.encode()


def test_a_body_of_100_megabytes_is_refused_and_not_kept(portal) -> None:
    before = memory(portal)

    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * MEGABYTE

    for headers in ({"content-length": str(100 * MEGABYTE)}, {}):  # told beforehand, or found out
        for path, kind in (
            ("/api/v2/validate_json", "application/json"),
            ("/api/v2/validate_csv", "multipart/form-data; boundary=b"),
            ("/check", "multipart/form-data; boundary=b"),
        ):
            answer = portal.client.post(path, content=body(), headers={**headers, "content-type": kind})
            assert answer.status_code in ((413,) if headers or "json" in path else (400, 413)), (path, answer.text)
            assert answer.json()["message"]
    assert memory(portal) - before < 60 * MEGABYTE


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"subject_id\n" + b"1\n" * 100_000, f"more than {MOST_JOBS} jobs"),
        ("lines.csv", b"subject_id\n" + b"\n" * 9_000_000, f"more than {LAST_LINE} lines"),
        ("cell.csv", b"subject_id\n" + b"1" * 9_000_000, "not csv"),
        ("quoted.csv", b'subject_id\n"' + b"1" * 9_000_000 + b'"\n', "not csv"),
        ("columns.csv", b",".join(b"c%d" % n for n in range(10_000)) + b"\n1\n", f"more than {MOST_COLUMNS} columns"),
        ("commas.csv", b"a\n" + b"," * 9_000_000, f"more than {MOST_COLUMNS} columns"),
        ("quoted-commas.csv", b'a\n"x"' + b"," * 9_000_000, f"more than {MOST_COLUMNS} columns"),
        ("bytes.csv", bytes(range(256)) * 1000, "not UTF-8"),
        ("nul.csv", b"subject_id\n\0\n", ""),
        ("zeros.xlsx", gigabyte(), "unpacks to 10"),
        ("far.xlsx", workbook(sheet_xml('<row r="1048576"><c r="A1048576"><v>1</v></c></row>')), "no header"),
        ("broad.xlsx", workbook(sheet_xml('<row r="1"><c r="XFD1"><v>1</v></c></row>')), "columns"),
        ("broken.xlsx", workbook(b"<worksheet><sheetData><row>"), "not an xlsx workbook"),
        ("not-a-sheet.xlsx", workbook(b"[]"), "not an xlsx workbook"),
        (
            "laughs.xlsx",
            workbook(
                b'<!DOCTYPE x [<!ENTITY a "ha">'
                + b"".join(b'<!ENTITY %c "%s">' % (n, b"&%c;" % (n - 1) * 50) for n in range(98, 110))
                + b"]><worksheet>&m;</worksheet>"
            ),
            "declares a document type",
        ),
        ("../../list.txt", b"subject_id\n1\n", "must end in .csv or .xlsx"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(("csv", "xlsx")) else "",
)
def test_a_bomb_is_one_sentence(portal, name: str, content: bytes, says: str) -> None:
    assert len(content) < 10 * MEGABYTE
    before, began = memory(portal), time.monotonic()
    answer = validate(portal, name, content)
    assert answer.status_code == 406, answer.text[:500]
    (fault, *_) = answer.json()["data"]["errors"]
    assert says in fault["message"]
    assert len(answer.content) < 10_000
    print(f"{name}: {time.monotonic() - began:.2f} s, {(memory(portal) - before) / MEGABYTE:.0f} MB more")
    # What was sent, once as bytes and once as text, and the parser's share.
    assert memory(portal) - before < 120 * MEGABYTE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    "part", ["xl/workbook.xml", "xl/styles.xml", "[Content_Types].xml", "xl/worksheets/sheet1.xml"]
)
def test_no_part_of_a_workbook_may_declare_a_document_type(part: str, encoding: str) -> None:
    text = "<?xml version='1.0'?>" + f"<!-- {'x' * 65_500} -->" * 2 + '<!DOCTYPE x [<!ENTITY a "ha">]><x>&a;</x>'
    book, changed = io.BytesIO(workbook(sheet_xml(""))), io.BytesIO()
    with zipfile.ZipFile(book) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            content = text.encode(encoding) if member.filename == part else source.read(member)
            target.writestr(member.filename, content)
    with pytest.raises(UsageError, match="declares a document type") as refusal:
        read_bytes(changed.getvalue(), "a.xlsx")
    assert part in str(refusal.value)


def test_a_sheet_that_claims_to_be_vast_is_as_large_as_its_cells() -> None:
    cell = '<row r="{0}"><c r="A{0}" t="inlineStr"><is><t>{1}</t></is></c></row>'
    sheet = sheet_xml(cell.format(1, "subject_id") + cell.format(2, "7"), "A1:XFD1048576")
    table = read_bytes(workbook(sheet), "a.xlsx")
    assert [row.cells["subject_id"].value for row in table.rows] == ["7"]


def test_the_bound_of_a_workbook_is_what_it_unpacks_to() -> None:
    with pytest.raises(UsageError, match=f"more than {LARGEST_WORKBOOK}"):
        read_bytes(workbook(b" " * LARGEST_WORKBOOK), "a.xlsx")


@pytest.mark.parametrize(
    "jobs",
    [
        [],
        [{}] * (MOST_JOBS + 1),
        [{f"field{job}x{n}": "1" for n in range(3000)} for job in range(MOST_JOBS)],
        [{"subject_id": {"a": 1}}],
        [{"modalities": "ecephys"}],
        [{"modalities": [["ecephys"]]}],
        [{"tasks": []}],
        [{"tasks": {"modality_transformation_settings": {"ecephys": 1}}}],
        [{"tasks": {"modality_transformation_settings": 1}}],
        [{"subject_id": [1, {"a": None}], "acq_datetime": 1e300, "platform": True}],
    ],
    ids=["none", "51", "fields", "object", "text", "nested", "list", "number", "task", "types"],
)
def test_wrong_shapes_of_jobs_are_refused(portal, jobs: list) -> None:
    answer = portal.client.post("/api/v2/validate_json", json={"upload_jobs": jobs})
    assert answer.status_code in (406, 422), answer.text[:500]
    assert answer.json()["data"]["errors"]


@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", '"\\ud800"', '"\\u0000"', '{"a":' * 60 + "1" + "}" * 60, "[" * 900 + "]" * 900]
)
def test_values_that_json_or_disk_cannot_hold_are_refused(portal, value: str) -> None:
    body = json.dumps({"upload_jobs": [lab_job("1", Path("/data"))]}).replace('"1"', value)
    for path, content in (
        ("/api/v2/validate_json", body),
        ("/api/v2/submit_jobs", body),
    ):
        answer = portal.client.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 406, 422), answer.text[:500]
    where = "/api/v2/parameters/job_types/default/tasks/register_data_asset"
    answer = portal.client.put(
        where, content=f'{{"skip_task": {value}}}', headers={"content-type": "application/json", **BEARER}
    )
    assert answer.status_code in (400, 406, 422), answer.text[:500]


@pytest.mark.parametrize(
    "value",
    [
        "[" * 3000,
        '{"a":' * 300 + "1" + "}" * 300,
        '{"a":' * 60 + "1" + "}" * 60,
        '[NaN, 1, {"a": 2}]',
        '{"a": -Infinity}',
        "-Infinity",
        "1e999",
        '["\\ud800"]',
    ],
)
def test_json_within_a_cell_is_bounded_and_told(portal, value: str) -> None:
    line = csv.writer(text := io.StringIO())
    column = "register_data_asset_to_codeocean.job_settings"
    line.writerow(["subject_id", "acq_datetime", "platform", "modality0", "modality0.source", column])
    line.writerow(["1", "2024-05-27 16:07:59", "behavior", "behavior", "/data", f'{{"properties": {{"x": {value}}}}}'])
    answer = validate(portal, "list.csv", text.getvalue().encode())
    assert answer.status_code == 406, answer.text[-500:]
    assert {(fault["line"], fault["column"]) for fault in answer.json()["data"]["errors"]} == {(2, 6)}
    # In a request a text is a text, whatever it looks like.
    job = lab_job("1", Path("/data"))
    job["tasks"]["register_data_asset_to_codeocean"] = {"job_settings": {"properties": {"x": value}}}  # type: ignore[index]
    answer = portal.client.post("/api/v2/validate_json", json={"upload_jobs": [job]})
    assert answer.status_code == 200, answer.text[-500:]


def test_text_that_reads_like_a_number_beyond_json_stays_text(portal) -> None:
    text = "subject_id,acq_datetime,platform,modality0,modality0.source,processor_name,\
gather_preliminary_metadata.group\n"
    text += "1e999,2024-05-27 16:07:59,behavior,behavior,/data,-Infinity,Infinity\n"
    answer = validate(portal, "list.csv", text.encode())
    assert answer.status_code == 200, answer.text
    (job,) = answer.json()["data"]["jobs"]
    assert (job["subject_id"], job["processor_name"]) == ("1e999", "-Infinity")


def test_depth_is_counted_in_levels() -> None:
    def nested(levels: int) -> object:
        return [nested(levels - 1)] if levels else 1

    check_value(nested(DEEPEST))
    with pytest.raises(ValueError, match="deep"):
        check_value(nested(DEEPEST + 1))


def test_no_file_but_a_log_is_shown(portal, tmp_path) -> None:
    answer = portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": [lab_job("7", tmp_path / "gone")]})
    assert answer.status_code == 200, answer.text
    (job_id,) = answer.json()["data"]["dag_run_ids"]
    planted = tmp_path / "planted.log"
    planted.write_text("not for your eyes")
    for task in (str(planted)[:-4], "../" * 12 + str(planted)[1:-4], "*", "upload_data_to_s3/../../journal"):
        for path in ("/task_logs", "/api/v1/get_task_logs"):
            answer = portal.client.get(path, params={"dag_run_id": job_id, "task_id": task})
            assert answer.status_code in (404, 422), (path, task)
            assert "not for your eyes" not in answer.text
    assert portal.client.get("/task_logs", params={"dag_run_id": job_id, "task_id": ""}).status_code == 200


def test_parameters_are_set_with_the_token_and_never_by_half(portal) -> None:
    task = "/api/v2/parameters/job_types/lab/tasks/register_data_asset_to_codeocean"
    client = portal.client
    assert client.put(task, json={"skip_task": True}).status_code == 403
    assert client.put(task, json={"skip_task": True}, headers=BEARER).status_code == 200
    assert client.get(task).json()["data"] == {"skip_task": True}
    # Names that the answer itself uses.
    assert client.put(task, json={"message": "m", "status": 7}, headers=BEARER).status_code in (200, 406)
    assert client.get(task).status_code == 200
    masked = client.put(task, json={"job_settings": {"api_token": "**********"}}, headers=BEARER)
    assert masked.status_code == 406
    folder = portal.home.parent / "presets/job_types/v2/lab/tasks"
    (folder / "upload_data_to_s3.yaml").write_text("job_settings: {x: 2026-01-02}\n")
    upload = task.replace("register_data_asset_to_codeocean", "upload_data_to_s3")
    assert client.get(upload).json()["data"]["job_settings"] == {"x": "2026-01-02"}
    taken = client.put(upload, json={}, headers=BEARER)
    assert taken.status_code == 406
    assert "upload_data_to_s3.yaml" in taken.json()["message"]
    assert not (folder / "upload_data_to_s3.json").exists()
