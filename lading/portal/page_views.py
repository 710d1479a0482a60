"""What every page of the portal is made with: the templates, the headers, a page with one sentence.

Input: the name of a template and its values. Output: an HTML answer.
Invariant: every value is escaped by the template engine; a page loads
nothing from elsewhere.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from lading import report
from lading.core.safe_streams import printable
from lading.portal.callers import Caller
from lading.portal.security import PAGE_HEADERS, PortalAccess
from lading.portal.service import PortalService

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class PageViews:
    """The portal behind the pages, and its templates."""

    service: PortalService
    access: PortalAccess
    templates: jinja2.Environment
    has_fleet: bool = False

    def page(self, caller: Caller, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a template with its values, as one caller may see it."""
        text = self.templates.get_template(template).render(
            has_token=self.access.token is not None, has_fleet=self.has_fleet, caller=caller, **values
        )
        return HTMLResponse(text, status, headers=PAGE_HEADERS)

    def message(self, caller: Caller, title: str, text: str, status: int) -> HTMLResponse:
        """Return a page with one sentence."""
        return self.page(caller, "message.html", status, title=title, text=text)

    def no_job(self, caller: Caller, job_id: str) -> HTMLResponse:
        """Return the page for an id that no job has."""
        return self.message(caller, "No such job", f"There is no job {job_id}.", 404)


def build_views(service: PortalService, access: PortalAccess, has_fleet: bool = False) -> PageViews:
    """Return what the pages of one portal are made with."""
    templates = jinja2.Environment(
        # The second place lends the style that all pages share.
        loader=jinja2.FileSystemLoader([TEMPLATES, Path(*report.__path__) / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"pieces": in_pieces, "breaks": with_breaks, "printable": printable}
    return PageViews(service, access, templates, has_fleet)


def in_pieces(name: str) -> Markup:
    """Return a name that a narrow column breaks after its underscores, and not within a date or a word."""
    parts = re.findall(r"\s+|[^_\s]*_|[^_\s]+", name)
    spans = (part if part.isspace() else Markup('<span class="piece">{}</span>').format(part) for part in parts)
    return Markup("<wbr>").join(spans)


def with_breaks(text: str) -> Markup:
    """Return a sentence whose long names and paths break after underscores and slashes first."""
    return Markup("<wbr>").join(re.findall(r"[^_/]*[_/]|[^_/]+", text))
