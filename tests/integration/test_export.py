"""What a manifest says in other tools' forms: each is read by the tool itself, without source, plan or account."""

import contextlib
import csv
import errno
import functools
import gzip
import hashlib
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bagit
import pooch
import pytest

from lading.cli.export import main as export_main
from lading.core.command_line import run_main
from lading.export import parquet
from lading.export.addresses import Addresses
from lading.export.check_download import give_name
from lading.export.writers import sum_line
from lading.testing.s3_server import Server
from lading.verification.manifest import ManifestHeader, ManifestRow, read_manifest, write_manifest
from tests.conftest import need
from tests.shipping import REPOSITORY, Site, make_site, write_files

NAMES = {
    b"a.bin": 3_000, b"sub/b c.bin": 10, b"sub/deep/empty": 0, b"sub/back\\slash": 7, "sub/ü%20.txt".encode(): 5,
    b"sub/percent%0A": 4, b"#hash": 6, b"new\nline": 8,
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    """A verified release."""
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, NAMES)
    site.plan()
    assert site.upload().returncode == 0
    done = site.verify()
    assert done.returncode == 0, done.stderr
    return site


def export(site: Site, form: str, *more: str) -> "subprocess.CompletedProcess[str]":
    """Export with nothing but the manifest at hand."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return site.command("-m", "lading", "export", form, "-o", f"out.{form}", *more, env=bare)


@contextlib.contextmanager
def public(site: Site) -> Iterator[str]:
    """Serve the bucket's objects by plain GET alone: nobody can list, and nobody needs an account."""
    top = site.directory / "served"
    for item in site.client().list_objects_v2(Bucket=site.bucket)["Contents"]:
        place = top / item["Key"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(site.client().get_object(Bucket=site.bucket, Key=item["Key"])["Body"].read())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(top))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_sha256sum_takes_the_sums(site: Site) -> None:
    shutil.rmtree(site.directory / "journal")
    (site.directory / "batch.json").unlink()
    done = export(site, "sha256sums")
    assert done.returncode == 0, done.stderr
    check = ["sha256sum", "-c", "--strict", "--quiet", str(site.directory / "out.sha256sums")]
    assert subprocess.run(check, cwd=site.release, check=False).returncode == 0
    (site.release / "a.bin").write_bytes(b"other")
    assert subprocess.run(check, cwd=site.release, check=False, capture_output=True).returncode == 1


def test_sums_of_each_directory_are_read_in_it(site: Site) -> None:
    done = export(site, "directory-sums")
    assert done.returncode == 0, done.stderr
    sums = list((site.directory / "out.directory-sums").rglob("SHA256SUMS"))
    assert len(sums) == 3
    lines = 0
    for path in sums:
        place = site.release / path.parent.relative_to(site.directory / "out.directory-sums")
        lines += path.read_bytes().count(b"\n")
        assert (
            subprocess.run(["sha256sum", "-c", "--strict", "--quiet", str(path)], cwd=place, check=False).returncode
            == 0
        )
    assert lines == len(NAMES)


@pytest.mark.long
def test_bagit_takes_the_bag_once_it_is_fetched(site: Site) -> None:
    with public(site) as base:
        (site.release / "sub" / "percent%0A").unlink()
        done = export(site, "bagit", "--url", base)
        assert done.returncode == 3, done.stderr
        assert "1 object was left out" in done.stderr
        assert "sub/percent%0A" in done.stderr
        top = site.directory / "out.bagit"
        bag = bagit.Bag(str(top))
        assert len(list(bag.fetch_entries())) == len(NAMES) - 1
        for line in (top / "fetch.txt").read_text().splitlines():
            url, size, name = line.split(" ", 2)
            assert name.startswith("data/")
            held = site.directory / "served" / _unquote(url.removeprefix(base + "/"))
            assert held.stat().st_size == int(size)
        shutil.copytree(site.release, top / "data", dirs_exist_ok=True)
    assert bagit.Bag(str(top)).is_valid()
    (top / "data" / "a.bin").write_bytes(b"x" * 3_000)
    assert not bagit.Bag(str(top)).is_valid()


def _unquote(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


@pytest.mark.long
def test_pooch_fetches_by_the_registry_and_odd_names_are_named(site: Site) -> None:
    with public(site) as base:
        done = export(site, "pooch", "--url", base)
        assert done.returncode == 3, done.stderr
        assert "3 objects were left out: pooch cannot read names with spaces or control characters" in done.stderr
        assert "new\\nline" in done.stderr
        fetcher = pooch.create(site.directory / "cache", base + "/dr1/")
        fetcher.load_registry(site.directory / "out.pooch")
        assert len(fetcher.registry_files) == len(NAMES) - 3
        for name in fetcher.registry_files:
            fetcher.fetch(name)


def test_csv_holds_every_row(site: Site) -> None:
    done = export(site, "csv")
    assert done.returncode == 0, done.stderr
    with (site.directory / "out.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    manifest = read_manifest(site.directory / "manifest.jsonl.zst")
    for row in manifest.rows():
        assert (rows[row.path]["key"], int(rows[row.path]["size"]), rows[row.path]["sha256"]) == (
            row.key, row.size, row.sha256,
        )  # fmt: skip
    assert len(rows) == len(NAMES)


OLD = sorted(str(path) for path in Path.home().glob(".pyenv/versions/3.[678]*/bin/python3"))
PYTHONS = [sys.executable, *OLD[:1]]  # this one, and the oldest that is here


@pytest.mark.parametrize("python", PYTHONS, ids=[Path(p).parts[-3] for p in PYTHONS])
def test_anybody_checks_and_fetches(site: Site, tmp_path: Path, python: str) -> None:
    """By ``check.py`` alone: no Lading, no account, no listing; an old Python is enough."""
    with public(site) as base:
        assert export(site, "check", "--url", base).returncode == 0
        there = site.directory / "out.check"
        shutil.copytree(there, site.directory / "served" / "_lading")

        def check(*words: str) -> "subprocess.CompletedProcess[str]":
            command = [python, "-I", str(there / "check.py"), f"{base}/_lading", *words]
            env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
            return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)

        assert check(str(site.release)).stdout == f"{len(NAMES)} files right, 0 missing or different\n"
        home = tmp_path / "home"
        done = check(str(home), "sub")
        assert (done.returncode, "5 missing" in done.stdout) == (1, True), done
        done = check(str(home), "--fetch", "sub")
        assert (done.returncode, done.stdout) == (0, "5 files right, 0 missing or different\n"), done
        assert check(str(home), "--fetch").returncode == 0
        (home / "a.bin").write_bytes(b"y" * 3_000)
        done = check(str(home), "--fetch")
        assert (done.returncode, "a.bin has other bytes (sha256)" in done.stdout) == (1, True)
        assert (home / "a.bin").read_bytes() == b"y" * 3_000, "what is there is never replaced"
        assert check(str(home), "nowhere").returncode == 2
        (site.directory / "served" / "dr1" / "#hash").write_bytes(b"wrong!")
        (home / "#hash").unlink()
        done = check(str(home), "--fetch", "#hash")
        assert (done.returncode, "other bytes from the server" in done.stdout) == (1, True)
        assert not (home / "#hash").exists()
        packed = site.directory / "served" / "_lading" / "files.jsonl.gz"
        packed.write_bytes(packed.read_bytes()[:-1] + b"!")
        done = check(str(home))
        assert (done.returncode, "damaged" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


@contextlib.contextmanager
def answering(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            answer(self)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def check_set(top: Path, records: list[Any], base: str) -> Path:
    """Write what ``check.py`` reads."""
    top.mkdir()
    packed = gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    (top / "files.jsonl.gz").write_bytes(packed)
    index = {"format": 1, "base": base, "objects": len(records), "files_sha256": hashlib.sha256(packed).hexdigest()}
    (top / "index.json").write_text(json.dumps(index))
    return top


def run_check(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", REPOSITORY / "lading/export/check_download.py", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_check_says_a_sentence_whatever_the_server_answers(tmp_path: Path) -> None:
    """Bodies that break off, what is not http, circles; nothing of them gets a name."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        kind = handler.path.split("/")[1]
        if kind == "junk":
            handler.wfile.write(b"HTTP/1.1 what\r\n\r\n")
            return
        handler.send_response(302 if kind == "circle" else 200)
        if kind == "circle":
            handler.send_header("Location", handler.path)
        if kind == "chunked":
            handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        if kind == "chunked":
            handler.wfile.write(b"9\r\nabc")
        elif kind == "short":
            handler.wfile.write(b"abc")

    record = {"path": "f", "key": "f", "size": 9, "sha256": "0" * 64, "md5": None}
    with answering(answer) as base:
        for kind, said in (
            ("junk", "was not fetched"),
            ("chunked", "was not fetched"),
            ("circle", "was not fetched"),
            ("short", "broke off after 3 of 9 bytes"),
        ):
            top = check_set(tmp_path / kind, [record], f"{base}/{kind}")
            done = run_check(top, tmp_path / "home", "--fetch")
            assert (done.returncode, said in done.stdout) == (1, True), done.stdout
            done = run_check(f"{base}/{kind}", tmp_path / "home")
            assert (done.returncode, len(done.stderr) < 500) == (2, True), done.stderr
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("record", [7, {}, {"path": 7, "key": "f", "size": 1, "md5": "0"}, {"path": "f", "key": "f"}])
def test_check_refuses_a_list_that_is_none(tmp_path: Path, record: Any) -> None:
    done = run_check(check_set(tmp_path / "set", [record], "http://127.0.0.1:1"), tmp_path)
    assert (done.returncode, "does not hold what index.json says" in done.stderr) == (2, True), done.stderr


def test_check_hangs_at_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    record = {"path": "f", "key": "f", "size": 9, "sha256": "0" * 64, "md5": None}
    done = run_check(check_set(tmp_path / "set", [record], "http://127.0.0.1:1"), tmp_path)
    assert (done.returncode, "is not a regular file" in done.stdout) == (1, True)


def test_check_names_files_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on exFAT; and a name that was taken meanwhile stays."""
    monkeypatch.setattr(os, "link", raises(OSError(errno.EPERM, "no links")))
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    give_name(os.fsencode(tmp_path / "one"), os.fsencode(tmp_path / "new"))
    with pytest.raises(FileExistsError):
        give_name(os.fsencode(tmp_path / "two"), os.fsencode(tmp_path / "new"))
    assert (tmp_path / "new").read_text() == "one"


def raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.long
def test_an_old_python_proves_a_hundred_random_files(tmp_path: Path, s3: Server, bucket: str) -> None:
    """Names and sizes by chance; each file that is then changed by one bit is named, and no other."""
    need(None if OLD else "no Python 3.6 to 3.8 is here")
    draw = random.Random(2026)
    letters = "abcXYZ 0189-_.()~#%+ü日\n\\"
    names: dict[bytes, int] = {}
    while len(names) < 100:
        parts = ["".join(draw.choices(letters, k=draw.randrange(1, 12))) for _ in range(draw.randrange(1, 4))]
        if not any(part.strip(".") == "" or part in ("d", "e") for part in parts):
            names["/".join([draw.choice("de"), *parts, f"f{len(names)}"]).encode()] = draw.choice((0, 1, 999, 70_000))
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, names)
    site.plan("--min-batch-size", "1M", "--max-batch-size", "100M")
    assert site.upload().returncode == 0
    assert site.verify().returncode == 0
    with public(site) as base:
        assert export(site, "check", "--url", base).returncode == 0
        shutil.copytree(site.directory / "out.check", site.directory / "served" / "_lading")

        def check(*words: str) -> "subprocess.CompletedProcess[str]":
            program = str(site.directory / "out.check" / "check.py")
            env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
            command = [OLD[0], "-I", program, f"{base}/_lading", *words]
            return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=120)

        for words in ([str(site.release)], [str(tmp_path / "home"), "--fetch"]):
            done = check(*words)
            assert (done.returncode, done.stdout) == (0, "100 files right, 0 missing or different\n"), done
        spoiled = draw.sample(sorted(name for name, size in names.items() if size), 5)
        for name in spoiled:
            path = tmp_path / "home" / os.fsdecode(name)
            body = bytearray(path.read_bytes())
            body[draw.randrange(len(body))] ^= 1
            path.write_bytes(body)
        done = check(str(tmp_path / "home"))
        assert done.returncode == 1
        assert done.stdout.endswith("95 files right, 5 missing or different\n")


def test_no_form_replaces_a_directory_or_takes_a_damaged_manifest(site: Site) -> None:
    assert export(site, "check").returncode == 0
    done = export(site, "check")
    assert (done.returncode, done.stderr.startswith("error: out.check already exists")) == (2, True), done.stderr
    assert [path.name for path in site.directory.iterdir() if path.name.startswith(".out")] == []
    path = site.directory / "manifest.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-9])
    done = export(site, "csv")
    assert (done.returncode, (site.directory / "out.csv").exists()) == (4, False), done.stderr


@pytest.mark.parametrize(
    ("bucket", "endpoint", "base", "url"),
    [
        ("b", None, None, "https://b.s3.amazonaws.com/a%20b/%25"),
        ("b.c", None, None, "https://s3.amazonaws.com/b.c/a%20b/%25"),
        ("b", "http://h:1/", None, "http://h:1/b/a%20b/%25"),
        ("b", "http://h:1", "https://data.example.org/x/", "https://data.example.org/x/a%20b/%25"),
    ],
)
def test_addresses(bucket: str, endpoint: str | None, base: str | None, url: str) -> None:
    header = ManifestHeader(bucket, "", endpoint, "/r", "0", "2026-01-01T00:00:00Z", {})
    assert Addresses.of(header, base).url("a b/%") == url


@pytest.mark.long
def test_published_data_are_checked_by_anybody(site: Site, tmp_path: Path, make: Any) -> None:
    """The set lies below ``_lading`` of the release, and no audit takes it for extra."""
    done = make("publish", cwd=site.directory, endpoint=site.endpoint)
    assert done.returncode == 0, done.stderr
    keys = {key for key in site.listing() if key.startswith("_lading/")}
    assert keys == {f"_lading/{name}" for name in (*BESIDE, "manifest.jsonl.zst")}
    assert site.verify().stdout.count("are not part of this plan") == 0
    done = site.command("-m", "lading", "verify", "--manifest", f"s3://{site.bucket}/_lading/manifest.jsonl.zst",
                        "--endpoint-url", site.endpoint)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with public(site) as base:
        again = site.command("-m", "lading", "publish", "--url", base, "--endpoint-url", site.endpoint)
        assert f"check.py {base}/_lading" not in again.stderr
        (site.directory / "served" / "_lading" / "index.json").write_bytes(
            site.client().get_object(Bucket=site.bucket, Key="_lading/index.json")["Body"].read()
        )
        there = site.directory / "served" / "_lading"
        words = [sys.executable, "-I", str(there / "check.py"), f"{base}/_lading", str(tmp_path / "home"), "--fetch"]
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"{len(NAMES)} files right, 0 missing or different\n"), done
        sums = ["sha256sum", "-c", "--strict", "--quiet", str(there / "SHA256SUMS")]
        assert subprocess.run(sums, cwd=tmp_path / "home", check=False).returncode == 0


BESIDE = ("SHA256SUMS", "check.py", "files.jsonl.gz", "index.json")


def test_nothing_of_the_release_is_replaced_by_what_is_published(site: Site) -> None:
    path = site.directory / "manifest.jsonl.zst"
    manifest = read_manifest(path)
    rows = [replace(row, key="_lading/check.py") if row.path == "a.bin" else row for row in manifest.rows()]
    write_manifest(path, manifest.header, sorted(rows, key=lambda row: row.key.encode()), complete=True)
    done = site.command("-m", "lading", "publish", "--endpoint-url", site.endpoint)
    assert (done.returncode, "has an object _lading/check.py of its own" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("form", ["directory-sums", "zarr-manifest"])
def test_a_path_that_leads_out_is_refused(site: Site, form: str) -> None:
    path = site.directory / "manifest.jsonl.zst"
    manifest = read_manifest(path)
    rows = [replace(row, path="../../out.zarr/x") for row in list(manifest.rows())[:1]]
    write_manifest(path, manifest.header, rows, complete=True)
    before = sorted(site.directory.parent.rglob("*"))
    done = export(site, form)
    assert (done.returncode, "leads out of the release" in done.stderr) == (4, True), done.stderr
    assert sorted(site.directory.parent.rglob("*")) == before


def test_bags_leave_out_names_that_their_readers_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bagit.py takes lines apart at more than newlines, and strips them."""
    monkeypatch.chdir(tmp_path)
    names = ["a", "end ", "line\u2028sep", "next\x85", "tab\t", "new\nline", " begin", "in side"]
    header = ManifestHeader("b", "dr1/", None, "/r", "0" * 64, "2026-01-01T00:00:00Z", {})
    digest = hashlib.sha256(b"x").hexdigest()
    rows = [
        ManifestRow(name, f"dr1/{name}", 1, 7, None, digest, "0", None, "etag", "b", "2026-01-01T00:00:00Z")
        for name in sorted(names, key=lambda name: name.encode())
    ]
    write_manifest(tmp_path / "manifest.jsonl.zst", header, rows, complete=True)
    assert run_main(export_main, ["bagit", "-o", "bag"]) == 3
    kept = ["a", "new\nline", " begin", "in side"]
    for name in kept:
        (tmp_path / "bag" / "data" / name).write_text("x")
    bagit.Bag(str(tmp_path / "bag")).validate()
    assert len((tmp_path / "bag" / "fetch.txt").read_bytes().splitlines()) == len(kept)


def test_a_file_that_is_called_as_standard_input_is(tmp_path: Path) -> None:
    (tmp_path / "sums").write_bytes(sum_line(hashlib.sha256(b"x").hexdigest(), "-"))
    (tmp_path / "-").write_text("x")
    subprocess.run(["sha256sum", "-c", "sums"], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)


def small_release(tmp_path: Path) -> Path:
    """A manifest with Zarr stores, names of other alphabets and bytes, and rows without a digest."""
    rows = []
    for name in [
        *(f"s.zarr/{n}/{m}" for n in range(3) for m in range(20)),
        "s.zarr/.zgroup",
        "naïve é",
        "x\udcff",
        "plain",
    ]:
        body = name.encode("utf-8", "surrogateescape")
        md5, sha256 = hashlib.md5(body).hexdigest(), hashlib.sha256(body).hexdigest()
        key = "dr1/" + name.replace("\udcff", "%FF")
        rows.append(
            ManifestRow(
                name, key, len(body), 7, md5, None if name == "plain" else sha256, md5, None, "etag", "b",
                "2026-01-01T00:00:00Z",
            )
        )  # fmt: skip
    rows.sort(key=lambda row: row.key.encode())
    header = ManifestHeader("b", "dr1/", None, "/r", "0" * 64, "2026-01-01T00:00:00Z", {})
    write_manifest(tmp_path / "manifest.jsonl.zst", header, rows, complete=True)
    return tmp_path


def write_form(place: Path, form: str, name: str) -> Path:
    words = [form, "--manifest", str(place / "manifest.jsonl.zst"), "-o", str(place / name)]
    assert run_main(export_main, [*words, "--name", "DR1", "--license", "https://spdx.org/licenses/CC0-1.0"]) == 0
    return place / name


@pytest.mark.long
def test_pyarrow_reads_the_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet

    place = small_release(tmp_path)
    table = pyarrow.parquet.read_table(write_form(place, "parquet", "m.parquet")).to_pylist()
    rows = list(read_manifest(place / "manifest.jsonl.zst").rows())
    assert [row["key"] for row in table] == [row.key for row in rows]
    for name in ("size", "mtime_ns", "md5", "sha256", "etag", "version_id", "uploaded_at"):
        assert [row[name] for row in table] == [getattr(row, name) for row in rows]
    assert {row["path"] for row in table} >= {"naïve é", "x\\xff"}


def test_parquet_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ends and its sum of rows, also without a reader at hand."""
    place = small_release(tmp_path)
    monkeypatch.setattr(parquet, "GROUP", 10)
    data = write_form(place, "parquet", "m.parquet").read_bytes()
    assert (data[:4], data[-4:]) == (b"PAR1", b"PAR1")
    length = int.from_bytes(data[-8:-4], "little")
    assert data[-8 - length :].count(b"sha256") >= 7, "a chunk of the column in each group"


@pytest.mark.long
def test_rocrate_reads_the_crate(tmp_path: Path) -> None:
    from rocrate.rocrate import ROCrate

    place = small_release(tmp_path)
    write_form(place, "ro-crate", "ro-crate-metadata.json")
    crate = ROCrate(str(place))
    rows = list(read_manifest(place / "manifest.jsonl.zst").rows())
    assert (crate.name, len(crate.data_entities)) == ("DR1", len(rows))
    found = {entity.id: entity for entity in crate.data_entities}
    for row in rows:
        entity = found[Addresses.of(ManifestHeader("b", "dr1/", None, "", "", "", {})).url(row.key)]
        assert (entity["contentSize"], entity.get("sha256")) == (str(row.size), row.sha256)


@pytest.mark.long
def test_mlcroissant_reads_the_description(tmp_path: Path) -> None:
    import mlcroissant

    place = small_release(tmp_path)
    data = mlcroissant.Dataset(jsonld=str(write_form(place, "croissant", "croissant.json")))
    rows = list(read_manifest(place / "manifest.jsonl.zst").rows())
    assert not data.metadata.issues.errors
    assert len(data.metadata.distribution) == len(rows)
    assert {item.sha256 or item.md5 for item in data.metadata.distribution} == {row.sha256 or row.md5 for row in rows}


def test_the_zarr_manifest_is_that_of_dandi(tmp_path: Path) -> None:
    """Its checksum by zarr-checksum, from files of the same content."""
    from zarr_checksum import compute_zarr_checksum
    from zarr_checksum.generators import yield_files_local

    place = small_release(tmp_path)
    (path,) = write_form(place, "zarr-manifest", "zarrs").rglob("*.json")
    found = json.loads(path.read_text())
    store = tmp_path / "store"
    for row in read_manifest(place / "manifest.jsonl.zst").rows():
        if row.path.startswith("s.zarr/"):
            there = store / row.path.removeprefix("s.zarr/")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(row.path.encode())
    expected = str(compute_zarr_checksum(yield_files_local(store)))
    assert (path.stem, path.parent.name) == (expected, "s.zarr")
    assert found["statistics"]["zarrChecksum"] == expected
    assert (found["statistics"]["entries"], found["statistics"]["depth"]) == (61, 1)
    assert found["entries"]["1"]["7"] == [None, "2026-01-01T00:00:00+00:00", 10, hashlib.md5(b"s.zarr/1/7").hexdigest()]
