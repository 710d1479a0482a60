"""The REST interface: validate, submit, follow, cancel, and the parameters.

Input: requests that ``security.Guard`` let through. Output: ``{"message",
"data"}`` with 200, 400, 404, 406, 413 or 422, never a bare error.
Invariant: a list is taken whole or not at all; whatever is refused is named
by line and column. Paths and payloads follow the AIND transfer service, so
its clients work: a job id is its ``dag_run_id``.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, File, Form, HTTPException, Path, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from lading.core.errors import UsageError
from lading.core.version import VERSION
from lading.portal import template
from lading.portal.authorized import Allowed, AuthorizedService
from lading.portal.json_bounds import check_value
from lading.portal.service import DAG, PortalService, RefusedError
from lading.portal.store import ORDERS, STATES, Filter, StoredJob
from lading.portal.submissions import ParsedSubmission, Shared
from lading.sessions.precedence import mask
from lading.sessions.presets import LAYOUT
from lading.sessions.site import SUBMIT
from lading.sessions.vocabulary import nearest

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

# One segment of a key: no dots alone, no slash, nothing that could leave a directory.
SEGMENT = "[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}"
Segment = Annotated[str, Path(pattern=f"^{SEGMENT}$")]
OptionalId = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{0,64}$", description="id of the job")]


class Reply(BaseModel):
    """What every answer looks like."""

    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class SubmitRequest(BaseModel):
    """Jobs as JSON; ``user_email`` and the notifications stand in for jobs that name none."""

    model_config = ConfigDict(extra="forbid")

    dag_id: Literal["transform_and_upload_v2"] = DAG
    upload_jobs: list[dict[str, Any]] = Field(
        description="each has job_type, project_name, platform, subject_id, acq_datetime, s3_bucket, "
        "modalities (abbreviations) and tasks; other fields are the columns of a job list"
    )
    user_email: str | None = Field(default=None, description="who is told of the jobs that name nobody")
    email_notification_types: list[str] | None = Field(
        default=None, description="any of begin, end, fail, retry, all; an empty list: no mail"
    )


class JobRequest(BaseModel):
    """Which job to act on; the other members are accepted for the AIND service's clients."""

    model_config = ConfigDict(extra="forbid")

    dag_run_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    dag_id: str | None = None
    s3_prefix: str | None = None
    partition: str | None = None


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Reply, "description": text}
    for code, text in {
        400: "the body cannot be read",
        401: "no token",
        403: "not allowed from here, or not to this user",
        406: "the jobs have errors, or one of them is queued or running already",
        413: "the body is too large",
        422: "the request does not have the expected shape",
    }.items()
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Reply, "description": "not found"}}


class ApiAnswer(JSONResponse):
    """JSON in ASCII: a name that is no UTF-8 can be told as well."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, default=str, separators=(",", ":")).encode("ascii")


def reply(message: str, status: int = 200, **data: Any) -> JSONResponse:
    """Return an answer in the one shape."""
    return ApiAnswer({"message": message, "data": data}, status)


def submission_reply(submission: ParsedSubmission, **more: Any) -> JSONResponse:
    """Return the jobs of a list, or 406 with its faults; what it returns can be posted to ``submit_jobs``.

    A secret in clear is masked, for there is none in a list that is taken.
    """
    jobs = submission.requests()
    if submission.faults:
        errors = [encode_error(fault) for fault in submission.faults]
        return reply("There were errors", 406, jobs=jobs, errors=errors, **more)
    return reply("Valid Data", jobs=jobs, errors=[], **more)


def encode_error(fault: Any) -> dict[str, Any]:
    """Return a fault as JSON."""
    return {"line": fault.line, "column": fault.column, "name": fault.name, "message": fault.message}


def status_of(job: StoredJob) -> dict[str, Any]:
    """Return a job as the status list shows it."""
    return {
        "dag_id": DAG,
        "dag_run_id": job.id,
        "job_id": job.id,
        "job_state": job.state,
        "name": job.prefix,
        "job_type": job.job_type,
        "comment": job.comment or None,
        "owner": job.owner or None,
        "try_number": job.attempt,
        "submit_time": job.submitted,
        "start_time": job.started,
        "end_time": job.ended,
    }


def utc_text(date: str) -> str:
    """Return a date as the store writes it, so that text compares as time; ``ValueError`` for what is none."""
    if not date:
        return ""
    try:
        found = datetime.fromisoformat(date.strip().replace(" ", "T"))
        known = found if found.tzinfo else found.replace(tzinfo=UTC)
        return known.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{date!r} is not a date; write it like 2024-05-27T16:07:59Z") from error


def _defaults(request: SubmitRequest) -> Sequence[Mapping[str, Any]]:
    shared = {
        "user_email": request.user_email,
        "email_notification_types": request.email_notification_types,
    }
    # An empty list of notifications is an answer: none is wanted.
    given = {name: value for name, value in shared.items() if value is not None and value != ""}
    return [
        {**given, **{name: value for name, value in job.items() if value is not None or name not in given}}
        for job in request.upload_jobs
    ]


def words(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the words of a parameter that was given several times, or as one list: ``['failed', 'running']``."""
    return tuple(word for text in given or () for part in text.strip("[] ").split(",") if (word := part.strip("'\" ")))


def refuse_unknown(request: Request) -> None:
    """Raise 406 for a parameter of the address that the route does not read: it would be ignored in silence."""
    route = request.scope.get("route")
    known = [field.alias for field in route.dependant.query_params] if isinstance(route, APIRoute) else []
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        hint = nearest(unknown[0], known) or (f"; one of {', '.join(known)}" if known else "; it takes none")
        raise HTTPException(406, f"{unknown[0][:80]!r} is not a parameter of {request.url.path}{hint}")


def _posted(request: SubmitRequest) -> dict[str, Any] | None:
    """Return a request as it was sent, None where that cannot be sent back."""
    try:
        check_value(request.upload_jobs)
    except ValueError:
        return None
    return request.model_dump(mode="json", exclude_none=True)


def may_submit(allowed: Allowed) -> None:
    """Raise ``ForbiddenError`` for who may not submit: lists are checked for those alone."""
    allowed.need(SUBMIT, "submit or check lists")


def _submit(service: AuthorizedService, submission: ParsedSubmission) -> JSONResponse:
    """Queue the jobs of a list, all or none."""
    if submission.faults:
        return submission_reply(submission)
    try:
        ids = service.submit(submission)
    except RefusedError as error:
        return reply("There were errors", 406, jobs=[], errors=[{"line": 0, "column": 0, "message": str(error)}])
    return reply("Submitted Jobs.", dag_run_ids=ids, responses=[{"dag_run_id": job_id} for job_id in ids], errors=[])


def build_router(service: PortalService) -> APIRouter:
    """Return the routes over one desk."""
    router = APIRouter(responses=REFUSALS, dependencies=[Depends(refuse_unknown)])
    _add_submission(router, service)
    _add_status(router)
    _add_tasks(router)
    _add_parameters(router, service)
    _add_template(router, service)
    return router


def _add_submission(router: APIRouter, service: PortalService) -> None:
    checked = [Depends(may_submit)]

    @router.post("/api/v2/validate_csv", response_model=Reply, dependencies=checked)
    def validate_csv(file: Annotated[UploadFile, File(description="job list, .csv or .xlsx")]) -> JSONResponse:
        """Check a job list in a file; nothing is kept."""
        try:
            submission = service.take_file(file.file.read(), file.filename or "")
        except UsageError as error:
            return reply("There were errors", 406, jobs=[], errors=[{"line": 0, "column": 0, "message": str(error)}])
        return submission_reply(submission)

    @router.post("/api/v2/validate_json", response_model=Reply, dependencies=checked)
    def validate_json(request: SubmitRequest) -> JSONResponse:
        """Check jobs in JSON; nothing is kept."""
        submission = service.take_json(_defaults(request))
        posted = _posted(request)
        if posted is None:
            return submission_reply(submission, version=VERSION)
        checked = {**posted, "upload_jobs": submission.requests()}
        more = {"validated_model_json": checked} if not submission.faults else {}
        return submission_reply(submission, version=VERSION, model_json=mask(posted), **more)

    @router.post("/api/v2/submit_jobs", response_model=Reply, dependencies=checked)
    def submit_jobs(request: SubmitRequest, allowed: Allowed) -> JSONResponse:
        """Queue jobs, all or none."""
        return _submit(allowed, service.take_json(_defaults(request)))

    @router.post("/api/v2/submit_csv", response_model=Reply, dependencies=checked)
    def submit_csv(
        allowed: Allowed,
        file: Annotated[UploadFile, File(description="job list, .csv or .xlsx")],
        user_email: Annotated[str, Form(description="for rows that name nobody")] = "",
        email_notification_types: Annotated[list[str] | None, Form(description="for rows that name none")] = None,
    ) -> JSONResponse:
        """Queue the jobs of a list in a file, all or none."""
        shared = Shared(user_email or None, email_notification_types)
        try:
            submission = service.take_file(file.file.read(), file.filename or "", shared)
        except UsageError as error:
            return reply("There were errors", 406, jobs=[], errors=[{"line": 0, "column": 0, "message": str(error)}])
        return _submit(allowed, submission)

    @router.post("/api/v2/cancel_job", response_model=Reply, responses=MISSING)
    def cancel_job(request: JobRequest, allowed: Allowed) -> JSONResponse:
        """Stop a queued or running job."""
        return _act(allowed, request.dag_run_id, allowed.cancel, "Cancelling.")

    @router.post("/api/v2/retry_job", response_model=Reply, responses=MISSING)
    def retry_job(request: JobRequest, allowed: Allowed) -> JSONResponse:
        """Queue a failed or cancelled job again; finished tasks are not done twice."""
        return _act(allowed, request.dag_run_id, allowed.retry, "Queued again.")


def _add_status(router: APIRouter) -> None:
    @router.get("/api/v1/get_job_status_list", response_model=Reply)
    def get_job_status_list(
        allowed: Allowed,
        page_limit: Annotated[int, Query(ge=1, le=500)] = 100,
        page_offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        state: Annotated[list[str] | None, Query(description=f"any of {', '.join(STATES)}")] = None,
        states: Annotated[list[str] | None, Query(description="the same; also as one list: ['failed']")] = None,
        dag_ids: Annotated[list[str] | None, Query(description=f"jobs are of {DAG}")] = None,
        dag_run_id: Annotated[str, Query(description="id of one job")] = "",
        job_id: Annotated[str, Query(description="the same")] = "",
        job_type: str = "",
        name: Annotated[str, Query(description="part of the prefix")] = "",
        owner: Annotated[str, Query(description="who submitted it")] = "",
        execution_date_gte: Annotated[str, Query(description="submitted at or after, ISO 8601 UTC")] = "",
        execution_date_lte: Annotated[str, Query(description="submitted at or before, ISO 8601 UTC")] = "",
        order_by: Annotated[
            str, Query(description=f"any of {', '.join(ORDERS)}; put - before it to sort downwards")
        ] = ("-execution_date"),
    ) -> JSONResponse:
        """Return a page of the jobs, newest first."""
        try:
            since, until = utc_text(execution_date_gte), utc_text(execution_date_lte)
            wanted_states = (*words(state), *words(states))
            known_dags = [dag for dag in words(dag_ids) if dag == DAG]
            if order_by.lstrip("-") not in ORDERS:
                raise ValueError(
                    f"order_by {order_by!r} is not one of {', '.join(ORDERS)}, with - before it to sort downwards"
                )
            unknown = sorted(set(wanted_states) - set(STATES))
            if unknown:
                raise ValueError(f"{', '.join(unknown)} is not a state of a job; one of {', '.join(STATES)}")
            if dag_run_id and job_id and dag_run_id != job_id:
                raise ValueError("dag_run_id and job_id are the same; give one of them")
        except ValueError as error:
            return reply(str(error), 406, errors=[str(error)])
        wanted = Filter(wanted_states, job_type, name, since, until, dag_run_id or job_id, order_by, owner)
        # Every job here is of one kind; who asks for others only gets none.
        total, jobs = (0, []) if dag_ids and not known_dags else allowed.jobs(wanted, page_offset, page_limit)
        return reply(
            "Retrieved job status list",
            params={
                "dag_ids": [DAG],
                "limit": page_limit,
                "offset": page_offset,
                "page_limit": page_limit,
                "page_offset": page_offset,
                "states": list(wanted_states),
                "order_by": order_by,
            },
            total_entries=total,
            job_status_list=[status_of(job) for job in jobs],
        )


def _add_tasks(router: APIRouter) -> None:
    @router.get("/api/v1/get_tasks_list", response_model=Reply, responses=MISSING)
    def get_tasks_list(
        allowed: Allowed, dag_run_id: OptionalId = "", job_id: OptionalId = "", dag_id: str = DAG
    ) -> JSONResponse:
        """Return the tasks of a job with their states, those that have not begun too."""
        wanted = dag_run_id or job_id
        tasks = allowed.tasks(wanted) if dag_id == DAG else None
        if tasks is None:
            return reply(f"no job {wanted or '(give dag_run_id)'} of {dag_id}", 404)
        params = {"dag_id": dag_id, "dag_run_id": wanted}
        return reply("Retrieved job tasks list", params=params, total_entries=len(tasks), job_tasks_list=tasks)

    @router.get("/api/v1/get_task_logs", response_model=Reply, responses=MISSING)
    def get_task_logs(
        allowed: Allowed,
        dag_run_id: OptionalId = "",
        job_id: OptionalId = "",
        task_id: Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "",
        try_number: Annotated[int, Query(ge=0, le=10**6, description="0: all of them")] = 0,
        map_index: Annotated[int, Query(ge=-1, le=10**6, description="of one part; -1: all of them")] = -1,
        full_content: Annotated[bool, Query(description="taken from the AIND service's clients")] = True,
        dag_id: str = DAG,
    ) -> JSONResponse:
        """Return the log of a job, or of one task of it, as its programs wrote it: what they print is shown."""
        wanted = dag_run_id or job_id
        logs = allowed.logs(wanted, task_id, try_number, map_index) if dag_id == DAG else None
        if logs is None:
            which = f", task {task_id}" if task_id else ""
            which += f", try {try_number}" if try_number else ""
            which += f", part {map_index}" if map_index >= 0 else ""
            return reply(f"no log of job {wanted or '(give dag_run_id)'}{which}", 404)
        params = {"dag_id": dag_id, "dag_run_id": wanted, "task_id": task_id}
        return reply(
            "Retrieved task logs", params={**params, "try_number": try_number, "map_index": map_index}, logs=logs
        )


def _add_parameters(router: APIRouter, service: PortalService) -> None:
    @router.get("/api/v2/parameters", response_model=None)
    def list_parameters() -> JSONResponse:
        """Return the keys of every preset."""
        return ApiAnswer({"message": "Retrieved job parameters", "data": service.parameter_keys()})

    @router.get("/api/v2/parameters/job_types/{job_type}/tasks/{task}", response_model=Reply, responses=MISSING)
    def get_parameter(job_type: Segment, task: Segment) -> JSONResponse:
        """Return one preset."""
        return _parameter(service, f"{LAYOUT}/{job_type}/tasks/{task}")

    @router.get(
        "/api/v2/parameters/job_types/{job_type}/tasks/{task}/{modality}", response_model=Reply, responses=MISSING
    )
    def get_modality_parameter(job_type: Segment, task: Segment, modality: Segment) -> JSONResponse:
        """Return one preset of one modality."""
        return _parameter(service, f"{LAYOUT}/{job_type}/tasks/{task}/{modality}")

    @router.put("/api/v2/parameters/job_types/{job_type}/tasks/{task}", response_model=Reply)
    def put_parameter(
        allowed: Allowed, job_type: Segment, task: Segment, value: Annotated[dict[str, Any], Body()]
    ) -> JSONResponse:
        """Set one preset; needs the token, or the right ``edit_parameters``."""
        return _set_parameter(allowed, f"{LAYOUT}/{job_type}/tasks/{task}", value)

    @router.put("/api/v2/parameters/job_types/{job_type}/tasks/{task}/{modality}", response_model=Reply)
    def put_modality_parameter(
        allowed: Allowed, job_type: Segment, task: Segment, modality: Segment, value: Annotated[dict[str, Any], Body()]
    ) -> JSONResponse:
        """Set one preset of one modality; needs the token, or the right ``edit_parameters``."""
        return _set_parameter(allowed, f"{LAYOUT}/{job_type}/tasks/{task}/{modality}", value)

    @router.put("/api/v1/parameters/job_types/{job_type}/tasks/{task}", response_model=Reply)
    def put_old_parameter(job_type: Segment, task: Segment) -> JSONResponse:
        """Refuse a parameter of the first version."""
        message = f"parameters of v1 are not read here; put it to /api/v2/parameters/job_types/{job_type}/tasks/{task}"
        return reply(message, 406, errors=[message])


def _add_template(router: APIRouter, service: PortalService) -> None:
    @router.get("/api/job_upload_template", response_class=Response)
    def job_upload_template(format: Annotated[str, Query(pattern="^(xlsx|csv)$")] = "xlsx") -> Response:
        """Return the empty job list to fill in."""
        if format == "csv":
            content, kind = template.write_csv(service.presets()), "text/csv; charset=utf-8"
        else:
            content, kind = template.write_xlsx(service.presets()), XLSX
        name = f"job_upload_template.{format}"
        return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _act(allowed: AuthorizedService, job_id: str, action: Any, message: str) -> JSONResponse:
    job = allowed.job(job_id)
    if job is None:
        return reply(f"no job {job_id}", 404)
    try:
        action(job)
    except RefusedError as error:
        return reply(str(error), 406, errors=[str(error)])
    return reply(message, dag_run_id=job_id)


def _parameter(service: PortalService, key: str) -> JSONResponse:
    value = service.parameter(key)
    return (
        reply(f"no parameter {key}", 404)
        if value is None
        else ApiAnswer({"message": "Retrieved parameter", "data": value})
    )


def _set_parameter(allowed: AuthorizedService, key: str, value: Mapping[str, Any]) -> JSONResponse:
    try:
        allowed.set_parameter(key, value)
    except UsageError as error:
        return reply(str(error), 406, errors=str(error).split("\n"))
    return reply("Set parameter", key=key)
