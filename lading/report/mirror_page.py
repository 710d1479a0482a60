"""One page on a mirror: each dataset with its size, its age, its last change and what failed.

Input: a line for each dataset. Output: an HTML file that needs nothing else.
Invariant: names and reasons are text, whatever they hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lading.core.atomic import atomic_write
from lading.core.progress import counted, format_bytes
from lading.report.tree_page import environment, escape_surrogates


@dataclass(frozen=True)
class MirroredDataset:
    """One dataset: ``newest`` is the time of its latest change, ISO 8601; ``failure`` is "" where all is well."""

    path: str
    kind: str
    objects: int
    bytes: int
    newest: str
    whole: bool
    commit: str
    versions: int
    failure: str
    since: str


def write_mirror_page(target: Path, title: str, datasets: Sequence[MirroredDataset], now: datetime) -> None:
    """Write the page: failures first, then the datasets by their latest change."""
    failed = [dataset for dataset in datasets if dataset.failure]
    rows = sorted((dataset for dataset in datasets if dataset.commit), key=lambda d: (d.newest, d.path), reverse=True)
    templates = environment()
    templates.filters["counted"] = counted
    text = templates.get_template("mirror.html").render(
        title=title,
        made=now.isoformat(timespec="seconds"),
        failed=failed,
        rows=[(dataset, _age(dataset.newest, now), format_bytes(dataset.bytes)) for dataset in rows],
        objects=sum(dataset.objects for dataset in datasets),
        bytes=format_bytes(sum(dataset.bytes for dataset in datasets)),
    )
    with atomic_write(target) as stream:
        stream.write(escape_surrogates(text))


def _age(newest: str, now: datetime) -> str:
    try:
        days = (now - datetime.fromisoformat(newest)).total_seconds() / 86400
    except (ValueError, TypeError):
        return ""
    if days < 2:
        return f"{max(0, round(days * 24))} h"
    return f"{days:,.0f} d"
