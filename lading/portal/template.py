"""The empty job list to fill in: xlsx with drop-downs, or csv.

Input: the vocabulary and presets of the site. Output: the bytes of a file
with a header, and three sample rows that check without fault but for their
paths.
Invariant: what the template offers is what ``lading.sessions.job_model`` accepts.
"""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from openpyxl import Workbook
from openpyxl.styles import Font
from openpyxl.worksheet.datavalidation import DataValidation

from lading.sessions.presets import Presets
from lading.sessions.vocabulary import PLATFORMS, modalities

COLUMNS = (
    *("job_type", "project_name", "platform", "acq_datetime", "subject_id", "metadata_dir", "s3_bucket"),
    "user_email",
    *("modality0", "modality0.input_source", "modality1", "modality1.input_source"),
)
# Rows that carry drop-downs and the date format.
FIRST_ROW, LAST_ROW = 2, 51
WIDTH = 24


def samples(presets: Presets) -> list[Sequence[str]]:
    """Return three rows as a person would fill them in."""
    project = next(iter(presets.site.get("project_names", [])), "Example Project")
    bucket = "default" if "default" in presets.site.get("buckets", {}) else "example-bucket"
    first = ("default", project)
    return [
        (
            *(*first, "ecephys", "2024-05-27 16:07:59", "123456", "/data/session1/metadata", bucket, ""),
            *("ecephys", "/data/session1/ecephys", "behavior-videos", "/data/session1/videos"),
        ),
        (*first, "SmartSPIM", "2024-05-28 09:00:00", "123457", "", bucket, "", "SPIM", "/data/session2/stack", "", ""),
        (
            *(*first, "behavior", "2024-05-29 10:30:00", "123458", "", bucket, ""),
            *("behavior", "/data/session3/behavior", "", ""),
        ),
    ]


def write_csv(presets: Presets) -> bytes:
    """Return the template as UTF-8 csv."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(samples(presets))
    return text.getvalue().encode("utf-8")


def write_xlsx(presets: Presets) -> bytes:
    """Return the template as a workbook with drop-downs for what has a fixed vocabulary."""
    book = Workbook()
    sheet = book.active
    sheet.title = "jobs"
    sheet.append(COLUMNS)
    for row in samples(presets):
        moment = COLUMNS.index("acq_datetime")
        sheet.append([*row[:moment], datetime.fromisoformat(row[moment]), *row[moment + 1 :]])
    _add_moments(sheet)
    lists = book.create_sheet("lists")
    lists.sheet_state = "hidden"
    words = {
        "job_type": presets.names(),
        "project_name": list(presets.site.get("project_names", [])),
        "platform": list(PLATFORMS),
        "modality0": sorted(set(modalities().values()), key=str.lower),
    }
    words["modality1"] = words["modality0"]
    for place, (name, options) in enumerate(words.items(), 1):
        if not options:
            continue
        for line, option in enumerate(options, 1):
            lists.cell(line, place, option)
        letter = lists.cell(1, place).column_letter
        rule = DataValidation(type="list", formula1=f"lists!${letter}$1:${letter}${len(options)}", allow_blank=True)
        rule.error = f"choose a value from the list for {name}"
        sheet.add_data_validation(rule)
        target = sheet.cell(1, COLUMNS.index(name) + 1).column_letter
        rule.add(f"{target}{FIRST_ROW}:{target}{LAST_ROW}")
    # What Excel would make of an ID is not what was typed.
    subject = sheet.cell(1, COLUMNS.index("subject_id") + 1).column_letter
    for line in range(FIRST_ROW, LAST_ROW + 1):
        sheet[f"{subject}{line}"].number_format = "@"
    for cell in sheet[1]:
        cell.font = Font(bold=True)
        sheet.column_dimensions[cell.column_letter].width = WIDTH
    sheet.freeze_panes = "A2"
    output = io.BytesIO()
    book.save(output)
    return output.getvalue()


def _add_moments(sheet: Any) -> None:
    """Make the cells of the time of acquisition take a date with its time, and show all of it."""
    letter = sheet.cell(1, COLUMNS.index("acq_datetime") + 1).column_letter
    rule = DataValidation(type="date", operator="greaterThan", formula1="36526", allow_blank=True)
    rule.error = "write date and time, like 2024-05-27 16:07:59"
    sheet.add_data_validation(rule)
    rule.add(f"{letter}{FIRST_ROW}:{letter}{LAST_ROW}")
    for line in range(FIRST_ROW, LAST_ROW + 1):
        sheet[f"{letter}{line}"].number_format = "yyyy-mm-dd hh:mm:ss"
