"""Releases: annotated tags on the superdataset and on every subdataset it pins.

Input: a version and a commit of the superdataset. Output: the tags.
Invariant: a tag never moves; the same release again is a no-op; subdatasets
are tagged before the superdataset, so a tag there names tags that exist.
"""

from collections.abc import Iterator
from pathlib import Path

from lading.core.errors import ConsistencyError, UsageError
from lading.mirror.dataset import MAIN
from lading.mirror.git.commands import commit_epoch, list_tree, resolve, run, succeeds
from lading.mirror.git.fast_import import COMMIT
from lading.mirror.layout import Dataset, MirrorLayout
from lading.mirror.split import link_parents
from lading.mirror.superdataset import read_records


def pinned(layout: MirrorLayout, superdataset: Dataset, commit: str) -> Iterator[tuple[Dataset, str]]:
    """Yield (dataset, commit) for everything that a commit of the superdataset pins, the deepest first."""
    records = read_records(superdataset, commit).datasets
    known = {path: layout.dataset(record.kind, path) for path, record in records.items()}
    # By the nearest dataset above, and by the superdataset: earlier versions linked most of them there.
    places = {
        (parent, child.below(known.get(parent, superdataset))): child
        for path, nearest in link_parents(known).items()
        for parent, child in (("", known[path]), (nearest, known[path]))
    }
    found: list[tuple[Dataset, str]] = []
    waiting = [(superdataset, commit)]
    while waiting:
        parent, at = waiting.pop()
        found.append((parent, at))
        for path, entry in list_tree(parent.repository, at).items():
            linked = places.get((parent.path, path))
            if entry.mode == COMMIT and linked is not None:
                waiting.append((linked, entry.sha.decode()))
    yield from reversed(found)


def release(layout: MirrorLayout, version: str, commitish: str | None) -> list[Dataset]:
    """Tag ``commitish`` (default: main) as ``version`` everywhere; returns the datasets that got a new tag.

    Raises ``UsageError`` for an impossible name or commit, ``ConsistencyError``
    when the tag is on another commit: then nothing is tagged.
    """
    superdataset = layout.dataset("super", "")
    repository = superdataset.repository
    if resolve(repository, MAIN) is None:
        raise UsageError(f"{repository} has no commit to release; run: make mirror")
    if not succeeds(["check-ref-format", f"refs/tags/{version}"], repository) or version.startswith("-"):
        raise UsageError(f"{version!r} is not a tag name; use letters, digits, dots and dashes")
    wanted = commitish or MAIN
    if wanted.startswith("-") or not succeeds(["rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}"], repository):
        raise UsageError(f"{wanted!r} is not a commit of the superdataset {repository}")
    commit = run(["rev-parse", f"{wanted}^{{commit}}"], repository).decode().strip()
    targets = list(pinned(layout, superdataset, commit))
    missing = []
    for dataset, at in targets:
        tagged = tag_of(dataset.repository, version)
        if tagged is None:
            missing.append((dataset, at))
        elif tagged != at:
            raise ConsistencyError(
                f"release {version} of {dataset.path or 'the superdataset'} is {tagged[:12]} and cannot move to "
                f"{at[:12]}; choose another version"
            )
    for dataset, at in missing:
        message = f"{version}\n\nRelease of {layout.header.bucket}/{layout.header.prefix}\n"
        run(
            ["tag", "--annotate", "--file=-", version, at],
            dataset.repository,
            message.encode(),
            epoch=commit_epoch(dataset.repository, at),
        )
        run(["update-server-info"], dataset.repository)
    return [dataset for dataset, _ in missing]


def tag_of(repository: Path, version: str) -> str | None:
    """Return the commit that a tag names, or None when there is no such tag."""
    if not succeeds(["rev-parse", "--verify", "--quiet", f"refs/tags/{version}^{{commit}}"], repository):
        return None
    return run(["rev-parse", f"refs/tags/{version}^{{commit}}"], repository).decode().strip()
