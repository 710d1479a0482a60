"""Where a clone looks for subdatasets: ``.gitmodules`` and the clone candidates of ``.datalad/config``.

Input: the subdatasets of a dataset and the settings. Output: the two files.
Invariant: sorted and complete, so equal input gives equal bytes; values are
quoted, since an unquoted ``#`` would cut a RIA address short.

Source: DataLad handbook, "Prioritizing subdataset clone locations"; a name
without three leading digits costs 700.
"""

import os
from collections.abc import Iterable, Mapping

from lading.mirror.config import Candidate
from lading.mirror.git.commands import quote_config
from lading.mirror.git.portable_names import repository_path, to_bytes, to_text
from lading.mirror.layout import Dataset, MirrorLayout

_KEY = "subdataset-source-candidate-"


def label(candidate: Candidate) -> str:
    """Return the name of a candidate with its cost in front: ``200ria``, or ``ria`` (cost 700)."""
    return candidate.name if candidate.cost is None else f"{candidate.cost:03d}{candidate.name}"


def dataset_config(dataset: Dataset, candidates: Iterable[Candidate]) -> bytes:
    """Return ``.datalad/config``: the dataset's id and its subdatasets' clone candidates."""
    lines = [f'[datalad "dataset"]\n\tid = {dataset.id}\n']
    listed = sorted(candidates, key=label)
    if listed:
        lines.append('[datalad "get"]\n')
        lines += [f"\t{_KEY}{label(candidate)} = {quote_config(candidate.url)}\n" for candidate in listed]
    return "".join(lines).encode("utf-8", "surrogateescape")


def modules(layout: MirrorLayout, parent: Dataset, children: Iterable[Dataset], properties: Mapping[str, str]) -> bytes:
    """Return ``.gitmodules``: path, address, id and the properties of the settings for each subdataset."""
    sections = []
    for child in sorted(children, key=lambda child: child.below(parent)):
        path = to_text(child.below(parent))
        # Relative to the parent's repository, so that a store moves with all it holds.
        relative = os.path.relpath(child.repository, parent.repository)
        values = {
            "path": path,
            "url": layout.web_address(child) or relative,
            "datalad-id": child.id,
            **{name: expand(value, child) for name, value in sorted(properties.items())},
        }
        body = "".join(f"\t{name} = {quote_config(value)}\n" for name, value in values.items())
        sections.append(f"[submodule {quote_config(_module_name(path, child))}]\n{body}")
    return "".join(sections).encode("utf-8", "surrogateescape")


def _module_name(path: str, child: Dataset) -> str:
    # git refuses ".." and DataLad splits at newlines in a submodule's name; the id always works.
    plain = path.isprintable() and ".." not in path and '"' not in path and "\\" not in path
    return path if plain else child.id


def expand(template: str, dataset: Dataset) -> str:
    """Return ``template`` with {id}, {name} and {path} of ``dataset``."""
    path = to_text(repository_path(to_bytes(dataset.path), directory=True)) if dataset.path else ""
    for placeholder, value in (("{id}", dataset.id), ("{name}", dataset.name), ("{path}", path)):
        template = template.replace(placeholder, value)
    return template
