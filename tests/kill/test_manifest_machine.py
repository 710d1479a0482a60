"""Whatever happens to files and objects, no row of a manifest is contradicted by reading both.

A state machine does to a small release and its bucket what users, other clients, disks and servers do, and runs the
stages between. After each verify the rows are compared with the bytes themselves, and with what a verify of everything
finds on a copy of the journals.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lading.cli import batch, find, upload, verify
from lading.core.errors import LadingError
from lading.verification.manifest import ManifestRow, Strength, read_manifest
from tests.collision import ONE, OTHER
from tests.servers import liar

NAMES = ("a", "b", "d/c", "d/e")
# Two of one MD5; two more of their size; one of another.
CONTENTS = (ONE, OTHER, ONE[::-1], OTHER[::-1], b"short", b"")
TIME = 10**18
names, contents = st.sampled_from(NAMES), st.sampled_from(CONTENTS)


def stage(main: Callable[[Sequence[str] | None], int], *arguments: object) -> int:
    """Run a stage as its program does; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except LadingError as error:
        return error.exit_code


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Truth(RuleBasedStateMachine):
    """One release of four files, its bucket, and all that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="truth-"))
        self.root = self.directory / "data" / "r"
        self.away = self.directory / "away"  # what links lead to
        self.serving = liar.serve()
        self.server = self.serving.__enter__()
        self.lied: set[str] = set()  # keys whose objects are not what the server shows of them
        self.planned = False
        self.fresh: list[ManifestRow] | None = None  # of the verify a moment ago

    def teardown(self) -> None:
        self.serving.__exit__(None, None, None)
        shutil.rmtree(self.directory)

    @initialize(chosen=st.lists(contents, min_size=len(NAMES), max_size=len(NAMES)))
    def begin(self, chosen: list[bytes]) -> None:
        self.away.mkdir()
        for name, content in zip(NAMES, chosen):
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            self.write(name, content)
        self.crawl(mtime=True)

    def path(self, name: str) -> Path:
        return self.root / name

    def file(self, name: str) -> Path | None:
        """Return a regular file that is reached through no link, or None."""
        path = self.path(name)
        plain = not path.is_symlink() and not path.parent.is_symlink() and path.is_file()
        return path if plain else None

    # -- files -----------------------------------------------------------------------------------------------------

    @rule(name=names, content=contents)
    def write(self, name: str, content: bytes) -> None:
        """Replace a file, or what is in its place, by one of a usual time."""
        path = self.path(name)
        if path.parent.is_symlink():
            path.parent.unlink()
            (self.away / "d").rename(path.parent)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(TIME, TIME))

    @rule(name=names, content=contents)
    def rewrite_under_the_old_time(self, name: str, content: bytes) -> None:
        """In place: the inode stays too."""
        path = self.file(name)
        if path and path.stat().st_size == len(content):
            held = path.stat().st_mtime_ns
            path.write_bytes(content)
            os.utime(path, ns=(held, held))

    @rule(one=names, other=names)
    def swap(self, one: str, other: str) -> None:
        first, second = self.file(one), self.file(other)
        if first and second and one != other:
            first.rename(self.away / "aside")
            second.rename(first)
            (self.away / "aside").rename(second)

    @rule(name=names)
    def touch(self, name: str) -> None:
        path = self.file(name)
        if path:
            os.utime(path)

    @rule(name=names, mode=st.sampled_from([0o600, 0o644]))
    def chmod(self, name: str, mode: int) -> None:
        path = self.file(name)
        if path:
            path.chmod(mode)

    @rule(name=names)
    def remove(self, name: str) -> None:
        path = self.file(name)
        if path:
            path.unlink()

    @rule(name=names, content=contents)
    def link(self, name: str, content: bytes) -> None:
        """A link takes the place of a file; it may lead to the same bytes."""
        path = self.file(name)
        if path:
            path.unlink()
            target = self.away / name.replace("/", "-")
            target.write_bytes(content)
            os.utime(target, ns=(TIME, TIME))
            path.symlink_to(target)

    @rule()
    def move_directory(self) -> None:
        """A link takes the place of a directory."""
        path = self.root / "d"
        if not path.is_symlink():
            path.rename(self.away / "d")
            path.symlink_to(self.away / "d")

    @rule()
    def hide_directory(self) -> None:
        """What is below cannot be looked at: for root too, unlike what has no rights."""
        path = self.root / "d"
        if not path.is_symlink():
            path.rename(self.away / "d")
            path.symlink_to(path)

    # -- objects ---------------------------------------------------------------------------------------------------

    @rule(name=names, content=contents)
    def put_by_others(self, name: str, content: bytes) -> None:
        self.server.put(f"r/{name}", content)

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.server.objects.pop(f"r/{name}", None)

    @rule(name=names)
    def rot(self, name: str) -> None:
        """The server's disk errs, and nothing shows it."""
        stored = self.server.objects.get(f"r/{name}")
        if stored and stored.content:
            stored.flip()
            self.lied.add(f"r/{name}")

    @rule(name=names, lies=st.booleans())
    def store_other_bytes(self, name: str, lies: bool) -> None:
        """From now on the server stores something else under the right ETag, or no more."""
        (self.server.damages.add if lies else self.server.damages.discard)(f"r/{name}")
        self.lied.add(f"r/{name}")

    @rule(shows=st.booleans())
    def show_checksums(self, shows: bool) -> None:
        self.server.shows_crc = shows

    # -- stages ----------------------------------------------------------------------------------------------------

    def flags(self, *more: object) -> list[object]:
        here = ["--bucket", "s3://bucket", "--batch", self.directory / "batch.json"]
        return [self.root.parent, *here, "--endpoint-url", self.server.endpoint, *more]

    @rule(mtime=st.booleans())
    def crawl(self, mtime: bool) -> None:
        tree, plan = self.directory / "find.json", self.directory / "batch.json"
        more = ["--mtime"] if mtime else []
        code = stage(find.main, self.root, "--max-workers", "1", "-o", tree, *more)
        assert code in (0, 3)
        bounds = ["--min-batch-size", "1", "--max-batch-size", "1k"]
        self.planned = stage(batch.main, self.root, "--file-tree", tree, *bounds, "-o", plan) == 0

    @precondition(lambda self: self.planned)
    @rule(adopt=st.sampled_from(["md5", "md5", "checksum", "download"]), looks=st.sampled_from(["auto", "never"]))
    def upload(self, adopt: str, looks: str) -> None:
        code = stage(upload.main, *self.flags("--engine", "boto3", "--adopt", adopt, "--look", looks))
        assert code in (0, 3), code

    @precondition(lambda self: self.planned)
    @rule(
        flags=st.lists(
            st.sampled_from(["--source", "--source=2", "--full", "--deep=2", "--level=checksum", "--adopt=checksum"]),
            max_size=2,
            unique_by=lambda flag: flag.partition("=")[0],
        )
    )
    def verify(self, flags: list[str]) -> None:
        code = stage(verify.main, *self.flags(*flags))
        assert code in (0, 3, 4), code
        manifest = read_manifest(self.directory / "manifest.jsonl.zst")
        assert manifest.end.complete == (code == 0)
        self.fresh = list(manifest.rows())

    @rule()
    def lose_the_journals(self) -> None:
        shutil.rmtree(self.directory / "journal", ignore_errors=True)

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def no_row_is_contradicted(self) -> None:
        rows, self.fresh = self.fresh, None
        if rows is None:
            return
        for row in rows:
            self.check(row)
        found = self.verify_everything()
        for row in rows:
            if row.key not in self.lied:
                known = row.sha256 is not None
                assert row.key in found or not known, f"{row} is contradicted by verify --source --full"

    def check(self, row: ManifestRow) -> None:
        """Compare a row with the bytes themselves."""
        stored = self.server.objects.get(row.key)
        assert stored is not None, row
        assert (len(stored.content), stored.etag) == (row.size, row.etag)
        if row.sha256 is not None and row.key not in self.lied:
            assert sha256(stored.content) == row.sha256, row
        assert (row.sha256 is None) != (row.file_sha256 is None), row
        assert row.verified_by is not None
        assert row.present_before or row.sha256, "what was sent is known"
        if row.strength < Strength.DOWNLOAD and row.present_before:
            assert row.sha256 is None, row
        path = self.file(row.path)
        if path:
            assert sha256(path.read_bytes()) == (row.sha256 or row.file_sha256), f"{row}: the file is another"
        else:
            assert not os.path.lexists(self.path(row.path)) or self.root.joinpath("d").is_symlink(), "a link is no file"

    def verify_everything(self) -> dict[str, ManifestRow]:
        """Return the rows of a verify that reads all, which leaves no trace; each is true to the bytes."""
        with tempfile.TemporaryDirectory(prefix="truth-") as name:
            copy = Path(name)
            for part in ("find.json", "find.meta.json", "batch.json"):
                shutil.copy2(self.directory / part, copy / part)
            if (self.directory / "find.metadata.jsonl.zst").exists():  # of a tree with links
                shutil.copy2(self.directory / "find.metadata.jsonl.zst", copy)
            if (self.directory / "journal").is_dir():
                shutil.copytree(self.directory / "journal", copy / "journal")
            flags: list[Any] = self.flags("--source", "--full")
            flags[flags.index(self.directory / "batch.json")] = copy / "batch.json"
            assert stage(verify.main, *flags) in (0, 3, 4)
            rows = {row.key: row for row in read_manifest(copy / "manifest.jsonl.zst").rows()}
        for row in rows.values():
            assert row.strength is Strength.DOWNLOAD
            assert sha256(self.server.objects[row.key].content) == row.sha256
        return rows


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Truth,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_no_row_is_contradicted() -> None:
    run(12, 15)


@pytest.mark.long
def test_no_row_is_contradicted_for_long() -> None:
    run(50, 25)
