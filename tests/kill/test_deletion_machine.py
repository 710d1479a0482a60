"""Random scenarios around deleting sources: no byte is lost, whatever happens in which order.

Invariant: the content of every file that a person left in a source is in a
source, or in the bucket with a row of a manifest that says so. Contents and
objects are looked at here by themselves: files and the server's own directory,
SHA-256 of each, members of zips as other libraries read them. What was
compressed is put together again, from what zarr reads: the channels of
samples, the planes of images, HDF5 files out of their residue and the arrays.
LADING_SCENARIOS sizes the long test, a quarter for each family of kinds (the full claim
is 200, which take 20 min). Where LADING_EVIDENCE names a directory, a scenario that
loses something leaves its sources, state and bucket there.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import pyzipper
import tifffile
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lading.cli import restore
from lading.core.errors import LadingError
from lading.sessions import provenance as lineage
from lading.sessions import source_tree as sourcetree
from lading.sessions.source_tree import ASIDE
from lading.sessions.tasks import staging
from lading.testing.ephys_data import write_openephys, write_spikeglx
from lading.testing.s3_server import Server, serve
from lading.verification.manifest import ManifestRow, read_manifest
from tests import deleting
from tests.deleting import Session, steps_in_process

SCENARIOS = int(os.environ.get("LADING_SCENARIOS", "20"))
NAMES = ("a.bin", "left/b.bin", "left/c.csv", "right/b.bin", "right/c.csv")
PLANES = ("plane_0.tif", "plane_1.tif", "plane_2.tif")
SECRET = "correct horse"
ZIPPED = {"compress_raw_data": "TRUE"}
VIDEO = {"compress_raw_data": "TRUE", "preset": "none"}
# Of each kind: modality, cells, and files beside NAMES that its compressor understands.
KINDS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "copy": ("behavior", {}, ()),
    "direct": ("behavior", {"skip_staging": "TRUE"}, ()),
    "zip": ("behavior", ZIPPED, ()),
    "zip-aes": ("behavior", {**ZIPPED, "pack": "aes"}, ()),
    "folder": ("behavior", {**ZIPPED, "pack": "copy"}, ()),
    "file": ("behavior", {}, ("data.bin",)),
    "file-zip": ("behavior", ZIPPED, ("data.bin",)),
    "video": ("behavior-videos", VIDEO, ()),
    "video-aes": ("behavior-videos", {**VIDEO, "video_zip": "aes"}, ()),
    "ecephys": ("ecephys", {}, ("samples.bin",)),
    "nwb": ("ecephys", {}, ("s.nwb",)),
    "openephys": ("ecephys", {}, ()),
    "spikeglx": ("ecephys", {}, ()),
    "SPIM": ("SPIM", ZIPPED, PLANES),
    "SPIM-tiles": ("SPIM", ZIPPED, PLANES),
    "SPIM-big": ("SPIM", ZIPPED, PLANES),
    "SPIM-tags": ("SPIM", ZIPPED, PLANES),
}
FAMILIES: dict[str, tuple[str, ...]] = {
    "copies": ("copy", "direct", "folder", "file"),
    "zips": ("zip", "zip-aes", "file-zip", "video", "video-aes"),
    "recordings": ("ecephys", "nwb", "openephys", "spikeglx"),
    "images": ("SPIM", "SPIM-tiles", "SPIM-big", "SPIM-tiles", "SPIM-big", "SPIM-tags"),
}
# During which program of an upload somebody changes a source: any but the plan's, which reads no file.
MOMENTS = ("", *(name for name in deleting.MAINS if name != "batch.py"))
# Those that are tried now.
CHOSEN: Sequence[str] = sorted(KINDS)
# How the pages of each kind of stack are written.
PAGES: dict[str, dict[str, Any]] = {
    "SPIM": {},
    "SPIM-tiles": {"tile": (16, 16), "compression": "zlib"},
    "SPIM-big": {"byteorder": ">"},
    "SPIM-tags": {"extratags": [(65000, "s", 0, "stage at 3, 4", False)]},
}
SERVER: list[Server] = []
# Of an HDF5 file: where the values of which array of the group begin.
Layout = dict[str, int]
ARRAYS = {"traces": "data", "times": "timestamps"}
DAQ = "NI-DAQmx-103.PXI-6133"
# How often each came about in a run of scenarios: a machine that deletes nothing shows nothing.
SEEN: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ls3-") as directory, serve(Path(directory) / "data") as running:
        SERVER.append(running)
        yield
        SERVER.pop()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def channels_of(path: Path) -> int:
    """Return how many channels a file of samples has, 0 for another file."""
    meta = path.with_suffix(".meta")
    if path.suffix == ".bin" and meta.exists():
        return int(meta.read_text().partition("nSavedChans=")[2].split()[0])
    return {"continuous.dat": 8, "samples.bin": 4}.get(path.name, 0)


def rebuild(residue: bytes, group: zarr.Group, layout: Layout) -> bytes:
    """Put an HDF5 file together: what is in no array comes from its residue."""
    line, _, rest = residue.partition(b"\n")
    head = json.loads(line)
    content, at = bytearray(head["size"]), 0
    for start, length in head["ranges"]:
        content[start : start + length] = rest[at : at + length]
        at += length
    for name, offset in layout.items():
        values = group[name][:].tobytes()
        content[offset : offset + len(values)] = values
    return bytes(content)


class Killed(BaseException):
    """The process ends here."""


class Deletion(RuleBasedStateMachine):
    """One session with sources, a staging folder, a bucket, and people who change all of them."""

    @initialize(
        number=st.integers(0, 59),
        settled=st.booleans(),
        seed=st.integers(0, 99),
        begun=st.sampled_from(["", "staged", "delivered", "delivered"]),
    )
    def begin(self, number: int, settled: bool, seed: int, begun: str) -> None:
        self.stack = contextlib.ExitStack()
        self.top = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="deletion-")))
        self.stack.enter_context(steps_in_process())
        environment = {**SERVER[0].environment(), "LADING_ZIP_PASSWORD": SECRET}
        self.stack.enter_context(mock.patch.dict(os.environ, environment))
        if settled:  # else each file, younger than a minute, is read once more
            self.stack.enter_context(mock.patch.object(lineage, "SETTLED_NS", -(10**13)))
        bucket = f"b-{os.urandom(6).hex()}"
        SERVER[0].make_bucket(bucket)
        self.objects = SERVER[0].directory / bucket
        self.kind = kind = CHOSEN[number % len(CHOSEN)]
        self.source = self.top / "source"
        modality, cells, self.own = KINDS[kind]
        self.count = seed
        # What a compressor takes apart: by the digest of a file, those of which all must be in the bucket.
        self.pieces: dict[str, set[str]] = {}
        self.layouts: dict[str, Layout] = {}
        if kind == "ecephys":
            self.put("probe.recording.yaml", b"channels: 4\nsampling_frequency: 1000\nfiles: samples.bin\n")
        elif kind == "openephys":
            write_openephys(self.source, {DAQ: self.samples(8)}, rate=1000, sync_channel=False)
        elif kind == "spikeglx":
            write_spikeglx(self.source, self.samples(16))
        for path in self.files():
            self.note_samples(path.read_bytes(), channels_of(path))
        for name in [*self.own, *NAMES[: 0 if kind.startswith("file") else 2 + seed % 3]]:
            self.put(name, self.compose(name, 40))
        self.alive = dict.fromkeys(self.contents(), 0)
        SEEN[kind] += 1
        source = self.source / self.own[0] if kind.startswith("file") else self.source
        self.session = Session(self.top, SERVER[0].endpoint, bucket, {modality: (source, cells)})
        self.staged = bool(begun) and self.attempt(self.session.stage)
        self.ended = False
        self.uploaded = begun == "delivered" and self.attempt(self.session.upload)

    def teardown(self) -> None:
        """Go on to the end, so that each scenario deletes, or refuses to."""
        if not hasattr(self, "stack"):
            return
        with self.stack:
            self.ended = False
            if not self.staged and self.own and self.files():
                with self.person():  # what a compressor cannot read any more is recorded again
                    for name in self.own:
                        self.put(name, self.compose(name, 40))
            for _ in range(4):
                if self.files() and not self.ended:
                    self.advance("checksum", 0, "", "")
            self.nothing_is_lost()

    # What people do to their sources; only they may end a content.

    def fresh(self, size: int = 40) -> bytes:
        self.count += 1
        return hashlib.sha256(str(self.count).encode()).digest() + bytes(max(0, size - 32))

    def samples(self, channels: int) -> np.ndarray:
        self.count += 1
        return np.random.default_rng(self.count).integers(-9999, 9999, (150, channels)).astype("<i2")

    def compose(self, name: str, size: int) -> bytes:
        """Return what a file of that name may hold, unlike any other."""
        if name.endswith(".tif"):
            return self.compose_plane()
        if name.endswith(".nwb"):
            return self.compose_nwb()
        if name == "samples.bin":
            content: bytes = self.samples(4).tobytes()
            self.note_samples(content, 4)
            return content
        return self.fresh(size)

    def compose_plane(self) -> bytes:
        plane = self.samples(32)[:32]
        stream = io.BytesIO()
        options = {"photometric": "minisblack", "metadata": None, **PAGES[self.kind]}
        order = options.pop("byteorder", None)
        with tifffile.TiffWriter(stream, byteorder=order) as writer:
            writer.write(plane.astype("u2"), **options)
        content = stream.getvalue()
        if self.kind != "SPIM-tags":  # which no object of voxels holds
            self.pieces[digest(content)] = {digest(plane.astype("<u2").tobytes())}
        return content

    def compose_nwb(self) -> bytes:
        path = self.top / "made.nwb"
        with h5py.File(path, "w") as file:
            series = file.create_group("acquisition/Raw")
            series.attrs["neurodata_type"] = "ElectricalSeries"
            series.create_dataset("data", data=self.samples(4)).attrs["conversion"] = 1e-6
            series["timestamps"] = np.arange(150) / 1000 + self.count
            file["general/notes"] = f"notes {self.count}"
            layout = {f"{name}_seg0": series[own].id.get_offset() for name, own in ARRAYS.items()}
        content = path.read_bytes()
        path.unlink()
        self.layouts[digest(content)] = layout
        return content

    def note_samples(self, content: bytes, channels: int) -> None:
        if content and channels and not len(content) % (2 * channels):
            columns = np.frombuffer(content, "<i2").reshape(-1, channels).T
            self.pieces[digest(content)] = {digest(column.tobytes()) for column in columns}

    def put(self, name: str, content: bytes) -> None:
        """Write a file as a person does."""
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def files(self) -> list[Path]:
        if not self.source.exists() or self.source.is_symlink():
            return []
        return sorted(path for path in self.source.rglob("*") if path.is_file() and not path.is_symlink())

    def pick(self, number: int) -> Path | None:
        files = [path for path in self.files() if not path.name.startswith(ASIDE)]
        return files[number % len(files)] if files else None

    def contents(self) -> set[str]:
        return {digest(path.read_bytes()) for path in self.files()}

    @contextlib.contextmanager
    def person(self) -> Iterator[None]:
        """Let a person change sources: what they had and no longer have is theirs to end, what is new must last."""
        before = self.contents()
        yield
        after = self.contents()
        for content in before - after:
            self.alive.pop(content, None)
        self.alive |= dict.fromkeys(after, 0)

    @rule(number=st.integers(0, 29), size=st.sampled_from([32, 40, 3000]))
    def write(self, number: int, size: int) -> None:
        names = [*NAMES, *self.own]
        name = names[number % len(names)]
        with self.person():
            self.put(name, self.compose(name, size))

    @rule(number=st.integers(0, 9))
    def touch(self, number: int) -> None:
        path = self.pick(number)
        if path:
            os.utime(path)

    @rule(number=st.integers(0, 9), by=st.sampled_from(["write", "rename"]))
    def replace(self, number: int, by: str) -> None:
        """Other bytes of the same size with the same mtime: cp -p, rsync --times, a clock of whole seconds."""
        path = self.pick(number)
        if path:
            with self.person():
                self.change(path, by)

    def change(self, path: Path, by: str = "write") -> None:
        status = path.stat()
        content = self.fresh(status.st_size)[: status.st_size]
        self.note_samples(content, channels_of(path))  # any bytes are samples
        if by == "rename":
            other = self.top / "other"
            other.write_bytes(content)
            os.replace(other, path)
        else:
            path.write_bytes(content)
        while path.stat().st_ctime_ns == status.st_ctime_ns or path.stat().st_mtime_ns != status.st_mtime_ns:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    @rule()
    def swap(self) -> None:
        left, right = self.source / "left", self.source / "right"
        if left.is_dir() and right.is_dir() and not left.is_symlink() and not right.is_symlink():
            left.rename(self.source / "between")
            right.rename(left)
            (self.source / "between").rename(right)

    @rule(back=st.booleans())
    def swap_for_link(self, back: bool) -> None:
        """A directory is moved elsewhere and a link left in its place; or the other way about."""
        left, away = self.source / "left", self.top / "away"
        with self.person():
            if left.is_symlink():
                left.unlink()
                if back:
                    away.rename(left)
                else:
                    shutil.rmtree(away)
            elif left.is_dir() and not away.exists():
                left.rename(away)
                left.symlink_to(away)

    @rule(number=st.integers(0, 9))
    def link(self, number: int) -> None:
        path = self.pick(number)
        if path and not path.with_name("hard").exists():
            os.link(path, path.with_name("hard"))

    # What the program does.

    def attempt(self, do: Callable[[], object]) -> bool:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                do()
            except LadingError:
                return False
        return True

    @rule(number=st.integers(0, 9), changing=st.booleans())
    def stage(self, number: int, changing: bool) -> None:
        """Copy or compress; with ``changing`` a file is written while it is copied."""
        path = self.pick(number)
        blocks = staging._blocks

        def disturbed(reader: int, check: Callable[[], None]) -> Iterator[bytes]:
            yield from blocks(reader, check)
            if path and path.exists():
                with self.person():
                    self.change(path)

        patch = mock.patch.object(staging, "_blocks", disturbed) if changing else contextlib.nullcontext()
        with patch:
            self.staged = self.attempt(self.session.stage)
        self.uploaded = False

    @precondition(lambda self: self.staged)
    @rule(number=st.integers(0, 9), during=st.sampled_from(MOMENTS))
    def upload(self, number: int, during: str) -> None:
        """Send; ``during`` one of its programs a source is changed just before it."""
        path = self.pick(number)
        mains = dict(deleting.MAINS)
        if during and path:

            def disturbed(argv: list[str]) -> int:
                SEEN[f"changed before {during}"] += 1
                if path.exists():
                    with self.person():
                        self.change(path)
                return mains[during](argv)

            mains_now = mains | {during: disturbed}
        else:
            mains_now = mains
        with mock.patch.object(deleting, "MAINS", mains_now):
            self.uploaded = self.attempt(self.session.upload)
        if not self.uploaded:
            self.staged = False  # what was staged is not what was sent: a run does it once more

    @rule(
        level=st.sampled_from(["etag", "checksum", "download"]),
        number=st.integers(0, 9),
        during=st.sampled_from(MOMENTS),
        event=st.sampled_from(["", "", "killed", "replaced"]),
    )
    def advance(self, level: str, number: int, during: str, event: str) -> None:
        """Do what comes next."""
        if not self.staged:
            self.stage(number, False)
        elif not self.uploaded:
            self.upload(number, during)
        else:
            self.remove(level, False, event, number)

    @precondition(lambda self: self.uploaded)
    @rule(
        level=st.sampled_from(["etag", "checksum", "checksum", "download"]),
        dry_run=st.sampled_from([True, False, False, False]),
        event=st.sampled_from(["", "", "", "killed", "replaced"]),
        number=st.integers(0, 9),
    )
    def remove(self, level: str, dry_run: bool, event: str, number: int) -> None:
        """Delete; meanwhile the process is killed, or somebody puts another file in a file's place."""
        rename, path = os.rename, self.pick(number)

        def disturbed(source: str, target: str, **where: int) -> None:
            if event == "replaced" and path and source == path.name and path.exists():
                with self.person():
                    self.change(path, "rename")
            rename(source, target, **where)
            if event == "killed" and path and source == path.name:
                raise Killed

        def put_back(directory: int, aside: str, name: str) -> bool:
            raise Killed

        with contextlib.ExitStack() as stack:
            if event:
                stack.enter_context(mock.patch.object(sourcetree.os, "rename", disturbed))
            if event == "killed":
                stack.enter_context(mock.patch.object(sourcetree, "put_back", put_back))
            before = len(self.files())
            with contextlib.suppress(Killed):
                self.session.remove(level=level, dry_run=dry_run)
                self.ended = not dry_run
            SEEN["deletions"] += len(self.files()) < before
            SEEN["refused"] += not dry_run and len(self.files()) == before > 0

    @rule(number=st.integers(0, 99), how=st.sampled_from(["flip", "delete"]))
    def corrupt_bucket(self, number: int, how: str) -> None:
        """An object is damaged or lost; what it alone held is the bucket's loss, not the program's."""
        objects = sorted(path for path in self.objects.rglob("*") if path.is_file())
        if not objects:
            return
        path = objects[number % len(objects)]
        before = self.held()
        if how == "delete":
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            if content:
                content[number % len(content)] ^= 1
                path.write_bytes(content)
        for lost in before - self.held() - self.contents():
            self.alive.pop(lost, None)

    @precondition(lambda self: self.staged)
    @rule(number=st.integers(0, 99))
    def corrupt_staging(self, number: int) -> None:
        """A staged file rots: one bit, no new stamp. One that is a link to a source is not touched: that is a write."""
        folder = self.session.staged
        found = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1)
        if found:
            path = found[number % len(found)]
            status, content = path.stat(), bytearray(path.read_bytes())
            if content:
                content[number % len(content)] ^= 1
                path.write_bytes(content)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    @precondition(lambda self: self.uploaded)
    @rule()
    def restore(self) -> None:
        """Bring everything back from the manifests and compare; what is lacking in the source is put there again."""
        for number, manifest in enumerate(self.manifests()):
            target = self.top / f"restored{number}"
            flags = ["--manifest", str(manifest), "--to", str(target), "--endpoint-url", SERVER[0].endpoint]
            with contextlib.redirect_stdout(io.StringIO()):
                self.attempt(lambda flags=flags: restore.main(flags))
            if not target.exists():
                continue
            known = {row.path: row.sha256 for row in read_manifest(manifest).rows()}
            for path in sorted(path for path in target.rglob("*") if path.is_file()):
                assert digest(path.read_bytes()) == known[str(path.relative_to(target))]
            shutil.rmtree(target)

    # What must hold.

    def manifests(self) -> list[Path]:
        directory = self.session.place.directory
        return sorted([*directory.glob("upload/*/manifest.jsonl.zst"), *directory.glob("removed/*.zst")])

    def rows(self) -> dict[str, list[ManifestRow]]:
        found: dict[str, list[ManifestRow]] = {}
        for manifest in self.manifests():
            for row in read_manifest(manifest).rows():
                found.setdefault(row.key, []).append(row)
        return found

    def held(self) -> set[str]:
        """Contents that objects of the bucket hold whose rows say so."""
        contents: set[str] = set()
        for key, rows in self.rows().items():
            path = self.objects / key
            if not path.is_file():
                continue
            body = path.read_bytes()
            if digest(body) not in {row.sha256 or row.file_sha256 for row in rows}:
                continue
            contents.add(digest(body))
            if key.endswith(".zip"):
                with pyzipper.AESZipFile(io.BytesIO(body)) as archive:
                    archive.setpassword(SECRET.encode())
                    contents |= {digest(archive.read(name)) for name in archive.namelist()}
            with contextlib.suppress(Exception):  # a store that somebody damaged holds nothing
                contents |= self.decoded(path)
        return contents | {content for content, pieces in self.pieces.items() if pieces <= contents}

    def decoded(self, path: Path) -> set[str]:
        """What an object, or a store by its metadata, holds in another form: channels, planes, HDF5 files."""
        if path.name == ".zmetadata":
            group = zarr.open_consolidated(path.parent, mode="r", zarr_format=2)
            traces = [group[name][:] for name in group if name.startswith("traces_seg")]
            return {digest(np.ascontiguousarray(column).tobytes()) for trace in traces for column in trace.T}
        if path.name == "zarr.json" and path.parent.name.endswith(".ome.zarr"):
            voxels = zarr.open_group(path.parent, mode="r")["0"][:].astype("<u2")
            return {digest(plane.tobytes()) for plane in voxels.reshape(-1, *voxels.shape[-2:])}
        if path.suffix == ".residue":
            (store,) = path.parents[1].glob("ecephys_compressed/*.zarr")
            group = zarr.open_consolidated(store, mode="r", zarr_format=2)
            return {digest(rebuild(path.read_bytes(), group, layout)) for layout in self.layouts.values()}
        return set()

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "session"):
            return
        lacking = self.alive.keys() - self.contents()
        if lacking:
            lacking -= self.held()
        if lacking:
            raise AssertionError(self.evidence(lacking))

    def evidence(self, lacking: set[str]) -> str:
        """Tell what was lost, and what was there at that moment; keep it where LADING_EVIDENCE says."""
        told = [f"{len(lacking)} contents are in no source and in no object with a row: kind {self.kind}"]
        told += [f"lost {content}" for content in sorted(lacking)]
        told += [f"source {path} {digest(path.read_bytes())}" for path in self.files()]
        told += [f"object {path} {digest(path.read_bytes())}" for path in self.objects.rglob("*") if path.is_file()]
        told += [f"row {row}" for rows in self.rows().values() for row in rows]
        told += [f"said {sentence}" for sentence in self.session.said]
        kept = os.environ.get("LADING_EVIDENCE")
        if kept:
            place = Path(tempfile.mkdtemp(prefix="lost-", dir=kept))
            shutil.copytree(self.top, place / "top", symlinks=True)
            shutil.copytree(self.objects, place / "bucket")
            (place / "told.txt").write_text("\n".join(told))
        return "\n".join(told)


def explore(examples: int, *, always_the_same: bool = False) -> None:
    """Run scenarios and see that enough of them deleted something, and enough refused to."""
    SEEN.clear()
    run_state_machine_as_test(
        Deletion,
        settings=settings(
            max_examples=examples,
            stateful_step_count=10,
            deadline=None,
            derandomize=always_the_same,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    print(dict(SEEN))
    assert SEEN["deletions"] >= examples // 4
    assert SEEN["refused"] >= examples // 10
    if examples >= 15:  # by chance they do not all come in fewer
        assert any(SEEN[f"changed before {name}"] for name in MOMENTS)


def test_few_scenarios() -> None:
    explore(4, always_the_same=True)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_many_scenarios(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CHOSEN", FAMILIES[family])
    explore(SCENARIOS // len(FAMILIES))
