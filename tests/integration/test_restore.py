"""``restore`` brings back what was shipped, proven, and nothing outside its directory."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lading.core.identity import start_ticks, this_host
from lading.restore.restorer import Restorer, Tree
from lading.verification.manifest import ManifestHeader, ManifestRow, read_manifest, write_manifest
from tests import labtree
from tests.conftest import REPOSITORY
from tests.servers import faults

WHEN = "2026-01-01T00:00:00Z"


def restore(directory: Path, to: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lading", "restore", "--to", str(to), *more]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)


def tree(root: Path) -> dict[bytes, tuple[bytes, int]]:
    return {
        relative: (Path(os.fsdecode(path)).read_bytes(), os.stat(path).st_mtime_ns)
        for relative, path in labtree.walk(root)
    }


class Shipped:
    """A release in a bucket, with its manifest: by the product's own stages, or (quicker) put there by hand."""

    def __init__(self, server, bucket: str, directory: Path, count: int = 60, *, by_hand: bool = True) -> None:
        self.server, self.bucket = server, bucket
        self.root, self.directory, self.to = directory / "data", directory / "run", directory / "back"
        labtree.make_tree(self.root, count, odd=not by_hand)
        for number, (_, path) in enumerate(sorted(labtree.walk(self.root))):
            os.utime(path, ns=(number, 1_600_000_000_123_456_789 + number))
        server.make_bucket(bucket)
        if by_hand:
            self.put_by_hand()
            return
        labtree.make_plan(self.root, self.directory)
        sent = labtree.upload(self.root, self.directory, server, bucket)
        assert sent.returncode == 0, sent.stderr
        audit = labtree.verify(self.root, self.directory, server, bucket)
        assert audit.returncode == 0, audit.stderr

    def put_by_hand(self) -> None:
        self.directory.mkdir()
        s3 = labtree.client(self.server)
        rows = []
        for relative, path in labtree.walk(self.root):
            content = Path(os.fsdecode(path)).read_bytes()
            key, name = labtree.key_of(relative), os.fsdecode(relative)
            etag = s3.put_object(Bucket=self.bucket, Key=key, Body=content)["ETag"].strip('"')
            sha256, mtime = hashlib.sha256(content).hexdigest(), os.stat(path).st_mtime_ns
            rows.append(
                ManifestRow(
                    name, key, len(content), mtime, etag, sha256, etag, None, "etag", "b", "2026-01-01T00:00:00Z"
                )
            )
        header = ManifestHeader(self.bucket, "", self.server.endpoint, str(self.root), "0" * 64, WHEN, {})
        rows.sort(key=lambda row: row.key.encode())
        write_manifest(self.directory / "manifest.jsonl.zst", header, rows, complete=True)

    def rewrite(self, change) -> None:
        """Write the manifest anew with each row changed."""
        path = self.directory / "manifest.jsonl.zst"
        manifest = read_manifest(path)
        rows = sorted((change(row) for row in manifest.rows()), key=lambda row: row.key.encode())
        write_manifest(path, manifest.header, rows, complete=True)


@pytest.fixture
def shipped(s3, bucket: str, tmp_path: Path) -> Shipped:
    return Shipped(s3, bucket, tmp_path)


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_identical_tree_with_hostile_names(gateway, bucket: str, tmp_path: Path) -> None:
    shipped = Shipped(gateway, bucket, tmp_path, count=300, by_hand=False)
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 0, result.stderr
    assert tree(shipped.to) == tree(shipped.root)


def test_a_directory_of_it_and_again(shipped: Shipped) -> None:
    first = restore(shipped.directory, shipped.to, "--prefix", "d03", "--json")
    assert first.returncode == 0, first.stderr
    wanted = {path: value for path, value in tree(shipped.root).items() if path.startswith(b"d03/")}
    assert wanted
    assert tree(shipped.to) == wanted
    assert json.loads(first.stdout)["restored"] == len(wanted)
    again = json.loads(restore(shipped.directory, shipped.to, "--prefix", "d03/", "--json").stdout)
    assert (again["restored"], again["present"]) == (0, len(wanted))
    everything = restore(shipped.directory, shipped.to)
    assert everything.returncode == 0
    assert tree(shipped.to) == tree(shipped.root)


def test_unknown_prefix_is_said(shipped: Shipped) -> None:
    result = restore(shipped.directory, shipped.to, "--prefix", "d0")
    assert result.returncode == 2
    assert "nothing below" in result.stderr


def test_a_file_of_other_content_stays(shipped: Shipped) -> None:
    victim = next(path for path, (content, _) in tree(shipped.root).items() if content)
    there = shipped.to / os.fsdecode(victim)
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 3
    assert "other content" in result.stderr
    assert there.read_bytes() == b"mine"
    assert restore(shipped.directory, shipped.to, "--overwrite").returncode == 0
    assert tree(shipped.to) == tree(shipped.root)


def test_changed_object_is_not_restored(shipped: Shipped) -> None:
    key = next(row.key for row in read_manifest(shipped.directory / "manifest.jsonl.zst").rows() if row.size)
    s3 = labtree.client(shipped.server)
    size = s3.head_object(Bucket=shipped.bucket, Key=key)["ContentLength"]
    s3.put_object(Bucket=shipped.bucket, Key=key, Body=b"\0" * size)
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 3
    assert key in result.stderr
    assert key.encode() not in tree(shipped.to)
    assert len(tree(shipped.to)) == len(tree(shipped.root)) - 1


def test_a_manifest_cut_short_is_refused(shipped: Shipped) -> None:
    path = shipped.directory / "manifest.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-20])
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 4
    assert "make verify" in result.stderr
    assert tree(shipped.to) == {}


def undigested(row: ManifestRow, **more: str | None) -> ManifestRow:
    """A row as of a listing: the size, and an ETag that need not be an MD5."""
    return replace(row, **{"md5": None, "sha256": None, "etag": "e" * 32, "checksum": "size", **more})


def test_a_file_of_a_row_without_a_digest_is_compared_with_the_object(shipped: Shipped) -> None:
    shipped.rewrite(undigested)
    done = restore(shipped.directory, shipped.to)
    assert done.returncode == 3, done.stderr
    assert "not verified: 60 files have the bytes of the bucket's objects" in done.stderr
    assert "verified" not in done.stdout
    assert tree(shipped.to) == tree(shipped.root)
    victim = next(Path(os.fsdecode(path)) for _, path in sorted(labtree.walk(shipped.to)) if os.path.getsize(path) > 9)
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    bad = victim.read_bytes()
    done = restore(shipped.directory, shipped.to, "--json")
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["restored"], summary["present"], summary["unproven"]) == (3, 0, 59, 59)
    assert "a file of other content is there" in done.stderr
    assert victim.read_bytes() == bad, "an equal size is no reason to take it, and not to replace it"
    done = restore(shipped.directory, shipped.to, "--overwrite")
    assert done.returncode == 3
    assert victim.read_bytes() == good


def test_what_else_a_row_records_speaks_for_a_file(s3, bucket: str, tmp_path: Path) -> None:
    """The server's checksum, an MD5 or an MD5 of parts as the ETag: each proves a file, there or fetched."""
    content = os.urandom(11 << 20)
    s3.make_bucket(bucket)
    kinds = {"plain": hashlib.md5(content).hexdigest()}
    parts = [hashlib.md5(content[start : start + (5 << 20)]).digest() for start in range(0, len(content), 5 << 20)]
    kinds["parts"] = hashlib.md5(b"".join(parts)).hexdigest() + "-3"
    crc = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    sha, other = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (content, b"other"))
    texts = {
        "crc32": f"crc32:{crc}",
        "sha256": f"sha256:{sha}",
        "nonsense": "sha256:x",
        "wrong": f"sha256:{other}",
    }
    rows = []
    for name in (*kinds, *texts):
        labtree.client(s3).put_object(Bucket=bucket, Key=name, Body=content)
        row = ManifestRow(name, name, len(content), 7, None, None, kinds.get(name, "e"), None, "size", "b", WHEN)
        rows.append(replace(row, server_checksum=texts.get(name)))
    header = ManifestHeader(bucket, "", s3.endpoint, "/data", "0" * 64, WHEN, {})
    write_manifest(tmp_path / "manifest.jsonl.zst", header, sorted(rows, key=lambda row: row.key), complete=True)
    for _ in range(2):
        done = restore(tmp_path, tmp_path / "back")
        assert done.returncode == 3
        assert "not verified: 1 file has" in done.stderr
        assert done.stderr.rstrip().endswith("digests: nonsense")
        assert "wrong: the bucket's object 'wrong' does not have the recorded bytes" in done.stderr
        assert sorted(os.listdir(tmp_path / "back")) == sorted({*kinds, *texts} - {"wrong"})


@pytest.mark.parametrize("path", ["../escape", "/etc/escape", "a/../../escape", "a//b", "./x"])
def test_nothing_outside(shipped: Shipped, path: str) -> None:
    """A forged manifest cannot lead out of the directory."""
    shipped.rewrite(lambda row: replace(row, path=path) if row.path.endswith("000001.bin") else row)
    before = set(shipped.to.parent.iterdir())
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 3
    assert "component" in result.stderr
    assert set(shipped.to.parent.iterdir()) - before <= {shipped.to}


def test_links_in_the_way_are_not_followed(shipped: Shipped, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shipped.to.mkdir()
    (shipped.to / "d03").symlink_to(outside)
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 3
    assert list(outside.iterdir()) == []


def test_answers_cut_short_are_continued(shipped: Shipped) -> None:
    """Each object's answer broken once: the rest is asked for, the digest decides."""
    hit: set[str] = set()

    def pick(request: faults.Request):
        if request.method == "GET" and request.key and request.key not in hit:
            hit.add(request.key)
            return faults.Truncate()
        return None

    with faults.serve(shipped.server, pick) as proxy:
        result = restore(shipped.directory, shipped.to, "--prefix", "d05", "--endpoint-url", proxy.endpoint)
    assert result.returncode == 0, result.stderr
    assert hit
    assert tree(shipped.to) == {p: v for p, v in tree(shipped.root).items() if p.startswith(b"d05/")}


@pytest.mark.long
def test_killed_and_run_again(shipped: Shipped) -> None:
    with faults.serve(shipped.server, lambda r: faults.Stall(0.3) if r.key else None) as proxy:
        command = [sys.executable, "-m", "lading", "restore", "--to", str(shipped.to), "--max-workers", "2"]
        command += ["--endpoint-url", proxy.endpoint]
        for _ in range(3):
            process = subprocess.Popen(command, cwd=shipped.directory, stderr=subprocess.DEVNULL)
            before = len(proxy.requests)
            while len(proxy.requests) < before + 6 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            for path, value in tree(shipped.to).items():
                if not os.path.basename(path).startswith(b".lading-restore-"):
                    assert value == tree(shipped.root)[path]
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 0, result.stderr
    assert tree(shipped.to) == tree(shipped.root)


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_the_recorded_version_comes_back(gateway, bucket: str, tmp_path: Path) -> None:
    """With version ids in the manifest, later writes to the bucket change nothing."""
    gateway.make_bucket(bucket, versioned=True)
    s3 = labtree.client(gateway)
    first = s3.put_object(Bucket=bucket, Key="a", Body=b"first")
    s3.put_object(Bucket=bucket, Key="a", Body=b"later")
    header = ManifestHeader(bucket, "", gateway.endpoint, "/data", "0" * 64, "2026-01-01T00:00:00Z", {})
    digest = "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"  # of b"first"
    row = ManifestRow(
        "a", "a", 5, 7, None, digest, first["ETag"], first["VersionId"], "etag", "b", "2026-01-01T00:00:00Z"
    )
    write_manifest(tmp_path / "manifest.jsonl.zst", header, [row], complete=True)
    assert restore(tmp_path, tmp_path / "to").returncode == 0
    assert (tmp_path / "to" / "a").read_bytes() == b"first"
    assert (tmp_path / "to" / "a").stat().st_mtime_ns == 7


class Halves:
    """Stands for a bucket's reader: half of the bytes, then it waits to be let on."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.waits, self.on = threading.Event(), threading.Event()

    def blocks(self, key: str, size: int, version_id: str | None = None) -> Iterator[bytes]:
        yield self.content[: size // 2]
        self.waits.set()
        assert self.on.wait(30)
        yield self.content[size // 2 :]


def test_two_runs_into_one_directory_never_show_half_a_file(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    row = ManifestRow(
        "a", "a", len(content), 7, None, hashlib.sha256(content).hexdigest(), "e", None, "etag", "b", WHEN
    )
    first, second = Halves(content), Halves(content)
    there = Tree(tmp_path / "to")
    with ThreadPoolExecutor(2) as pool:
        runs = []
        for reader in (first, second):
            runs.append(pool.submit(Restorer(reader, there, False).restore, row))  # type: ignore[arg-type]
            assert reader.waits.wait(30)
        first.on.set()
        try:
            assert runs[0].result(30)
            assert (tmp_path / "to" / "a").read_bytes() == content
        finally:
            second.on.set()
        assert runs[1].result(30)
    there.close()
    assert os.listdir(tmp_path / "to") == ["a"]
    assert (tmp_path / "to" / "a").read_bytes() == content


def test_only_what_dead_runs_left_is_swept(shipped: Shipped) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    host = hashlib.blake2b(this_host().encode(), digest_size=4).hexdigest()
    other = "00000000" if host != "00000000" else "00000001"
    name = f".lading-restore-{'a' * 24}"
    dead = [f"{name}-{host}-{gone.pid}-1-{'0' * 16}", f"{name}-{other}-1-1-{'0' * 16}", name]
    alive = [
        f"{name}-{host}-{os.getpid()}-{start_ticks(os.getpid())}-{'0' * 16}",
        f"{name}-{other}-1-1-{'1' * 16}",  # of another host, written to a moment ago
        f"{name}.bin",
    ]
    folder = shipped.to / "d03" / "e3"
    folder.mkdir(parents=True)
    for made in dead + alive:
        (folder / made).write_bytes(b"half")
    for old in dead[1:]:
        os.utime(folder / old, (time.time() - 2 * 86_400,) * 2)
    result = restore(shipped.directory, shipped.to)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in folder.glob(".lading-restore-*")} == set(alive)


class Trickle(BaseHTTPRequestHandler):
    """A bucket with one object of a terabyte, on a slow line."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        with suppress(OSError):  # the client leaves
            while True:
                self.wfile.write(bytes(1 << 18))
                time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_interrupted_it_ends_within_a_block(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    header = ManifestHeader("bucket", "", f"http://127.0.0.1:{server.server_port}", "/data", "0" * 64, WHEN, {})
    row = ManifestRow("a", "a", 1 << 40, 7, None, "0" * 64, "e", None, "etag", "b", WHEN)
    write_manifest(tmp_path / "manifest.jsonl.zst", header, [row], complete=True)
    command = [sys.executable, "-m", "lading", "restore", "--to", "to"]
    keys = {"AWS_ACCESS_KEY_ID": "trickle", "AWS_SECRET_ACCESS_KEY": "trickle"}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | keys)
    try:
        end = time.monotonic() + 60
        while not any(path.stat().st_size for path in (tmp_path / "to").glob(".*")) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        server.shutdown()
        server.server_close()
    assert process.returncode == 130
    assert said == "interrupted; run the same command again to continue\n"
    assert list((tmp_path / "to").iterdir()) == []


def test_make_restore_says_what_is_missing(tmp_path: Path) -> None:
    command = ["make", "-s", "-C", str(tmp_path), "-f", str(REPOSITORY / "makefile"), "restore"]
    command += [f"venv={sys.prefix}", "-o", f"{sys.prefix}/.ready", "-o", f"{sys.prefix}/.ready-tests"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "say where to" in result.stderr
    result = subprocess.run([*command, f"to={tmp_path / 'to'}"], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "manifest.jsonl.zst is missing" in result.stderr
