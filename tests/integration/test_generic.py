"""Generic copy and zips: everything comes back, passwords stay secret, damage is named."""

import os
import resource
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import pyzipper

from lading.compress import file_copy as copying
from lading.compress import zip_archive as zips
from lading.compress.destination import open_destination
from lading.compress.job import SourceFault, VerificationFailed
from lading.compress.sources import OpenFile, Source
from lading.core.errors import LadingError, UsageError
from tests.conftest import ODD_NAMES
from tests.kinds import compress, plan_job, tree_bytes


def copy(path: Path, target: Path) -> None:
    """Copy one file as a unit does."""
    working = target.parent / "working"
    working.mkdir(parents=True)
    try:
        with Source(path.parent) as source, source.open(path.name) as file:
            copying.copy_verified(file, target, working)
    finally:
        working.rmdir()


SECRET = "correct horse ünd battery"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "session one"
    (top / "deep" / "er").mkdir(parents=True)
    for number in range(300):
        (top / "deep" / f"f{number}").write_bytes(os.urandom(number))
    (top / "deep" / "er" / "empty").touch()
    (top / ".hidden").write_text("x" * 100_000)
    return top


def test_copy_keeps_bytes_times_and_hostile_names(source: Path, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        (source / os.fsdecode(name)).write_bytes(name)
    os.utime(source / ".hidden", ns=(1, 1_600_000_000_123_456_789))
    facts, markers = compress("generic", source, tmp_path / "out")
    assert tree_bytes(tmp_path / "out") == tree_bytes(source)
    assert (tmp_path / "out/.hidden").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert facts == {"files": len(tree_bytes(source))}
    assert len(markers) < 10, "small files travel in groups"
    assert sum(m.result.bytes_in for m in markers) == sum(map(len, tree_bytes(source).values()))


def test_single_file(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(b"abc")
    compress("generic", tmp_path / "one.bin", tmp_path / "out")
    assert (tmp_path / "out/one.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("method", ["plain", "aes", "legacy"])
def test_zip_gives_back_its_source(method: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if method == "legacy":
        pytest.importorskip("pyminizip")
    monkeypatch.setenv("LADING_ZIP_PASSWORD", SECRET)
    monkeypatch.chdir(tmp_path)
    facts, markers = compress("generic", source, tmp_path / "out", pack=method)
    assert Path.cwd() == tmp_path, "the working directory of a rank must not move"
    assert facts == {"files": 302}
    assert list(tree_bytes(tmp_path / "out")) == ["session one.zip"]
    password = None if method == "plain" else SECRET.encode()
    with pyzipper.AESZipFile(tmp_path / "out" / "session one.zip") as archive:
        found = {info.filename: archive.read(info, pwd=password) for info in archive.infolist()}
        flags = {bool(info.flag_bits & 1) for info in archive.infolist()}
    assert found == tree_bytes(source)
    assert flags == {method != "plain"}
    assert SECRET not in repr(markers) + repr(facts)


@pytest.mark.parametrize("method", ["aes", "legacy"])
def test_wrong_password_opens_nothing(method: str, source: Path, tmp_path: Path) -> None:
    if method == "legacy":
        pytest.importorskip("pyminizip")
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\nsecond line\n")
    secret.chmod(0o600)
    compress("generic", source, tmp_path / "out", pack=method, password_file=str(secret))
    with pyzipper.AESZipFile(tmp_path / "out" / "session one.zip") as archive:
        assert archive.read(".hidden", pwd=SECRET.encode()) == b"x" * 100_000
        # AES has a verifier of two bytes, ZipCrypto of one: a wrong password may pass it and then fails the checksum.
        with pytest.raises((RuntimeError, zlib.error, zipfile.BadZipFile, pyzipper.BadZipFile)):
            archive.read(".hidden", pwd=b"wrong")


def test_password_faults_name_the_place_and_not_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600") as caught:
        zips.read_password(str(secret), None)
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        zips.read_password(str(tmp_path / "absent"), None)
    with pytest.raises(UsageError, match="LADING_ZIP_PASSWORD holds no password"):
        zips.read_password(None, None)
    monkeypatch.setenv("OTHER", "pass")
    assert zips.read_password(None, "OTHER") == "pass"


def test_no_argument_carries_a_password(run) -> None:
    text = run("-m", "jobs", "compress", "--kind", "generic", "--help").stdout
    assert "--password-file" in text
    assert "--password " not in text


def test_legacy_zip_warns_and_is_imported_late(run) -> None:
    code = "import sys; from lading.compress.generic import generic_plan; print('pyminizip' in sys.modules)"
    assert run("-c", code).stdout.strip() == "False"
    assert "ZipCrypto" in zips.LEGACY_WARNING


def test_missing_pyminizip_is_a_sentence(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyminizip", None)
    monkeypatch.setenv("LADING_ZIP_PASSWORD", SECRET)
    with pytest.raises(UsageError, match="pyminizip package"):
        compress("generic", source, tmp_path / "out", pack="legacy")


def test_empty_folder_and_linked_folder_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceFault, match="holds no file"):
        plan_job("generic", empty, tmp_path / "out")
    (empty / "link").symlink_to(tmp_path)
    with pytest.raises(SourceFault, match="link: is a link to a directory"):
        plan_job("generic", empty, tmp_path / "out")


@pytest.mark.parametrize("kind", ["generic", "ephys"])
def test_what_is_no_file_is_refused_before_it_is_opened(run, tmp_path: Path, kind: str) -> None:
    """To open a FIFO that nobody writes to waits for ever."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "f").write_bytes(b"1")
    os.mkfifo(source / "pipe")
    (source / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(source / "talk"))
    for flags in ((), ("--dry-run",)):
        result = run("-m", "jobs", "compress", source, tmp_path / "out", "--kind", kind, *flags, timeout=60)
        assert result.returncode == 1
        for name in ("pipe", "talk", "zero"):
            assert f"{source}/{name}: is a FIFO, socket or device" in result.stderr
        assert "Traceback" not in result.stderr
    result = run("-m", "jobs", "compress", source / "pipe", tmp_path / "out", "--kind", kind, timeout=60)
    assert result.returncode == 1
    assert f"{source}/pipe: is a FIFO" in result.stderr
    assert not (tmp_path / "out").exists()


def test_source_that_changes_while_copied_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    original = copying._copy

    def copy_then_flip(source: OpenFile, partial: Path) -> str:
        result = original(source, partial)
        data = bytearray(path.read_bytes())
        data[500] ^= 1
        path.write_bytes(data)
        return result

    monkeypatch.setattr(copying, "_copy", copy_then_flip)
    with pytest.raises(VerificationFailed, match="differs from it"):
        copy(path, tmp_path / "out" / "a")
    assert tree_bytes(tmp_path / "out") == {}


def test_flipped_bit_in_the_copy_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    original = copying._copy

    def copy_and_flip(source: OpenFile, partial: Path) -> str:
        result = original(source, partial)
        data = bytearray(partial.read_bytes())
        data[10] ^= 128
        partial.write_bytes(data)
        return result

    monkeypatch.setattr(copying, "_copy", copy_and_flip)
    with pytest.raises(VerificationFailed):
        copy(path, tmp_path / "out" / "a")
    assert tree_bytes(tmp_path / "out") == {}


def test_flipped_bit_in_an_archive_is_caught(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = zips._write_members

    def write_and_flip(*arguments):
        states = original(*arguments)
        partial = arguments[2]
        data = bytearray(partial.read_bytes())
        data[5000] ^= 4
        partial.write_bytes(data)
        return states

    monkeypatch.setattr(zips, "_write_members", write_and_flip)
    monkeypatch.setenv("LADING_ZIP_PASSWORD", SECRET)
    for method in ("plain", "aes"):
        with pytest.raises(VerificationFailed):
            compress("generic", source, tmp_path / method, pack=method)
        assert tree_bytes(tmp_path / method) == {}


def test_full_disk_is_a_sentence_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the kernel refuses the write in the middle."""
    code = (
        "import resource, signal, sys, pathlib; from tests.integration.test_generic import copy\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "from lading.core.command_line import run_main\n"
        "sys.exit(run_main(lambda argv: copy(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))))"
    )
    target = tmp_path / "out" / "copy"
    result = subprocess.run(
        [sys.executable, "-c", code, str(source / ".hidden"), str(target)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {target}: cannot be written: File too large")
    assert result.stderr.count("\n") == 1
    assert tree_bytes(tmp_path / "out") == {}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_litter_of_killed_workers_is_swept(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job, _ = plan_job("generic", source, out)
    place = open_destination(job)
    with copying.unfinished(copying.working_directory(job)) as partial:
        partial.rename(partial.with_name("half"))
    assert [path for path, _ in place.files()] == []
    place.tidy()
    assert list(out.iterdir()) == []


def test_unreadable_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(LadingError, match="gone: cannot be read"):
        copy(tmp_path / "gone", tmp_path / "out" / "gone")
