"""The portal's pages: submit, parameters, sign in, the REST interface; those of jobs are in ``job_pages``.

Input: browser requests. Output: HTML that works without scripts; a small
script keeps the job list live.
Invariant: every value is escaped by the template engine; a page changes
something only by POST.
"""

import csv
import hmac
import io
import json
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from lading.core.bounded import parse_json
from lading.core.errors import LadingError
from lading.portal.api import SEGMENT, may_submit
from lading.portal.authorized import Allowed
from lading.portal.callers import Caller, with_token
from lading.portal.fleet_pages import add_fleet_pages
from lading.portal.fleet_watch import FleetWatch
from lading.portal.job_pages import add_job_actions, add_job_pages
from lading.portal.page_views import TEMPLATES, PageViews
from lading.portal.rest_page import operations
from lading.portal.security import COOKIE, LARGEST_BODY, PAGE_HEADERS
from lading.portal.service import RefusedError
from lading.portal.submissions import ParsedSubmission, Shared, secrets_of
from lading.sessions.presets import LAYOUT
from lading.sessions.site import EDIT_PARAMETERS, SUBMIT
from lading.sessions.table import find_delimiter
from lading.sessions.values import as_cell

# A cell of the grid: line and column of the list.
_FIELD = re.compile(r"c(\d{1,6})\.(\d{1,4})")
# A grid of 50 rows with 60 columns is 3,000 fields.
MOST_FIELDS = 10_000
# The key of a preset: no segment that could leave the directory.
_KEY = re.compile(rf"{LAYOUT}/{SEGMENT}/tasks/{SEGMENT}(/{SEGMENT})?")


@dataclass(frozen=True)
class Mail:
    """Who is told of the jobs of a list, and when."""

    address: str = ""
    moments: tuple[str, ...] = ("fail",)

    @classmethod
    def of(cls, form: FormData) -> "Mail":
        """Return what a form says; one without the field has not asked yet."""
        if "user_email" not in form:
            return cls()
        moments = tuple(str(word) for word in form.getlist("email_notification_types") if word)
        return cls(str(form["user_email"]).strip(), moments)

    def shared(self) -> Shared:
        """Return what holds for rows that name nobody."""
        return Shared(self.address or None, list(self.moments) if self.address else None)


def build_pages(views: PageViews, watch: FleetWatch | None = None) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter(include_in_schema=False)
    _add_submission(router, views)
    add_job_pages(router, views)
    add_job_actions(router, views)
    add_fleet_pages(router, views, watch)
    _add_parameters(router, views)
    _add_sign_in(router, views)
    _add_rest(router, views)
    return router


def _add_submission(router: APIRouter, views: PageViews) -> None:
    service = views.service

    @router.get("/")
    def home(allowed: Allowed) -> Response:
        if not allowed.caller.may(SUBMIT):
            return RedirectResponse("/jobs", 303)
        presets = service.presets()
        return views.page(
            allowed.caller,
            "home.html",
            job_types=presets.names(),
            projects=list(presets.site.get("project_names", [])),
            where=presets.where,
            error="",
        )

    @router.post("/check", dependencies=[Depends(may_submit)])
    async def check(request: Request, allowed: Allowed) -> Response:
        """Check an uploaded file or the corrected grid, and show it with its faults."""
        async with request.form(max_fields=MOST_FIELDS, max_part_size=LARGEST_BODY) as form:
            mail = Mail.of(form)
            upload = form.get("file")
            if upload is not None and not isinstance(upload, str):
                content, name = await upload.read(), upload.filename or "list"
            else:
                content, name = _ungrid({key: str(value) for key, value in form.multi_items()}).encode(), "list.csv"
        try:
            submission = service.take_file(content, name)
        except LadingError as error:
            presets = service.presets()
            return views.page(
                allowed.caller,
                "home.html",
                406,
                job_types=presets.names(),
                projects=[],
                where=presets.where,
                error=str(error),
            )
        return _grid_page(views, allowed.caller, _as_text(content, name, submission), submission, mail)

    @router.post("/submit", dependencies=[Depends(may_submit)])
    async def submit(request: Request, allowed: Allowed) -> Response:
        """Queue the list that was checked; it is checked again."""
        async with request.form(max_fields=MOST_FIELDS, max_part_size=LARGEST_BODY) as form:
            text = _ungrid({key: str(value) for key, value in form.multi_items()})
            mail = Mail.of(form)
        submission = service.take_file(text.encode(), "list.csv", mail.shared())
        if submission.faults:
            return _grid_page(views, allowed.caller, text, submission, mail)
        try:
            allowed.submit(submission)
        except RefusedError as error:
            return _grid_page(views, allowed.caller, text, submission, mail, str(error))
        return RedirectResponse("/jobs", 303)


def _add_parameters(router: APIRouter, views: PageViews) -> None:
    @router.get("/job_params")
    def job_params(allowed: Allowed, key: str = "") -> HTMLResponse:
        return _parameters_page(views, allowed.caller, key)

    @router.post("/job_params")
    def set_job_params(allowed: Allowed, key: Annotated[str, Form()], value: Annotated[str, Form()]) -> Response:
        """Set one preset; needs what the PUT of the REST interface needs."""
        allowed.need(EDIT_PARAMETERS, "set parameters")
        if not _KEY.fullmatch(key):
            return _parameters_page(
                views, allowed.caller, key, value, f"A key reads {LAYOUT}/TYPE/tasks/TASK or …/TASK/MODALITY."
            )
        try:
            parsed = parse_json(value)
        except ValueError as error:
            return _parameters_page(views, allowed.caller, key, value, f"This is not JSON: {error}.")
        if not isinstance(parsed, dict):
            return _parameters_page(
                views, allowed.caller, key, value, "A parameter is a JSON object: begin it with { and end it with }."
            )
        try:
            allowed.set_parameter(key, parsed)
        except LadingError as error:
            return _parameters_page(views, allowed.caller, key, value, str(error))
        return RedirectResponse("/job_params?" + urlencode({"key": key}), 303)


def _add_sign_in(router: APIRouter, views: PageViews) -> None:
    access = views.access

    @router.get("/login")
    def login(allowed: Allowed) -> HTMLResponse:
        return views.page(allowed.caller, "login.html", error="")

    @router.post("/login")
    def sign_in(allowed: Allowed, token: Annotated[str, Form()]) -> Response:
        if not access.token or not hmac.compare_digest(token.strip().encode(), access.token.encode()):
            return views.page(allowed.caller, "login.html", 401, error="This is not the token of the portal.")
        replace(allowed, caller=with_token(allowed.caller, None)).note("sign in")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, access.session(), httponly=True, samesite="strict")
        return answer

    @router.get("/live.js")
    def live() -> Response:
        script = TEMPLATES.joinpath("live.js").read_text(encoding="utf-8")
        return Response(script, media_type="text/javascript", headers=PAGE_HEADERS)


def _add_rest(router: APIRouter, views: PageViews) -> None:
    @router.get("/rest")
    def rest(request: Request, allowed: Allowed) -> HTMLResponse:
        """Return what ``/openapi.json`` says, for a person to read."""
        return views.page(allowed.caller, "rest.html", operations=operations(request.app.openapi()))


def _grid_page(
    views: PageViews, caller: Caller, text: str, submission: ParsedSubmission, mail: "Mail", error: str = ""
) -> HTMLResponse:
    """Return a list as a grid with the errors of each cell, all of them listed above it."""
    grid = _grid(text, submission)
    lines = {line["line"] for line in grid}
    loose = [fault.message for fault in submission.faults if fault.line not in lines]
    status = 406 if submission.faults or error else 200
    values = {"grid": grid, "loose": loose, "submission": submission, "mail": mail, "error": error}
    return views.page(caller, "submit.html", status, **values)


def _parameters_page(
    views: PageViews, caller: Caller, key: str, text: str | None = None, error: str = ""
) -> HTMLResponse:
    """Return the presets, one of them to be edited; ``text`` is what a person typed for it."""
    service = views.service
    value = service.parameter(key) if _KEY.fullmatch(key) else None
    return views.page(
        caller,
        "params.html",
        406 if error else 200,
        keys=service.parameter_keys(),
        key=key,
        text=json.dumps(value, indent=2, default=str) if text is None and value is not None else text,
        where=service.presets().where,
        may_edit=caller.may(EDIT_PARAMETERS),
        error=error,
    )


def _as_text(content: bytes, name: str, submission: ParsedSubmission) -> str:
    """Return an uploaded list as csv text, blank cells kept, so that the grid shows what was sent."""
    if name.lower().endswith(".csv"):
        return content.decode("utf-8-sig")
    text = io.StringIO()
    writer = csv.writer(text)
    columns = sorted(submission.table.columns.items(), key=lambda item: item[1])
    width = max((number for _, number in columns), default=0)
    header = [""] * width
    for column, number in columns:
        header[number - 1] = column
    writer.writerow(header)
    written = 1
    for row in submission.table.rows:
        for _ in range(written + 1, row.line):
            writer.writerow([])  # a blank row counts: each fault stands at the line it names
        written = row.line
        cells = [""] * max(width, max((cell.column for cell in row.cells.values()), default=0))
        for name, cell in row.cells.items():
            cells[cell.column - 1] = "" if any(secrets_of(name, cell.value)) else _one_line(as_cell(cell.value))
        writer.writerow(cells)
    return text.getvalue()


def _one_line(value: object) -> str:
    """Return a cell as a field of the page can hold it: a browser drops line breaks too."""
    return " ".join(str(value).splitlines())


def _grid(text: str, submission: ParsedSubmission) -> list[dict[str, Any]]:
    """Return the lines of a list with each cell's faults beside it; faults without a cell go to the line.

    A secret's cell comes back empty: what was typed is not sent around again.
    """
    delimiter, skipped = find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    secret = {
        (row.line, cell.column)
        for row in submission.table.rows
        for name, cell in row.cells.items()
        if any(secrets_of(name, cell.value))
    }
    lines, start = [], 1
    for cells in reader:
        faults = [fault for fault in submission.faults if fault.line == start]
        if start > skipped and any(cell.strip() for cell in cells):
            shown = [
                {
                    "column": number,
                    "value": "" if (start, number) in secret else cell.strip(),
                    "faults": [fault.message for fault in faults if fault.column == number],
                }
                for number, cell in enumerate(cells, 1)
            ]
            beside = [fault.message for fault in faults if not 1 <= fault.column <= len(cells)]
            lines.append({"line": start, "cells": shown, "faults": beside})
        start = reader.line_num + 1
    return lines


def _ungrid(fields: dict[str, str]) -> str:
    """Return the csv text of the grid's fields ``c<line>.<column>``."""
    places: dict[int, dict[int, str]] = {}
    for name, value in fields.items():
        match = _FIELD.fullmatch(name)
        if match and int(match[2]) < MOST_FIELDS:
            places.setdefault(int(match[1]), {})[int(match[2])] = value
    text = io.StringIO()
    writer = csv.writer(text)
    for line in sorted(places):
        width = max(places[line])
        writer.writerow([places[line].get(column, "") for column in range(1, width + 1)])
    return text.getvalue()
