"""Where a job keeps what: every file name of a job's state, in one place.

Input: the state root and a job's destination. Output: paths.
Invariant: one directory per destination, so equal destinations meet in one
lock and one journal; nothing of it lies in what is uploaded.
"""

from dataclasses import dataclass
from pathlib import Path

DRY_RUN = ".dry-run"


@dataclass(frozen=True)
class JobPaths:
    """The state directory of one job; made by ``create``."""

    directory: Path

    @property
    def journal(self) -> Path:
        """Every event of the job, append-only."""
        return self.directory / "journal.jsonl"

    @property
    def job(self) -> Path:
        """The resolved job, secrets masked, and its fingerprint."""
        return self.directory / "job.json"

    @property
    def staging(self) -> Path:
        """Where the staging folder is, as text; written before the folder is made."""
        return self.directory / "staging"

    @property
    def old_stagings(self) -> Path:
        """Log of earlier staging folders that are not known to be gone; absent when there is none."""
        return self.directory / "stagings.jsonl"

    @property
    def queued(self) -> Path:
        """Which submission of which list has the job in a queue."""
        return self.directory / "queued.json"

    @property
    def cancel(self) -> Path:
        """Present while somebody wants the job stopped."""
        return self.directory / "cancel"

    @property
    def lineage(self) -> Path:
        """Directory of what is known of each source file, one file of records per modality."""
        return self.directory / "lineage"

    @property
    def inventory(self) -> Path:
        """Directory of what else is to be sent: files of modalities sent from their source, derivatives, metadata."""
        return self.directory / "inventory"

    @property
    def removing(self) -> Path:
        """Log of the names under which source files wait to be deleted; gone when none does."""
        return self.directory / "removing.jsonl"

    @property
    def removed(self) -> Path:
        """Directory of the manifests on which deletions rested: later uploads of the job write others."""
        return self.directory / "removed"

    @property
    def only_copies(self) -> Path:
        """Log of the objects that carry deleted sources, which no later upload may replace."""
        return self.directory / "removed.jsonl"

    @property
    def occupied(self) -> Path:
        """Which folders of the destination held objects before this state root sent anything."""
        return self.directory / "occupied.json"

    @property
    def viewers(self) -> Path:
        """What a browser may read of the job's images, as it was when somebody asked."""
        return self.directory / "viewers.json"

    @property
    def records(self) -> Path:
        """The state root's directory of asset records, where no document database is named."""
        return self.directory.parent.parent / "records"

    def log(self, task: str, part: str = "") -> Path:
        """The output of one task's programs."""
        return self.directory / "logs" / (f"{task}.{part}.log" if part else f"{task}.log")

    def upload_unit(self, name: str) -> Path:
        """The working directory of one upload: tree, plan, journal, manifest."""
        return self.directory / "upload" / name

    def compression(self, part: str) -> Path:
        """The state of one modality's compression."""
        return self.directory / "compress" / part

    def create(self) -> "JobPaths":
        """Make the directories and return the place."""
        for path in (self.directory / "logs", self.lineage, self.inventory):
            path.mkdir(parents=True, exist_ok=True)
        return self


def paths_of(root: Path, bucket: str, prefix: str, *, dry_run: bool = False) -> JobPaths:
    """Return the place of a job; a dry run has its own, so that it proves nothing for the real one."""
    return JobPaths(root / bucket / (prefix + (DRY_RUN if dry_run else "")))
