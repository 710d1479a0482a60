"""What hosts show of each dataset: its size and counts, its homepage, its topics.

Input: the records of the superdataset. Output: descriptions on GitHub.
Invariant: what was set is noted in each repository, so a second run asks only
for what changed, and one that was stopped goes on where it stopped.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from lading.core.errors import LadingError
from lading.core.progress import counted, format_bytes
from lading.mirror.layout import MirrorLayout
from lading.mirror.source import ManifestSource
from lading.mirror.superdataset import read_records

if TYPE_CHECKING:
    from lading.mirror.github import GitHub

_NOTE = "lading-described"


def describe_all(
    layout: MirrorLayout, source: ManifestSource, github: "GitHub", report: Callable[[str], None]
) -> dict[str, str]:
    """Describe every dataset and the superdataset; returns the reason for each that failed."""
    superdataset = layout.dataset("super", "")
    homepage = layout.web_address(superdataset) or ""
    failed: dict[str, str] = {}
    for path, record in sorted(read_records(superdataset).datasets.items()):
        dataset = layout.dataset(record.kind, path)
        org = layout.place(record.kind).github_org
        assert org is not None
        note = source.notes.get(path)
        title = f", {note.title}" if note is not None and note.title and record.kind != "zarr" else ""
        text = (
            f"{counted(record.objects, 'file')}, {format_bytes(record.bytes)} of "
            f"{layout.config.dandi_instance}: {path}{title}"
        )
        if not path:
            text = f"Superdataset of {counted(source.objects, 'file')}, {format_bytes(source.bytes)}"
        topics = (*layout.config.topics, *(note.topics if note is not None else ()))
        state = hashlib.sha256("\0".join((org, text, homepage, *topics)).encode("utf-8", "replace")).hexdigest()
        held = dataset.repository / _NOTE
        if held.exists() and held.read_text(encoding="ascii", errors="replace") == state:
            continue
        try:
            github.describe(org, dataset.name, text[:350], homepage, topics)
        except LadingError as error:
            failed[path] = str(error)
            continue
        held.write_text(state, encoding="ascii")
        report(f"{path or 'superdataset'}: {text}")
    return failed
