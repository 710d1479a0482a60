"""What hosts show of each dataset: its size and counts, its homepage, its topics.

Input: the records of the superdataset. Output: descriptions on every host with an API.
Invariant: what was set is noted in each repository, so a second run asks only
for what changed, and one that was stopped goes on where it stopped.
"""

import hashlib
from collections.abc import Callable, Sequence

from lading.core.errors import LadingError
from lading.core.progress import counted, format_bytes
from lading.mirror.hosts.host_accounts import HostAccount
from lading.mirror.layout import MirrorLayout
from lading.mirror.source import ManifestSource
from lading.mirror.superdataset import read_records


def describe_all(
    layout: MirrorLayout, source: ManifestSource, accounts: Sequence[HostAccount], report: Callable[[str], None]
) -> dict[str, str]:
    """Describe every dataset and the superdataset on every host; returns the reason for each that failed."""
    superdataset = layout.dataset("super", "")
    homepage = layout.web_address(superdataset) or ""
    failed: dict[str, str] = {}
    silent: set[str] = set()
    for path, record in sorted(read_records(superdataset).datasets.items()):
        dataset = layout.dataset(record.kind, path)
        note = source.notes.get(path)
        title = f", {note.title}" if note is not None and note.title and record.kind != "zarr" else ""
        text = (
            f"{counted(record.objects, 'file')}, {format_bytes(record.bytes)} of "
            f"{layout.config.dandi_instance}: {path}{title}"
        )
        if not path:
            text = f"Superdataset of {counted(source.objects, 'file')}, {format_bytes(source.bytes)}"
        topics = (*layout.config.topics, *(note.topics if note is not None else ()))
        for account in accounts:
            org = account.org(record.kind)
            state = hashlib.sha256("\0".join((org, text, homepage, *topics)).encode("utf-8", "replace")).hexdigest()
            held = account.described(dataset.repository)
            if held.exists() and held.read_text(encoding="ascii", errors="replace") == state:
                continue
            try:
                done = account.client.describe(org, dataset.name, text[:350], homepage, topics)
            except LadingError as error:
                failed[path] = str(error)
                continue
            held.write_text(state, encoding="ascii")
            if done:
                report(f"{path or 'superdataset'}: {text}")
            elif account.name not in silent:
                silent.add(account.name)
                report(f"{account.client.shown} has no API for descriptions and topics; set them on its own pages")
    return failed
