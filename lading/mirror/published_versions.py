"""The versions that an archive published, as commits and tags of a dataset.

Input: a dataset, its manifest, and the manifests of its versions beside it.
Output: a commit and an annotated tag for each version that has none yet.
Invariant: a tag never moves; a version is tagged only when everything of it
is in its commit, Zarr stores by the checksum that it names; a killed run is
finished by the next with the same commits and tags.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from lading.core.errors import ConsistencyError, LadingError
from lading.core.progress import counted
from lading.mirror.dataset import (
    Content,
    DatasetCounts,
    DatasetOutcome,
    Rules,
    SubdatasetLink,
    epoch_of,
    update_dataset,
)
from lading.mirror.dataset_note import RELEASES, DatasetNote, ReleaseNote, attached_files, note_of
from lading.mirror.engine import DatasetEngine
from lading.mirror.git.commands import resolve, run
from lading.mirror.layout import Dataset, MirrorLayout
from lading.mirror.source import rows_below
from lading.mirror.structure import fit_rows
from lading.mirror.zarr import commit_of_checksum
from lading.verification.manifest import Manifest, read_manifest


class _NeverMirrored(LadingError):
    """A version links a Zarr store at a state that no run has seen."""


@dataclass
class VersionsOutcome:
    """What was published: the files that changed, how many tags are new, and which versions failed and why.

    ``lost`` are versions that no later run can publish, as far as this one can tell.
    """

    counts: DatasetCounts
    tagged: int
    failed: dict[str, str]
    lost: dict[str, str]


@dataclass(frozen=True)
class VersionPublisher:
    """Publishes versions by ``rules``; ``own_files`` makes what a dataset says of its subdatasets."""

    layout: MirrorLayout
    rules: Rules
    engine: DatasetEngine
    own_files: Callable[[Dataset, list[Dataset]], dict[bytes, bytes]]

    def publish(self, dataset: Dataset, note: DatasetNote, manifest: Manifest) -> VersionsOutcome:
        """Commit and tag every version that has no tag."""
        found = VersionsOutcome(DatasetCounts(), 0, {}, {})
        for release in note.releases:
            if resolve(dataset.repository, f"refs/tags/{release.version}"):
                continue
            try:
                outcome = self._commit(dataset, release, manifest)
            except _NeverMirrored as error:
                found.lost[release.version] = str(error)
                continue
            except (LadingError, OSError) as error:
                found.failed[release.version] = str(error)
                continue
            self._tag(dataset, release, outcome.commit)
            found.counts += outcome.counts
            found.tagged += 1
        return found

    def _commit(self, dataset: Dataset, release: ReleaseNote, manifest: Manifest) -> DatasetOutcome:
        file = manifest.path.parent / RELEASES / f"{release.version}.jsonl.zst"
        found = read_manifest(file)
        note = note_of(found.header, found)
        if found.end.sha256 != release.sha256 or note is None or not found.end.complete:
            raise ConsistencyError(f"{file} is not the version that {manifest} names; import it again")
        # The whole of a version is in its manifest: what the commit before has beyond it is not of this version.
        rules = replace(self.rules, covers=lambda _: True, only=None, max_removed=1.0)
        rows = [(row.path, row) for row in fit_rows(rows_below(found, ""))]
        children, links = self._links(dataset, note)
        content = Content(
            rows,
            {**self.own_files(dataset, children), **attached_files(found, note, manifest.path.parent)},
            links,
            since=epoch_of(release.created),
            label=f"version {release.version}",
        )
        return update_dataset(dataset, content, rules, self.engine)

    def _links(self, dataset: Dataset, note: DatasetNote) -> tuple[list[Dataset], dict[bytes, SubdatasetLink]]:
        children, links = [], {}
        never: list[str] = []
        for path, checksum in sorted(note.links.items()):
            child = self.layout.dataset("zarr", f"{dataset.path}/{path}")
            commit = commit_of_checksum(child, checksum)
            if commit is None:
                never.append(f"{path} with the checksum {checksum}")
                continue
            children.append(child)
            links[child.below(dataset)] = SubdatasetLink(commit, child.repository)
        if never:
            raise _NeverMirrored(
                f"it links {counted(len(never), 'Zarr store')} as no run has mirrored, first {never[0]}"
            )
        return children, links

    def _tag(self, dataset: Dataset, release: ReleaseNote, commit: str) -> None:
        lines = [f"Version {release.version} of {dataset.path}"]
        lines += ["", f"DOI: {release.doi}"] if release.doi else []
        run(
            ["tag", "--annotate", "--file=-", release.version, commit],
            dataset.repository,
            ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"),
            epoch=epoch_of(release.created),
        )
        run(["update-server-info"], dataset.repository)
