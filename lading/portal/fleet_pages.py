"""The pages of releases, beside the portal's jobs; and the metrics of both.

Input: browser requests; Prometheus' scrapes. Output: HTML that works without scripts; text of samples.
Invariant: only who may see everything sees the releases.
"""

from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from lading import report
from lading.core.errors import UsageError
from lading.core.extras import describe, is_there
from lading.core.safe_streams import printable
from lading.portal.authorized import Allowed
from lading.portal.fleet_watch import FleetWatch, job_families, job_lines
from lading.portal.page_views import PageViews
from lading.portal.security import PAGE_HEADERS
from lading.report.fleet import FleetRow, FleetStatus
from lading.report.fleet_page import SORTED, describe_fleet, list_stories
from lading.report.metrics import content_type, fleet_families, render_metrics
from lading.sessions.site import SEE_ALL

SCRIPT = Path(*report.__path__) / "templates" / "fleet.js"


def _link(_: int, row: FleetRow) -> str:
    return "/fleet_runs?" + urlencode({"release": printable(row.name)})


def add_fleet_pages(router: APIRouter, views: PageViews, watch: FleetWatch | None) -> None:
    """Add the routes of the releases and of the metrics."""

    def status() -> FleetStatus | None:
        return watch.status() if watch else None

    @router.get("/fleet")
    def fleet(allowed: Allowed) -> HTMLResponse:
        allowed.need(SEE_ALL, "see the releases")
        found = status()
        if found is None:
            text = "This portal has no list of releases: start it with --fleet LIST."
            return views.message(allowed.caller, "No releases", text, 404)
        view = describe_fleet(found, _link, job_lines(views.service, found.at))
        return views.page(allowed.caller, "fleet_portal.html", view=view, sorts=SORTED)

    @router.get("/fleet_runs")
    def fleet_runs(allowed: Allowed, release: str) -> HTMLResponse:
        """Return what the last runs of a release did."""
        allowed.need(SEE_ALL, "see the releases")
        rows = found.rows if (found := status()) else ()
        row = next((row for row in rows if printable(row.name) == release), None)
        if row is None:
            return views.message(allowed.caller, "No such release", f"There is no release {release[:100]}.", 404)
        name, stories = printable(row.name), list_stories(row, watch.logs if watch else None)
        return views.page(allowed.caller, "fleet_portal_runs.html", row=row, name=name, stories=stories)

    @router.get("/fleet.js")
    def script() -> Response:
        return Response(SCRIPT.read_text(encoding="utf-8"), media_type="text/javascript", headers=PAGE_HEADERS)

    @router.get("/metrics")
    def metrics(request: Request, allowed: Allowed) -> Response:
        """Return the metrics of jobs and releases, as OpenMetrics or in Prometheus' older format."""
        allowed.need(SEE_ALL, "see the metrics")
        if not is_there("prometheus_client"):
            raise UsageError(describe("prometheus_client", "fleet"))
        found = status()
        families = [*job_families(views.service), *(fleet_families(found) if found else ())]
        kind = content_type(request.headers.get("accept", ""))
        return Response(render_metrics(families), headers={"Content-Type": kind, "Cache-Control": "no-store"})
