"""The portal as one ASGI application: REST, pages, and who may come in.

Input: a ``PortalService`` and an ``PortalAccess``. Output: the application.
Invariant: every answer is JSON of one shape or a page; an unexpected fault
is logged with its trace and answered with one sentence and 500.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Thread

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from lading.core.errors import LadingError
from lading.portal.api import build_router, reply
from lading.portal.html_pages import build_pages
from lading.portal.security import Guard, PortalAccess, wants_page
from lading.portal.service import PortalService
from lading.portal.supervisor import Supervisor

LOGGER = logging.getLogger("lading.portal")


def build(desk: PortalService, access: PortalAccess, supervisor: Supervisor | None = None) -> FastAPI:
    """Return the application; with a supervisor, jobs are carried while it runs."""

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
    application.include_router(build_router(desk))
    application.include_router(build_pages(desk, access))
    application.add_exception_handler(RequestValidationError, _malformed)
    application.add_exception_handler(HTTPException, _http)
    application.add_exception_handler(LadingError, _known)
    application.add_middleware(JsonByDefault)
    application.add_middleware(Guard, access=access)
    return application


NOT_FOUND = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>No such page</title></head>
<body><main><h1>No such page</h1><p><a href="/jobs">Jobs</a>, <a href="/">submit a list</a></p></main></body></html>
"""


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


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [{"name": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in error.errors()]
    return reply("the request has another shape than /openapi.json says", 422, errors=faults)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and wants_page(request.headers.get("accept", ""), request.url.path):
        return HTMLResponse(NOT_FOUND, 404)
    answer = reply(str(error.detail), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _known(request: Request, error: Exception) -> JSONResponse:
    return reply(str(error), 406, errors=str(error).split("\n"))
