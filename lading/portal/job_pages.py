"""The pages of jobs: the list with its filters, the tasks and outputs of one job, their logs; cancel and retry.

Input: browser requests. Output: HTML that works without scripts; with one,
the list stays live and times are those of the browser's zone.
Invariant: a page changes something only by POST, and asks again before it
cancels or retries. A filter that cannot be met is an error, not no filter.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from lading.portal.authorized import Allowed
from lading.portal.page_views import PageViews
from lading.portal.service import PortalService, RefusedError
from lading.portal.session_outputs import read_verdict
from lading.portal.store import ORDERS, STATES, Filter, StoredJob

PAGE = 50
# The columns that a person may sort by, as the list names them.
SORTED = {
    "submitted": "Submitted",
    "started": "Started",
    "ended": "Ended",
    "duration": "Duration",
    "name": "Session",
    "state": "State",
    "try_number": "Try",
    "job_type": "Type",
    "owner": "Owner",
}
NEWEST = "-submitted"


class JobQuery(BaseModel):
    """What the address of the list asks for; dates are days in ``zone``."""

    model_config = ConfigDict(frozen=True)

    state: list[str] = []
    job_type: str = ""
    name: str = ""
    since: str = ""
    until: str = ""
    dag_run_id: str = ""
    owner: str = ""
    order: str = NEWEST
    zone: str = ""
    page: int = Field(default=1, ge=1, le=10**6)
    rows: str = ""

    def address(self, **changed: object) -> str:
        """Return the address of this list, or of one that differs in a few values."""
        given = {"rows": "", **changed}
        told = {name: value for name, value in {**self.model_dump(), **given}.items() if value}
        if told.get("page") == 1:
            del told["page"]
        return "/jobs?" + urlencode(told, doseq=True)

    def filter(self) -> Filter:
        """Return what the store is asked; ``ValueError`` says what cannot be asked."""
        wrong = [item for item in self.state if item not in STATES]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a state of a job; one of {', '.join(STATES)}")
        if self.order.removeprefix("-") not in ORDERS:
            raise ValueError(f"the list cannot be sorted by {self.order!r}; one of {', '.join(SORTED)}")
        zone = zone_of(self.zone)
        since = _midnight(self.since, zone) if self.since else ""
        until = _midnight(self.until, zone, days=1) if self.until else ""
        which = (self.dag_run_id.strip(), self.order, self.owner.strip())
        return Filter(tuple(self.state), self.job_type, self.name, since, until, *which)


def zone_of(name: str) -> tzinfo:
    """Return a zone by its name in the IANA database, UTC for "" (a browser without scripts)."""
    try:
        return ZoneInfo(name) if name else UTC
    except (ValueError, OSError, LookupError):
        raise ValueError(f"{name[:60]!r} is not a time zone; write it like America/Los_Angeles") from None


def _midnight(day: str, zone: tzinfo, days: int = 0) -> str:
    """Return when a day begins, or one after it, as the store writes it."""
    try:
        begin = datetime.strptime(day, "%Y-%m-%d") + timedelta(days=days)
        moment = begin.replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{day[:40]!r} is not a day; write it like 2024-05-27") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float | None) -> str:
    """Return a duration for a person: its two largest units."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def took(job: StoredJob) -> float | None:
    """Return for how long a job has run or ran, seconds; None before it starts."""
    if not job.started:
        return None
    end = datetime.fromisoformat(job.ended) if job.ended else datetime.now(UTC)
    return (end - datetime.fromisoformat(job.started)).total_seconds()


def add_job_pages(router: APIRouter, views: PageViews) -> None:
    """Add the routes of the list of jobs and of one job."""
    service = views.service

    @router.get("/jobs")
    def jobs(query: Annotated[JobQuery, Query()], allowed: Allowed) -> HTMLResponse:
        """Return the list of jobs, or with ``rows`` only its table, for the live update."""
        total, found, error = 0, list[StoredJob](), ""
        try:
            total, found = allowed.jobs(query.filter(), (query.page - 1) * PAGE, PAGE)
        except ValueError as wrong:
            error = f"{wrong}."
        return views.page(
            allowed.caller,
            "job_rows.html" if query.rows else "jobs.html",
            406 if error else 200,
            jobs=list(_rows(service, found)),
            total=total,
            pages=max(1, -(-total // PAGE)),
            query=query,
            states=STATES,
            sorts=SORTED,
            job_types=service.store.job_types(),
            error=error,
        )

    @router.get("/job_tasks_table")
    def job_tasks_table(allowed: Allowed, dag_run_id: str, rows: str = "") -> HTMLResponse:
        job, tasks = allowed.job(dag_run_id), allowed.tasks(dag_run_id)
        if job is None or tasks is None:
            return views.no_job(allowed.caller, dag_run_id)
        shown = [{**task, "span": span(task["duration"])} for task in tasks]
        whole = span(took(job))
        if rows:
            return views.page(allowed.caller, "task_rows.html", job=job, tasks=shown, span=whole)
        more: dict[str, Any] = {"outputs": service.outputs(job), "verdict": read_verdict(service.place(job))}
        return views.page(allowed.caller, "tasks.html", job=job, tasks=shown, span=whole, **more)

    @router.get("/task_logs")
    def task_logs(allowed: Allowed, dag_run_id: str, task_id: str = "") -> HTMLResponse:
        job, logs = allowed.job(dag_run_id), allowed.logs(dag_run_id, task_id)
        if job is None or logs is None:
            return views.no_job(allowed.caller, dag_run_id)
        return views.page(allowed.caller, "log.html", job=job, task=task_id, logs=logs)


def _rows(service: PortalService, jobs: list[StoredJob]) -> Iterator[dict[str, Any]]:
    """Yield the jobs of a page with what is reckoned from them."""
    for job in jobs:
        # "cancelled" is a state already; as a reason it says nothing more.
        reason = "" if job.comment == job.state else job.comment
        yield {"job": job, "task": service.current_task(job), "span": span(took(job)), "reason": reason}


def add_job_actions(router: APIRouter, views: PageViews) -> None:
    """Add the routes by which a person cancels and retries."""

    @router.get("/confirm")
    def confirm(
        allowed: Allowed, dag_run_id: str, action: Annotated[str, Query(pattern="^(cancel|retry)$")]
    ) -> HTMLResponse:
        job = allowed.job(dag_run_id)
        if job is None:
            return views.no_job(allowed.caller, dag_run_id)
        return views.page(allowed.caller, "confirm.html", job=job, action=action)

    @router.post("/act")
    def act(
        allowed: Allowed,
        dag_run_id: Annotated[str, Form()],
        action: Annotated[str, Form(pattern="^(cancel|retry)$")],
    ) -> Response:
        job = allowed.job(dag_run_id)
        if job is None:
            return views.no_job(allowed.caller, dag_run_id)
        try:
            (allowed.cancel if action == "cancel" else allowed.retry)(job)
        except RefusedError as error:
            return views.message(allowed.caller, f"Could not {action}", str(error), 406)
        return RedirectResponse(f"/job_tasks_table?dag_run_id={job.id}", 303)

    @router.post("/check_viewers")
    def check_viewers(allowed: Allowed, dag_run_id: Annotated[str, Form()]) -> Response:
        """Ask the bucket whether a browser may read the job's images; the job's page shows the answer."""
        job = allowed.job(dag_run_id)
        if job is None:
            return views.no_job(allowed.caller, dag_run_id)
        try:
            allowed.check_viewers(job)
        except RefusedError as error:
            return views.message(allowed.caller, "Could not check", str(error), 406)
        return RedirectResponse(f"/job_tasks_table?dag_run_id={job.id}#outputs", 303)
