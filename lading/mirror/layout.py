"""Where the mirror's repositories are: RIA stores of bare repositories.

Input: the settings and the manifest's header. Output: ids, directories and
addresses of datasets.
Invariant: an id depends on bucket, prefix and path only, so a rebuilt mirror
has the ids of the one before; a repository appears whole.

Source of the layout: DataLad's RIA store documentation, store version 1,
dataset version 2 (``<id[:3]>/<id[3:]>`` below the store).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from lading.coordination.kernel_lock import read_holder, sign, try_lock
from lading.core.atomic import atomic_write
from lading.core.errors import LadingError, LockHeldError, UsageError
from lading.mirror.config import Config, MirrorLocation
from lading.mirror.git.annex import identifier
from lading.mirror.git.commands import create_bare, resolve, run
from lading.mirror.git.portable_names import repository_path, to_bytes
from lading.verification.manifest import ManifestHeader

SUPER = "super"
_PRIVATE = ".lading"


@dataclass(frozen=True)
class Dataset:
    """One dataset: ``kind`` is super, session or zarr, ``path`` its place below the superdataset as in the manifest."""

    kind: str
    path: str
    id: str
    repository: Path
    name: str

    @property
    def uuid(self) -> str:
        """The git-annex id of the repository in the store."""
        return identifier("annex", self.id)

    def uuid_at(self, store: str) -> str:
        """Return the git-annex id of the repository's copy in another store."""
        return identifier("annex", self.id, store)

    @property
    def backend(self) -> str:
        """The key backend: Zarr chunks are proven by MD5, all else by SHA-256."""
        return "MD5E" if self.kind == "zarr" else "SHA256E"

    def below(self, parent: "Dataset") -> bytes:
        """Return the path of this dataset inside its parent's tree."""
        start = len(parent.path) + 1 if parent.path else 0
        return repository_path(to_bytes(self.path[start:]), directory=True)


def known_file(config: Config) -> Path:
    """Return the note of manifests that were read whole before; deleting it costs time only."""
    return Path(config.backup_root).absolute() / config.datasets.path / _PRIVATE / "manifests.json"


@dataclass(frozen=True)
class MirrorLayout:
    """The stores of one mirror."""

    config: Config
    header: ManifestHeader

    def place(self, kind: str) -> MirrorLocation:
        """Return the settings for datasets of a kind."""
        if kind == "zarr":
            assert self.config.zarrs is not None
            return self.config.zarrs
        return self.config.datasets

    def store(self, kind: str) -> Path:
        """Return the RIA store that holds datasets of a kind."""
        return Path(self.config.backup_root).absolute() / self.place(kind).path

    def dataset(self, kind: str, path: str) -> Dataset:
        """Return the dataset at ``path``."""
        found = identifier("dataset", self.header.bucket, self.header.prefix, path)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path).strip("-.") if path else self.header.bucket
        if path and name != path:
            name = f"{name[:80]}-{found[:8]}"
        return Dataset(kind, path, found, self.store(kind) / found[:3] / found[3:], name)

    def web_address(self, dataset: Dataset) -> str | None:
        """Return the page of a dataset on GitHub, or None."""
        org = self.place(dataset.kind).github_org
        if org is None:
            return None
        api = urlsplit(self.config.github_api)
        host = api.netloc.removeprefix("api.")
        return f"{api.scheme}://{host}/{org}/{dataset.name}"

    def check_store(self) -> None:
        """Raise ``UsageError`` when the store is another release's: its alias and its note can only be of one."""
        store, superdataset = self.store("super"), self.dataset("super", "")
        alias = store / "alias" / SUPER
        if alias.is_symlink() and alias.resolve() != superdataset.repository.resolve():
            raise UsageError(
                f"{store} mirrors another release than s3://{self.header.bucket}/{self.header.prefix} "
                f"(its superdataset is {alias.resolve()}); "
                "give this release a store of its own: datasets.path of the settings, or --store"
            )

    def prepare(self) -> None:
        """Make the stores' own files, if they are not there yet."""
        self.check_store()
        for kind in ("session", "zarr") if self.config.zarrs else ("session",):
            store = self.store(kind)
            store.mkdir(parents=True, exist_ok=True)
            (store / _PRIVATE).mkdir(exist_ok=True)
            _write_once(store / "ria-layout-version", "1\n")

    def create(self, dataset: Dataset) -> None:
        """Make the repository of ``dataset`` if it is not there yet."""
        if not dataset.repository.exists():
            create_bare(
                dataset.repository,
                {
                    "annex.uuid": dataset.uuid,
                    "annex.version": "10",
                    "core.logallrefupdates": "false",
                    "gc.auto": "0",
                },
            )
        _write_once(dataset.repository / "ria-layout-version", "2\n")
        if dataset.kind != "super":
            self._begin_with_history(dataset)
        if dataset.kind == "super":
            aliases = self.store("super") / "alias"
            aliases.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (aliases / SUPER).symlink_to(os.path.relpath(dataset.repository, aliases))
            self.check_store()

    def _begin_with_history(self, dataset: Dataset) -> None:
        """Fetch what a private mirror has of a dataset that is new here: it became public, and keeps its history."""
        if not self.config.private_stores or resolve(dataset.repository, "refs/heads/main"):
            return
        for store in self.config.private_stores:
            held = Path(self.config.backup_root).absolute() / store / dataset.id[:3] / dataset.id[3:]
            if held.exists() and resolve(held, "refs/heads/main"):
                refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
                run(["fetch", "--quiet", "--atomic", os.fspath(held), *refs], dataset.repository)
                return

    def address(self, dataset: Dataset) -> str:
        """Return what ``datalad clone`` takes on this machine."""
        return f"ria+file://{self.store(dataset.kind)}#{dataset.id}"

    @property
    def done_file(self) -> Path:
        """The note that spares an unchanged run its work; deleting it costs time only."""
        return self.store("super") / _PRIVATE / "done.json"

    @property
    def failures_file(self) -> Path:
        """The note of what failed in the last run."""
        return self.store("super") / _PRIVATE / "failures.json"

    @property
    def lost_file(self) -> Path:
        """The note of versions that cannot be published; deleting it has them named once more."""
        return self.store("super") / _PRIVATE / "lost-versions.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the mirror for one run; ``LockHeldError`` (exit 75) at once when another run does."""
        path = self._lock_file
        with open(path, "a+", encoding="utf-8") as stream:
            _take(stream, path)
            if path.stat().st_size:
                _clear_after_kill(
                    [self.store(kind) for kind in (("super", "zarr") if self.config.zarrs else ("super",))]
                )
            with sign(stream):
                yield

    @contextmanager
    def lock_to_read(self) -> Iterator[None]:
        """Keep writers away for the while, with other readers; ``LockHeldError`` when one is at work. Makes nothing."""
        try:
            stream = open(self._lock_file, encoding="utf-8")  # noqa: SIM115
        except FileNotFoundError:
            yield  # no run ever wrote here
            return
        with stream:
            _take(stream, self._lock_file, shared=True)
            yield

    @property
    def _lock_file(self) -> Path:
        return self.store("super") / _PRIVATE / "lock"


def _take(stream: IO[str], path: Path, *, shared: bool = False) -> None:
    try:
        # A POSIX lock works on NFS and Lustre too.
        if not try_lock(stream, shared=shared, posix=True):
            holder = read_holder(path)
            raise LockHeldError(
                f"another run works on {path.parent.parent}: {holder if holder.pid else 'it reads'}; "
                "this run did nothing; wait for it, then run the same command again"
            )
    except OSError as error:
        raise LadingError(f"cannot lock {path}: {error.strerror}; put the mirror on another disk") from error


def _write_once(path: Path, text: str) -> None:
    if not path.exists():
        with atomic_write(path) as stream:
            stream.write(text)


def _clear_after_kill(stores: list[Path]) -> None:
    """Remove what a killed git leaves: its lock files on refs and its half packs. The mirror's lock is held."""
    for store in stores:
        for pattern in (
            "???/*/refs/**/*.lock",
            "???/*/packed-refs.lock",
            "???/*/objects/pack/tmp_*",
            "???/*/fast_import_crash_*",
        ):
            for leftover in store.glob(pattern):
                leftover.unlink(missing_ok=True)
