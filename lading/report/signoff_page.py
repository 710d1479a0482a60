"""The page over a sign-off: what was checked, what was found, the first names of each kind.

Input: the record of a sign-off, and a row for each kind that was found. Output: ``index.html``, self-contained.
Invariant: works from ``file://`` and from the bucket; every value is escaped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.report.tree_page import environment, escape_surrogates


def write_signoff_page(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], page: Path) -> None:
    """Write the page."""
    errors, unread = sum(record["errors"].values()), sum(record["unread"].values())
    if errors or unread:
        parts = [counted(errors, "error")] if errors else []
        parts += [f"{counted(unread, 'entry', 'entries')} could not be read"] if unread else []
        state, verdict = "bad", ", ".join(parts)
    else:
        notes = sum(record["notes"].values())
        state, verdict = "done", f"clean, {counted(notes, 'note')}" if notes else "clean"
    template = environment()
    template.filters.update(bytes=format_bytes, count=format_count, counted=counted, seconds=format_seconds)
    text = template.get_template("signoff.html").render(
        record=record, rows=rows, state=state, verdict=verdict, title=Path(record["root"]).name or "/"
    )
    with atomic_write(page, sweep=True) as stream:
        stream.write(escape_surrogates(text))
