"""Helpers of the mirror's tests: objects in a real bucket, the manifest of them, clones of the mirror."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lading.mirror.comparison import compare
from lading.mirror.config import load_config
from lading.mirror.engine import DatasetEngine
from lading.mirror.layout import MirrorLayout
from lading.mirror.source import read_source
from lading.mirror.update import Update
from lading.tree.coverage import Coverage
from lading.verification.manifest import ManifestHeader, ManifestRow, write_manifest

# Settings that most tests of the mirror share.
ZARRS = "zarrs: {path: datasets}\n"
REPOSITORY = Path(__file__).resolve().parent.parent
PUBLIC = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject", "s3:GetObjectVersion"]}],
}


def git(*arguments: str | bytes | Path, cwd: Path) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr.decode(errors="replace"))
    return done.stdout


def datalad(*arguments: str, cwd: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [str(Path(sys.executable).parent / "datalad"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert not check or done.returncode == 0, (arguments, done.stdout[-3000:], done.stderr[-3000:])
    return done


def allow_loopback() -> None:
    """Let git-annex fetch from this machine, as docs/reference/mirror.md says for on-site endpoints."""
    git("config", "--global", "annex.security.allowed-ip-addresses", "127.0.0.1", cwd=Path.cwd())


@dataclass
class Bucket:
    """A bucket, what was put there, and manifests of it; time is counted, not read."""

    client: Any
    name: str
    endpoint: str
    root: Path
    prefix: str = ""
    rows: dict[str, ManifestRow] = field(default_factory=dict)
    clock: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def open_to_all(self) -> None:
        policy = json.loads(json.dumps(PUBLIC))
        policy["Statement"][0]["Resource"] = [f"arn:aws:s3:::{self.name}/*"]
        self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))

    def put(self, path: bytes | str, data: bytes, **row: object) -> ManifestRow:
        """Store an object and note its row; the local copy is written too."""
        path = os.fsdecode(path)
        key = self.prefix + (path if path.isascii() or _is_text(path) else "odd/" + os.fsencode(path).hex())
        answer = self.client.put_object(Bucket=self.name, Key=key, Body=data)
        self.clock += timedelta(seconds=1)
        fields: dict[str, Any] = {
            "path": path,
            "key": key,
            "size": len(data),
            "mtime_ns": 0,
            "md5": hashlib.md5(data).hexdigest(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "etag": answer["ETag"].strip('"'),
            "version_id": answer.get("VersionId"),
            "checksum": "etag",
            "batch": "b",
            "uploaded_at": self.clock.isoformat(),
        }
        self.rows[path] = ManifestRow(**{**fields, **row})
        return self.rows[path]

    def put_local(self, path: bytes | str, data: bytes) -> None:
        target = self.root / os.fsdecode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def fill(self, files: Mapping[bytes | str, bytes]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: self.put(*item), files.items()))

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=self.rows.pop(path).key)

    def write(self, target: Path, *, complete: bool = True) -> Path:
        header = ManifestHeader(self.name, self.prefix, self.endpoint, str(self.root), "0" * 64, "2026-01-01", {})
        rows = sorted(self.rows.values(), key=lambda row: row.key.encode("utf-8", "surrogateescape"))
        write_manifest(target, header, rows, complete=complete)
        return target


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def head(repository: Path, ref: str = "main") -> str:
    return git("rev-parse", f"refs/heads/{ref}", cwd=repository).decode().strip()


def heads(store: Path) -> dict[str, str]:
    """Every branch of every repository of a store."""
    found = {}
    for repository in sorted(store.glob("???/*")):
        if (repository / "HEAD").exists():
            for line in git("for-each-ref", "--format=%(refname) %(objectname)", cwd=repository).decode().splitlines():
                name, sha = line.split()
                found[f"{repository.relative_to(store)} {name}"] = sha
    return found


def content(clone: Path) -> dict[str, bytes]:
    """Every file of a clone with its bytes, without what git, git-annex and DataLad keep there."""
    found = {}
    for folder, folders, names in os.walk(clone):
        top = ".git" in [*folders, *names]  # of a dataset: deeper, such names are the data's
        folders[:] = [f for f in folders if not (f in (".git", ".datalad", ".mirror") and top)]
        for name in names:
            if name in (".gitmodules", ".gitattributes", ".git"):
                continue
            path = Path(folder) / name
            found[str(path.relative_to(clone))] = path.read_bytes()
    return found


def tree(repository: Path, ref: str) -> list[bytes]:
    """Every path of a branch with its mode and object id, as one record each; logs only by name."""
    lines = git("ls-tree", "-r", "-z", "--full-tree", f"refs/heads/{ref}", cwd=repository).split(b"\0")[:-1]
    return [line.split(b"\t", 1)[1] if ref == "git-annex" else line for line in lines]


@dataclass
class Listed:
    """Rows of a manifest for tests that fetch nothing."""

    root: Path
    rows: dict[str, ManifestRow] = field(default_factory=dict)
    clock: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    created_at: str = "2026-01-01"
    prefix: str = ""
    coverage: Coverage | None = None

    def put(self, path: bytes | str, data: bytes, **row: object) -> ManifestRow:
        path = os.fsdecode(path)
        self.clock += timedelta(seconds=1)
        md5 = hashlib.md5(data).hexdigest()
        fields: dict[str, Any] = {
            "path": path,
            "key": path,
            "size": len(data),
            "mtime_ns": 0,
            "md5": md5,
            "sha256": hashlib.sha256(data).hexdigest(),
            "etag": md5,
            "version_id": None,
            "checksum": "etag",
            "batch": "b",
            "uploaded_at": self.clock.isoformat(),
        }
        self.rows[path] = ManifestRow(**{**fields, **row})
        return self.rows[path]

    def put_local(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def write(self, target: Path, *, complete: bool = True) -> Path:
        header = ManifestHeader(
            "bucket", self.prefix, "http://127.0.0.1:9", str(self.root), "0" * 64, self.created_at, {}
        )
        rows = sorted(self.rows.values(), key=lambda row: row.key.encode("utf-8", "surrogateescape"))
        write_manifest(target, header, rows, complete=complete, coverage=self.coverage)
        return target


def stores(tmp_path: Path) -> Path:
    return tmp_path / "datasets"


def repository(tmp_path: Path, path: str) -> Path:
    """The repository of a dataset, found through the superdataset's own record."""
    if not path:
        return (stores(tmp_path) / "alias" / "super").resolve()
    records = json.loads(git("show", "main:.mirror/datasets.json", cwd=repository(tmp_path, "")))
    found = records["datasets"][path]["id"]
    return stores(tmp_path) / found[:3] / found[3:]


def update_with(engine: DatasetEngine, listing: Listed, tmp_path: Path, **overrides: Any) -> None:
    """Bring the mirror to a listing in this process, its branches written by ``engine``."""
    given = {"backup_root": str(tmp_path), "zarrs": {"path": "datasets"}, **overrides}
    source = read_source(listing.write(tmp_path / "manifest.jsonl.zst"))
    layout = MirrorLayout(load_config(None, given), source.header)
    layout.prepare()
    with layout.lock():
        assert not Update(compare(layout, source), print, engine).run().failed
