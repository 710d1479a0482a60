"""The portal's business as one caller may do it: for REST and pages alike.

Input: a caller, and what it asks for. Output: what ``PortalService`` gives,
or ``ForbiddenError`` with the sentence that says what would allow it.
Invariant: a job that the caller may not see is a job that does not exist;
every change goes through the audit log, refused ones too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Request

from lading.portal.audit_log import AuditLog, ForbiddenError
from lading.portal.callers import NOBODY, Caller
from lading.portal.security import CALLER
from lading.portal.service import PortalService
from lading.portal.store import Filter, StoredJob
from lading.portal.submissions import ParsedSubmission
from lading.sessions.site import CANCEL_ALL, CANCEL_OWN, EDIT_PARAMETERS, SEE_ALL, SUBMIT


@dataclass(frozen=True)
class AuthorizedService:
    """A portal's service for one caller; ``audit`` is None where nothing is to be logged."""

    service: PortalService
    caller: Caller
    audit: AuditLog | None = None

    def need(self, right: str, what: str) -> None:
        """Raise ``ForbiddenError`` unless the caller has a right."""
        if not self.caller.may(right):
            raise self._forbidden(what, right)

    def _forbidden(self, what: str, right: str) -> ForbiddenError:
        token = "it needs the token, or " if right == EDIT_PARAMETERS else ""
        return ForbiddenError(
            f"{self.caller.name or 'this caller'} may not {what}: {token}the right {right} in portal.users "
            "of the site's settings"
        )

    def job(self, job_id: str) -> StoredJob | None:
        """Return a job that the caller may see, None for any other."""
        job = self.service.store.get(job_id)
        return job if job and self.caller.sees(job) else None

    def jobs(self, wanted: Filter, offset: int, limit: int) -> tuple[int, list[StoredJob]]:
        """Return how many jobs match of those that the caller may see, and a page of them."""
        if not self.caller.may(SEE_ALL):
            if not self.caller.name or wanted.owner not in ("", self.caller.name):
                return 0, []
            wanted = replace(wanted, owner=self.caller.name)
        return self.service.store.select(wanted, offset, limit)

    def tasks(self, job_id: str) -> list[dict[str, Any]] | None:
        """Return the tasks of a job; None for no such job."""
        return self.service.tasks(job_id) if self.job(job_id) else None

    def logs(self, job_id: str, task: str = "", attempt: int = 0, part: int = -1) -> str | None:
        """Return the end of a job's log, or of one task's; None for what is not."""
        return self.service.logs(job_id, task, attempt, part) if self.job(job_id) else None

    def submit(self, submission: ParsedSubmission) -> list[str]:
        """Queue every job of a list, all or none."""
        found: list[str] = []

        def act() -> dict[str, Any]:
            self.need(SUBMIT, "submit lists")
            found.extend(self.service.submit(submission, self.caller.name))
            return {"jobs": found}

        self._logged("submit", {"prefixes": [f"{job.s3_bucket}/{job.prefix}" for job in submission.checked.jobs]}, act)
        return found

    def cancel(self, job: StoredJob) -> None:
        """Ask an open job to stop."""

        def act() -> dict[str, Any]:
            if not self.caller.may_cancel(job):
                raise self._forbidden(f"cancel {job.prefix}", CANCEL_OWN if self._is_own(job) else CANCEL_ALL)
            self.service.cancel(job.id)
            return {}

        self._logged("cancel", _about(job), act)

    def retry(self, job: StoredJob) -> None:
        """Queue a failed or cancelled job again."""

        def act() -> dict[str, Any]:
            if not self.caller.may_retry(job):
                raise self._forbidden(f"retry {job.prefix}", CANCEL_ALL if self.caller.may(SUBMIT) else SUBMIT)
            self.service.retry(job.id)
            return {}

        self._logged("retry", _about(job), act)

    def check_viewers(self, job: StoredJob) -> None:
        """Ask the bucket whether a browser may read the images of a job that the caller sees."""

        def act() -> dict[str, Any]:
            self.service.check_viewers(job)
            return {}

        self._logged("check viewers", _about(job), act)

    def set_parameter(self, key: str, value: Mapping[str, Any]) -> None:
        """Write a preset."""

        def act() -> dict[str, Any]:
            self.need(EDIT_PARAMETERS, "set parameters")
            self.service.set_parameter(key, value)
            return {}

        self._logged("set parameter", {"key": key}, act)

    def note(self, do: str) -> None:
        """Log something that needs no right, such as signing in."""
        self._logged(do, {}, dict)

    def _is_own(self, job: StoredJob) -> bool:
        return job.owner == self.caller.name

    def _logged(self, do: str, about: Mapping[str, Any], act: Callable[[], Mapping[str, Any]]) -> None:
        """Do something that the log names; what it returns is noted beside the outcome."""
        if self.audit is None:
            act()
            return
        with self.audit.act(self.caller, do, about) as log:
            log.about.update(act())


def _about(job: StoredJob) -> dict[str, Any]:
    return {"job": job.id, "prefix": f"{job.bucket}/{job.prefix}", "of": job.owner}


def caller_of(request: Request) -> Caller:
    """Return who asks, as the guard found."""
    found: Caller = request.scope.get(CALLER, NOBODY)
    return found


def authorized(request: Request) -> AuthorizedService:
    """Return the service as whoever asks may use it: a dependency of routes."""
    state = request.app.state
    return AuthorizedService(state.service, caller_of(request), state.audit)


# What a route takes for it.
Allowed = Annotated[AuthorizedService, Depends(authorized)]
