"""The portal as one ASGI application: REST, pages, and who may come in.

Input: a ``PortalService`` and an ``PortalAccess``. Output: the application.
Invariant: every answer is JSON of one shape or a page; an unexpected fault
is logged with its trace and answered with one sentence and 500.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from lading.core.errors import LadingError
from lading.portal.api import build_router, reply
from lading.portal.audit_log import AuditLog, ForbiddenError
from lading.portal.authorized import caller_of
from lading.portal.fleet_watch import FleetWatch
from lading.portal.html_pages import build_pages
from lading.portal.page_views import PageViews, build_views
from lading.portal.security import Guard, PortalAccess, wants_page
from lading.portal.service import PortalService
from lading.portal.supervisor import Supervisor

LOGGER = logging.getLogger("lading.portal")


def build(
    service: PortalService,
    access: PortalAccess,
    supervisor: Supervisor | None = None,
    audit: AuditLog | None = None,
    watch: FleetWatch | None = None,
) -> FastAPI:
    """Return the application.

    With a supervisor, jobs are carried while it runs; with a log, changes are
    noted; with a watch, releases are shown beside the jobs.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread = Thread(target=supervisor.run, name="supervisor", daemon=True) if supervisor else None
        if thread and supervisor:
            thread.start()
        yield
        if thread and supervisor:
            supervisor.stop()
            thread.join()

    application = FastAPI(
        title="Lading portal",
        version="2",
        summary="Submit job lists, follow them, and look at their parameters",
        lifespan=lifespan,
        docs_url=None,  # both pages would load scripts from elsewhere
        redoc_url=None,
    )
    application.state.service, application.state.audit = service, audit
    views = build_views(service, access, watch is not None)
    application.include_router(build_router(service))
    application.include_router(build_pages(views, watch))
    _add_handlers(application, views)
    application.add_middleware(JsonByDefault)
    application.add_middleware(Guard, access=access)
    return application


TITLES = {
    403: "Not allowed",
    404: "No such page",
    405: "Nothing is sent here",
    413: "Too large",
    500: "The portal failed",
}


class JsonByDefault:
    """Takes a body of the REST interface that does not say what it is for JSON, as the AIND service does."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, with the header that it lacks."""
        if scope["type"] == "http" and scope["path"].startswith("/api/") and scope["method"] in ("POST", "PUT"):
            headers = scope["headers"]
            if not any(name == b"content-type" for name, _ in headers):
                scope = {**scope, "headers": [*headers, (b"content-type", b"application/json")]}
        await self._application(scope, receive, send)


def _add_handlers(application: FastAPI, views: PageViews) -> None:
    """Answer what went wrong: a program with JSON, a person who looks at a page with one."""

    def answer(request: Request, message: str, status: int, **data: Any) -> Response:
        if wants_page(request.headers.get("accept", ""), request.url.path):
            return views.message(
                caller_of(request),
                TITLES.get(status, "This did not work"),
                f"{message[:1].upper()}{message[1:]}.",
                status,
            )
        return reply(message, status, **data)

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = [{"name": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in error.errors()]
        return answer(request, "the request does not have the shape that /openapi.json describes", 422, errors=faults)

    async def known_to_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = "there is no such page" if error.detail == "Not Found" else str(error.detail)
        found = answer(request, detail, error.status_code)
        found.headers.update(error.headers or {})
        return found

    async def forbidden(request: Request, error: Exception) -> Response:
        return answer(request, str(error), 403, errors=[str(error)])

    async def known(request: Request, error: Exception) -> Response:
        return answer(request, str(error), 406, errors=str(error).split("\n"))

    async def unexpected(request: Request, error: Exception) -> Response:
        return answer(request, "the portal failed at this; its log says why", 500, errors=[])

    application.add_exception_handler(RequestValidationError, malformed)
    application.add_exception_handler(HTTPException, known_to_http)
    application.add_exception_handler(ForbiddenError, forbidden)
    application.add_exception_handler(LadingError, known)
    application.add_exception_handler(Exception, unexpected)
