"""The portal's pages: submit, jobs, tasks and logs, parameters, sign in.

Input: browser requests. Output: HTML that works without scripts; a small
script keeps the job list live.
Invariant: every value is escaped by the template engine; a page changes
something only by POST, and asks again before it cancels or retries.
"""

import csv
import hmac
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import jinja2
from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lading import report
from lading.core.bounded import parse_json
from lading.core.errors import LadingError
from lading.portal.api import SEGMENT
from lading.portal.security import COOKIE, LARGEST_BODY, PortalAccess
from lading.portal.service import PortalService, RefusedError
from lading.portal.store import STATES, Filter
from lading.portal.submissions import Intake, Shared, secrets_of
from lading.sessions.presets import LAYOUT
from lading.sessions.table import find_delimiter
from lading.sessions.values import as_cell

PAGE = 50
# A cell of the grid: line and column of the list.
_FIELD = re.compile(r"c(\d{1,6})\.(\d{1,4})")
# A grid of 50 rows with 60 columns is 3,000 fields.
MOST_FIELDS = 10_000
# The key of a preset: no segment that could leave the directory.
_KEY = re.compile(rf"{LAYOUT}/{SEGMENT}/tasks/{SEGMENT}(/{SEGMENT})?")
HEADERS = {
    # Nothing from elsewhere, no frame around us: what a cell holds can at worst be text.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: it would turn the Origin of our own forms into "null".
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class _Views:
    """The portal behind the pages, and its templates."""

    desk: PortalService
    access: PortalAccess
    templates: jinja2.Environment

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a template with its values."""
        text = self.templates.get_template(template).render(signed_in=self.access.token is not None, **values)
        return HTMLResponse(text, status, headers=HEADERS)

    def message(self, title: str, text: str, status: int) -> HTMLResponse:
        """Return a page with one sentence."""
        return self.page("message.html", status, title=title, text=text)

    def no_job(self, job_id: str) -> HTMLResponse:
        """Return the page for an id that no job has."""
        return self.message("No such job", f"There is no job {job_id}.", 404)

    def grid(self, text: str, name: str, intake: Intake, error: str = "") -> HTMLResponse:
        """Return a list as a grid with the faults of each cell."""
        grid = _grid(text, intake)
        lines = {line["line"] for line in grid}
        loose = [fault.message for fault in intake.faults if fault.line not in lines]
        status = 406 if intake.faults or error else 200
        return self.page("submit.html", status, grid=grid, loose=loose, intake=intake, name=name, error=error)

    def parameters(self, request: Request, key: str, text: str | None = None, error: str = "") -> HTMLResponse:
        """Return the presets, one of them to be edited; ``text`` is what a person typed for it."""
        value = self.desk.parameter(key) if _KEY.fullmatch(key) else None
        return self.page(
            "params.html",
            406 if error else 200,
            keys=self.desk.parameter_keys(),
            key=key,
            text=json.dumps(value, indent=2, default=str) if text is None and value is not None else text,
            where=self.desk.presets().where,
            may_edit=bool(request.scope.get("lading.token")),
            error=error,
        )


def build_pages(desk: PortalService, access: PortalAccess) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter(include_in_schema=False)
    templates = jinja2.Environment(
        # The second place lends the style that all pages share.
        loader=jinja2.FileSystemLoader([Path(__file__).with_name("templates"), Path(*report.__path__) / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = _Views(desk, access, templates)
    _add_submission(router, views)
    _add_jobs(router, views)
    _add_actions(router, views)
    _add_parameters(router, views)
    _add_sign_in(router, views)
    return router


def _add_submission(router: APIRouter, views: _Views) -> None:
    desk = views.desk

    @router.get("/")
    def home() -> HTMLResponse:
        presets = desk.presets()
        return views.page(
            "home.html",
            job_types=presets.names(),
            projects=list(presets.site.get("project_names", [])),
            where=presets.where,
            error="",
        )

    @router.post("/check")
    async def check(request: Request) -> Response:
        """Check an uploaded file or the corrected grid, and show it with its faults."""
        async with request.form(max_fields=MOST_FIELDS, max_part_size=LARGEST_BODY) as form:
            upload = form.get("file")
            if upload is not None and not isinstance(upload, str):
                content, name = await upload.read(), upload.filename or "list"
            else:
                content, name = _ungrid({key: str(value) for key, value in form.multi_items()}).encode(), "list.csv"
        try:
            intake = desk.take_file(content, name)
        except LadingError as error:
            presets = desk.presets()
            return views.page(
                "home.html", 406, job_types=presets.names(), projects=[], where=presets.where, error=str(error)
            )
        return views.grid(_as_text(content, name, intake), name, intake)

    @router.post("/submit")
    async def submit(request: Request) -> Response:
        """Queue the list that was checked; it is checked again."""
        async with request.form(max_fields=MOST_FIELDS, max_part_size=LARGEST_BODY) as form:
            text = _ungrid({key: str(value) for key, value in form.multi_items()})
            email = str(form.get("user_email") or "").strip()
            told = [str(word) for word in form.getlist("email_notification_types") if word]
        intake = desk.take_file(text.encode(), "list.csv", Shared(email or None, told if email else None))
        if intake.faults:
            return views.grid(text, "list.csv", intake)
        try:
            desk.submit(intake)
        except RefusedError as error:
            return views.grid(text, "list.csv", intake, str(error))
        return RedirectResponse("/jobs", 303)


def _add_jobs(router: APIRouter, views: _Views) -> None:
    desk = views.desk

    @router.get("/jobs")
    def jobs(
        state: Annotated[list[str] | None, Query()] = None,
        job_type: str = "",
        name: str = "",
        since: str = "",
        until: str = "",
        dag_run_id: str = "",
        page_number: Annotated[int, Query(alias="page", ge=1, le=10**6)] = 1,
        rows: str = "",
    ) -> HTMLResponse:
        """Return the list of jobs, or with ``rows`` only its table, for the live update."""
        wanted = Filter(
            tuple(item for item in state or () if item in STATES),
            job_type,
            name,
            since,
            until and until + "~",
            dag_run_id.strip(),
        )
        total, found = desk.store.select(wanted, (page_number - 1) * PAGE, PAGE)
        query = {"state": list(wanted.states), "job_type": job_type, "name": name, "since": since, "until": until}
        query["dag_run_id"] = wanted.id
        return views.page(
            "job_rows.html" if rows else "jobs.html",
            jobs=found,
            total=total,
            page=page_number,
            pages=max(1, -(-total // PAGE)),
            query=query,
            link=lambda number: "/jobs?" + urlencode({**query, "page": number}, doseq=True),
            states=STATES,
            job_types=desk.store.job_types(),
        )

    @router.get("/job_tasks_table")
    def job_tasks_table(dag_run_id: str, rows: str = "") -> HTMLResponse:
        job, tasks = desk.store.get(dag_run_id), desk.tasks(dag_run_id)
        if job is None or tasks is None:
            return views.no_job(dag_run_id)
        return views.page("task_rows.html" if rows else "tasks.html", job=job, tasks=tasks)

    @router.get("/task_logs")
    def task_logs(dag_run_id: str, task_id: str = "") -> HTMLResponse:
        job, logs = desk.store.get(dag_run_id), desk.logs(dag_run_id, task_id)
        if job is None or logs is None:
            return views.no_job(dag_run_id)
        return views.page("log.html", job=job, task=task_id, logs=logs)


def _add_actions(router: APIRouter, views: _Views) -> None:
    desk = views.desk

    @router.get("/confirm")
    def confirm(dag_run_id: str, action: Annotated[str, Query(pattern="^(cancel|retry)$")]) -> HTMLResponse:
        job = desk.store.get(dag_run_id)
        if job is None:
            return views.no_job(dag_run_id)
        return views.page("confirm.html", job=job, action=action)

    @router.post("/act")
    def act(dag_run_id: Annotated[str, Form()], action: Annotated[str, Form(pattern="^(cancel|retry)$")]) -> Response:
        try:
            (desk.cancel if action == "cancel" else desk.retry)(dag_run_id)
        except RefusedError as error:
            return views.message(f"Could not {action}", str(error), 406)
        return RedirectResponse(f"/job_tasks_table?dag_run_id={dag_run_id}", 303)


def _add_parameters(router: APIRouter, views: _Views) -> None:
    desk = views.desk

    @router.get("/job_params")
    def job_params(request: Request, key: str = "") -> HTMLResponse:
        return views.parameters(request, key)

    @router.post("/job_params")
    def set_job_params(request: Request, key: Annotated[str, Form()], value: Annotated[str, Form()]) -> Response:
        """Set one preset; needs the token, like the PUT of the REST interface."""
        if not request.scope.get("lading.token"):
            return views.message("Not changed", "Setting a parameter needs the token: sign in.", 403)
        if not _KEY.fullmatch(key):
            return views.parameters(request, key, value, f"A key reads {LAYOUT}/TYPE/tasks/TASK or …/TASK/MODALITY.")
        try:
            parsed = parse_json(value)
        except ValueError as error:
            return views.parameters(request, key, value, f"This is not JSON: {error}.")
        if not isinstance(parsed, dict):
            return views.parameters(
                request, key, value, "A parameter is a JSON object: begin it with { and end it with }."
            )
        try:
            desk.set_parameter(key, parsed)
        except LadingError as error:
            return views.parameters(request, key, value, str(error))
        return RedirectResponse("/job_params?" + urlencode({"key": key}), 303)


def _add_sign_in(router: APIRouter, views: _Views) -> None:
    access = views.access

    @router.get("/login")
    def login() -> HTMLResponse:
        return views.page("login.html", error="")

    @router.post("/login")
    def sign_in(token: Annotated[str, Form()]) -> Response:
        if not access.token or not hmac.compare_digest(token.strip().encode(), access.token.encode()):
            return views.page("login.html", 401, error="This is not the token of the portal.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, access.session(), httponly=True, samesite="strict")
        return answer

    @router.get("/live.js")
    def live() -> Response:
        script = Path(__file__).with_name("templates").joinpath("live.js").read_text(encoding="utf-8")
        return Response(script, media_type="text/javascript", headers=HEADERS)


def _as_text(content: bytes, name: str, intake: Intake) -> str:
    """Return an uploaded list as csv text, blank cells kept, so that the grid shows what was sent."""
    if name.lower().endswith(".csv"):
        return content.decode("utf-8-sig")
    text = io.StringIO()
    writer = csv.writer(text)
    columns = sorted(intake.table.columns.items(), key=lambda item: item[1])
    width = max((number for _, number in columns), default=0)
    header = [""] * width
    for column, number in columns:
        header[number - 1] = column
    writer.writerow(header)
    written = 1
    for row in intake.table.rows:
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


def _grid(text: str, intake: Intake) -> list[dict[str, Any]]:
    """Return the lines of a list with each cell's faults beside it; faults without a cell go to the line.

    A secret's cell comes back empty: what was typed is not sent around again.
    """
    delimiter, skipped = find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    secret = {
        (row.line, cell.column)
        for row in intake.table.rows
        for name, cell in row.cells.items()
        if any(secrets_of(name, cell.value))
    }
    lines, start = [], 1
    for cells in reader:
        faults = [fault for fault in intake.faults if fault.line == start]
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
