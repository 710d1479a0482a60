"""Where a clone looks for subdatasets: ``.gitmodules`` and the clone candidates of ``.datalad/config``.

Input: the subdatasets of a dataset and the settings. Output: the two files.
Invariant: sorted and complete, so equal input gives equal bytes; values are
quoted, since an unquoted ``#`` would cut a RIA address short.

Source: DataLad handbook, "Prioritizing subdataset clone locations"; a name
without three leading digits costs 700.
"""

import os
from collections.abc import Iterable

from lading.mirror.config import Candidate, HostedOrganisation, Sibling
from lading.mirror.git.commands import quote_config
from lading.mirror.git.portable_names import repository_path, to_bytes, to_text
from lading.mirror.git.ria import is_ria
from lading.mirror.layout import Dataset, MirrorLayout

_KEY = "subdataset-source-candidate-"
# More keys of .gitmodules, for the candidates that are made here: name and path of a dataset in the mirror, and
# its repository as seen from that of the dataset above.
_NAME, _PATH, _PLACE = "mirror-name", "mirror-path", "mirror-place"
_BESIDE = f"{{remoteurl-origin}}/{{{_PLACE}}}"
_FIRST_COST = 750


def label(candidate: Candidate) -> str:
    """Return the name of a candidate with its cost in front: ``200ria``, or ``ria`` (cost 700)."""
    return candidate.name if candidate.cost is None else f"{candidate.cost:03d}{candidate.name}"


def all_candidates(layout: MirrorLayout) -> list[Candidate]:
    """Return the candidates of the settings, and one for each place that the mirror itself is sent to.

    Those cost more than every address of the settings: what is nearest and
    freshest, only a person knows.
    """
    config = layout.config
    found = list(config.candidates)
    given = {candidate.name for candidate in found}
    made = [("stores", _BESIDE)] if _web(layout) else []
    made += [(sibling.name, _address(sibling)) for sibling in config.siblings if sibling.candidate]
    made += [(host.name, _page(host)) for host in config.hosts if host.candidate]
    for number, (name, url) in enumerate(made):
        if name not in given:
            found.append(Candidate(name=name, url=url, cost=min(_FIRST_COST + number, 999)))
    return found


def _web(layout: MirrorLayout) -> bool:
    """Tell whether addresses in .gitmodules are pages of a host, so that nothing says where the store has a dataset."""
    return layout.config.datasets.github_org is not None


def _address(sibling: Sibling) -> str:
    if is_ria(sibling.url):
        return sibling.url.removesuffix("#{id}") + "#{id}"
    # DataLad knows a subdataset by its path in the dataset above it, not in the whole mirror.
    return sibling.url.replace("{name}", f"{{{_NAME}}}").replace("{path}", f"{{{_PATH}}}")


def _page(host: HostedOrganisation) -> str:
    """Return the page of a dataset on a host: its API's address without ``/api/v1``."""
    return f"{host.address.removesuffix('/api/v1')}/{host.org}/{{{_NAME}}}"


def dataset_config(dataset: Dataset, candidates: Iterable[Candidate]) -> bytes:
    """Return ``.datalad/config``: the dataset's id and its subdatasets' clone candidates."""
    lines = [f'[datalad "dataset"]\n\tid = {dataset.id}\n']
    listed = sorted(candidates, key=label)
    if listed:
        lines.append('[datalad "get"]\n')
        lines += [f"\t{_KEY}{label(candidate)} = {quote_config(candidate.url)}\n" for candidate in listed]
    return "".join(lines).encode("utf-8", "surrogateescape")


def modules(layout: MirrorLayout, parent: Dataset, children: Iterable[Dataset]) -> bytes:
    """Return ``.gitmodules``: path, address, id, what candidates need, and the properties of the settings."""
    sections = []
    needed = " ".join(candidate.url for candidate in all_candidates(layout))
    for child in sorted(children, key=lambda child: child.below(parent)):
        path = to_text(child.below(parent))
        # Relative to the parent's repository, so that a store moves with all it holds.
        relative = os.path.relpath(child.repository, parent.repository)
        ours = {_NAME: child.name, _PATH: expand("{path}", child), _PLACE: relative}
        values = {
            "path": path,
            "url": layout.web_address(child) or relative,
            "datalad-id": child.id,
            **{name: value for name, value in ours.items() if f"{{{name}}}" in needed},
            **{name: expand(value, child) for name, value in sorted(layout.config.properties.items())},
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
