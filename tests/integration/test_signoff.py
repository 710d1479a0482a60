"""``lading signoff``: planted faults are found and none invented, sums of the field's tools are checked, digests are
kept so that no later stage reads a file to hash it, and a killed run goes on.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.coordination.lock import hold
from lading.testing.planted_release import CHECKS, FLAGS, PLANTS, PlantedRelease, found_in
from lading.testing.s3_server import Server
from tests.conftest import mostly_long, need_program
from tests.shipping import Site, make_site

Run = Callable[..., "subprocess.CompletedProcess[str]"]
OWNED = ("--owner", "root", "--group", "root") if os.geteuid() == 0 else ()
REPOSITORY = Path(__file__).resolve().parents[2]


def findings(directory: Path) -> set[tuple[str, str]]:
    with (directory / "findings.jsonl").open() as stream:
        return found_in(map(json.loads, stream))


def report(directory: Path) -> Any:
    return json.loads((directory / "report.json").read_text())


def test_the_case_of_a_release_manager(run: Run, tmp_path: Path) -> None:
    """What crawl, plan and estimate pass over in silence: see shared/cases/links-signoff."""
    rel = tmp_path / "rel"
    (rel / "d").mkdir(parents=True)
    (rel / "empty.fits").touch()
    (rel / ".hidden").touch()
    (rel / "abslink").symlink_to("/etc/hostname")
    (rel / "dangling").symlink_to("nowhere")
    (rel / "dirlink").symlink_to("d")
    (rel / "d/f").write_text("b\n")
    (rel / "d/f").chmod(0o600)
    (rel / "d/d.sha256sum").write_text(hashlib.sha256(b"a\n").hexdigest() + "  f\n")
    done = run("-m", "lading", "signoff", rel, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "the release is not clean: 10 errors" in done.stderr
    assert findings(tmp_path / "signoff") == {
        ("absolute-link", "abslink"), ("outside-link", "abslink"), ("dangling-link", "dangling"),
        ("directory-link", "dirlink"), ("empty-file", "empty.fits"), ("empty-file", ".hidden"), ("hidden", ".hidden"),
        ("file-without-sum", "empty.fits"), ("file-without-sum", ".hidden"), ("private", "d/f"), ("sum-differs", "d/f"),
    }  # fmt: skip
    assert "sum-differs" in done.stdout
    assert "d/f (d/d.sha256sum, line 1)" in done.stdout
    assert report(tmp_path / "signoff")["read"] == {"files": 4, "bytes": 70}
    page = (tmp_path / "signoff/index.html").read_text()
    assert "10 errors" in page
    assert "d/d.sha256sum, line 1" in page
    switched = "all=off,sum-differs=note"
    done = run("-m", "lading", "signoff", rel, "--checks", switched, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["errors"], said["notes"], said["read"]["bytes"]) == ({}, {"sum-differs": 1}, 68)


def test_all_planted_faults_are_found_and_none_invented(run: Run, tmp_path: Path) -> None:
    """By one rank and by three, with the same bytes."""
    need_program("mpiexec")
    planted = PlantedRelease(tmp_path / "rel")
    planted.make(1000, 1)
    words = ["-m", "lading", "signoff", planted.root, *FLAGS, *OWNED, "--checks", CHECKS, "--json"]
    done = run(*words, "-o", "one", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert findings(tmp_path / "one") == planted.expected
    assert len(planted.kinds) >= 40
    assert planted.kinds >= set(PLANTS) or OWNED == ()
    said = json.loads(done.stdout)
    assert said["entries"]["files"] >= planted.files
    assert said["read"]["files"] == said["entries"]["files"]
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py", *map(str, words), "-o", "three"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 4, done.stderr
    one, three = ((tmp_path / name / "findings.jsonl").read_bytes() for name in ("one", "three"))
    assert one == three
    assert json.loads(done.stdout)["read"] == said["read"]


@pytest.mark.long
def test_sums_of_real_tools_and_sums_of_sums(run: Run, tmp_path: Path) -> None:
    rel = tmp_path / "rel"
    (rel / "sub").mkdir(parents=True)
    names = ["a.fits", "sub/b c.fits", "sub/new\nline.fits", "sub/back\\slash.fits"]
    for name in names:
        (rel / name).write_bytes(name.encode())

    def make(directory: str, to: str, *command: str, ends: str = "\n") -> None:
        text = subprocess.run(command, cwd=rel / directory, capture_output=True, check=True).stdout
        (rel / to).write_bytes(text.replace(b"\n", ends.encode()))

    make(".", "top.sha256sum", "sha256sum", *names)
    make(".", "md5sum.txt", "md5sum", "-b", *names[:2], ends="\r\n")
    make("sub", "sub/SHA256SUMS", "sha256sum", "--tag", *(name[4:] for name in names[1:]))
    make(".", "SHA256SUMS", "sha256sum", "sub/SHA256SUMS", "md5sum.txt", "top.sha256sum")
    flags = ["--checks", "control-character=off,windows-character=off,avoided-character=off", "--json"]
    done = run("-m", "lading", "signoff", rel, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sums = json.loads(done.stdout)["checksums"]
    assert (sums["files"], sums["agreeing"], sums["files_with"], sums["files_without"]) == (4, 4 + 2 + 3 + 3, 7, 0)
    (rel / "sub/b c.fits").write_bytes(b"sub/b d.fits")
    (rel / "a.fits").unlink()
    done = run("-m", "lading", "signoff", rel, *flags, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    said = json.loads(done.stdout)
    assert said["errors"] == {"sum-differs": 3, "sum-without-file": 2}
    assert {one["detail"] for one in said["named"]["sum-differs"]} == {
        "md5sum.txt, line 2", "sub/SHA256SUMS, line 1", "top.sha256sum, line 2",
    }  # fmt: skip
    assert said["read"]["files"] == 1 + 4  # what changed, and checksum files for what they say


def test_missing_sums_are_written_and_nothing_is_changed(run: Run, tmp_path: Path) -> None:
    rel = tmp_path / "rel"
    (rel / "night").mkdir(parents=True)
    (rel / "night/a.fits").write_bytes(b"a")
    (rel / "night/b\\.fits").write_bytes(b"b")
    old = hashlib.sha256(b"a").hexdigest() + "  a.fits\n"
    (rel / "night/night.sha256sum").write_text(old)
    (rel / "top.fits").write_bytes(b"top")
    os.utime(rel / "night/night.sha256sum", (1_700_000_000, 1_700_000_000))
    flags = ["--checks", "windows-character=off,avoided-character=off", "--json"]
    done = run("-m", "lading", "signoff", rel, *flags, "--write-sums", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["checksums"]["written"] == {"night/night-2.sha256sum": 1, "rel.sha256sum": 1}
    assert (rel / "night/night.sha256sum").read_text() == old
    assert (rel / "night/night.sha256sum").stat().st_mtime == 1_700_000_000
    for directory, name in (("night", "night-2.sha256sum"), ("", "rel.sha256sum")):
        subprocess.run(["sha256sum", "-c", "--strict", name], cwd=rel / directory, capture_output=True, check=True)
    done = run("-m", "lading", "signoff", rel, *flags, "--write-sums", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checksums"]["written"] == {}
    with (tmp_path / "signoff/digests.jsonl").open() as stream:
        paths = [json.loads(line)["path"] for line in list(stream)[1:]]
    assert paths == sorted(paths)
    assert len(paths) == 6


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    rel = tmp_path / "rel"
    (rel / "closed").mkdir(parents=True)
    (rel / "closed/a").write_text("a")
    (rel / "b").write_text("b")
    (rel / "b").chmod(0)
    (rel / "closed").chmod(0)
    command = [sys.executable, "-m", "lading", "signoff", str(rel), "--checks", "all=off", "--json"]
    if os.geteuid() == 0:
        need_program("setpriv")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    finally:
        (rel / "closed").chmod(0o755)
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert said["unread"] == {"unreadable": 2}
    assert [one["path"] for one in said["named"]["unreadable"]] == ["b", "closed"]


def test_two_runs_do_not_work_on_one_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rel").mkdir()
    (tmp_path / "signoff").mkdir()
    with hold(tmp_path / "signoff", "another"):
        done = run("-m", "lading", "signoff", "rel", cwd=tmp_path)
    assert done.returncode == 75, done.stderr
    done = run("-m", "lading", "signoff", "rel", "--checks", "empty-directory=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    mostly_long(
        [
            ([], "no ROOT is given"),
            (["nowhere"], "does not exist"),
            (["rel", "--owner", "nobody-of-this-name"], "there is no user"),
            (["rel", "--checks", "hiden=off"], "'hiden' is not a check"),
            (["rel", "--file-mode", "rw"], "is not a mode"),
            (["rel", "--freeze", "tomorrow"], "is not a date"),
            (["."], "contains the working directory"),
        ],
        ([], "no ROOT is given"),
    ),
)
def test_settings_that_make_no_sense(run: Run, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "rel").mkdir()
    done = run("-m", "lading", "signoff", *words, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


@pytest.fixture(scope="module")
def slow_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes each look at a file take as long as on a busy file server."""
    need_program("cc")
    built = tmp_path_factory.mktemp("preload") / "slow_files.so"
    source = REPOSITORY / "benchmarks" / "signoff" / "slow_files.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    return built


@pytest.mark.long
def test_a_killed_run_goes_on(tmp_path: Path, slow_files: Path) -> None:
    rel = tmp_path / "rel"
    for folder in range(40):
        (rel / f"d{folder}").mkdir(parents=True)
        for number in range(20):
            (rel / f"d{folder}/f{number}").write_bytes(b"%d %d" % (folder, number))
    command = [
        sys.executable,
        "-m",
        "lading",
        "signoff",
        str(rel),
        "--checks",
        "all=off",
        "--max-workers",
        "2",
        "--json",
    ]
    slow = {**os.environ, "LD_PRELOAD": str(slow_files), "LADING_LATENCY_US": "2000"}
    process = subprocess.Popen(command, cwd=tmp_path, env=slow, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while sum(path.stat().st_size for path in tmp_path.glob("signoff/parts/*.digests.jsonl")) < 20_000:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["read"]["files"] + said["reused"]["files"] == 800
    assert 40 <= said["reused"]["files"] < 800
    assert sorted(path.name for path in (tmp_path / "signoff").iterdir()) == [
        "digests.jsonl", "findings.jsonl", "holders", "index.html", "report.json",
    ]  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    return make_site(tmp_path, s3, bucket)


@pytest.mark.long
def test_upload_and_verify_read_nothing_to_hash(site: Site) -> None:
    """Neither what is sent, in parts too, nor what is in the bucket already; only what changed since."""
    release = site.release
    for number in range(30):
        (release / f"f{number:02d}.fits").write_bytes(b"%d" % number * 1000)
    with (release / "parts.raw").open("wb") as stream:
        for number in range(60):
            stream.write(bytes([number]) * (1 << 20))
    time.sleep(0.2)  # a file that was changed a moment before it was read is read again
    done = site.command("-m", "lading", "signoff", str(release), "--checks", "file-without-sum=off")
    assert done.returncode == 0, done.stderr
    changed = release / "f07.fits"
    changed.write_bytes(b"changed")
    site.plan("--min-batch-size", "1M", "--max-batch-size", "100M")
    assert '"signoff"' not in (site.directory / "find.json").read_text()
    done = site.upload()
    assert done.returncode == 0, done.stderr + done.stdout
    (record,) = site.runs()
    assert record["objects"]["proven"] == 31
    assert record["digested"] == {"files": 1, "bytes": 7}
    assert record["digests_reused"]["files"] == 30
    done = site.verify("--json")
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["objects"]["read"] == 0
    # Without the journals, as by another user, everything is compared again: by the digests that were kept.
    for path in sorted((site.directory / "journal").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    done = site.upload()
    assert done.returncode == 0, done.stderr + done.stdout
    record = site.runs()[-1]
    assert record["objects"]["adopted"] == 31
    assert record["digested"] == {"files": 1, "bytes": 7}
    for path in sorted((site.directory / "journal").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    done = site.verify("--json")
    assert done.returncode == 0, done.stderr
    assert site.runs()[-1]["objects"]["read"] == 1


@pytest.mark.long
def test_verify_source_reads_all_the_same(site: Site) -> None:
    """Who asks for the bytes of the source gets them read."""
    (site.release / "a.fits").write_bytes(b"a" * 100)
    time.sleep(0.2)
    assert site.command("-m", "lading", "signoff", str(site.release), "--checks", "all=off").returncode == 0
    site.plan()
    assert site.upload().returncode == 0
    assert site.verify("--source").returncode == 0
    assert site.runs()[-1]["objects"]["read"] == 1


def test_make_signoff(make: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path) -> None:
    (tmp_path / "dr1").mkdir()
    (tmp_path / "dr1/a.fits").write_bytes(b"a")
    done = make("signoff", release=tmp_path / "dr1", write_sums=1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dr1/dr1.sha256sum").exists()
    done = make("signoff", release=tmp_path / "dr1", checks="executable=error", file_mode="0600", print=1)
    for words in ("--checks executable=error", "--file-mode 0600"):
        assert words in done.stdout
