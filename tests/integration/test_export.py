"""What a manifest says in other tools' forms: each is read by the tool itself, without source, plan or account."""

import contextlib
import csv
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import bagit
import pooch
import pytest

from demo.server import Server
from lading.export.addresses import Addresses
from lading.verification.manifest import ManifestHeader, read_manifest
from tests.shipping import Site, make_site, write_files

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


def test_bagit_takes_the_bag_once_it_is_fetched(site: Site) -> None:
    with public(site) as base:
        (site.release / "sub" / "percent%0A").unlink()
        done = export(site, "bagit", "--url", base)
        assert done.returncode == 3, done.stderr
        assert "1 objects were left out" in done.stderr
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


def test_no_form_replaces_a_directory_or_takes_a_damaged_manifest(site: Site) -> None:
    assert export(site, "check").returncode == 0
    done = export(site, "check")
    assert (done.returncode, done.stderr.startswith("error: out.check is there already")) == (2, True), done.stderr
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
