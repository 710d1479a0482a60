"""Atomic files and durable logs, at every byte."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.core.atomic import AppendLog, atomic_write, decode_record, encode_record, read_log
from lading.core.errors import LadingError

RECORDS = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.text(alphabet=st.characters(), max_size=20), st.integers(), st.none(), st.booleans()),
    min_size=1,
    max_size=4,
).filter(lambda record: "crc" not in record)


@given(RECORDS)
def test_a_record_survives_its_line(record) -> None:
    line = encode_record(record)
    assert line.count(b"\n") == 1
    assert decode_record(line[:-1]) == {**record}


@given(st.data())
def test_a_flipped_bit_is_seen(data) -> None:
    line = bytearray(encode_record({"path": "a", "size": 5})[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= 1 << data.draw(st.integers(0, 7))
    assert decode_record(bytes(line)) is None


def test_a_log_cut_at_every_byte_resumes(tmp_path) -> None:
    whole = tmp_path / "whole"
    records = [{"n": number, "name": "\udcff\n"} for number in range(5)]
    with AppendLog(whole) as log:
        log.append(records)
    content = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for length in range(len(content) + 1):
        torn = tmp_path / "torn"
        torn.write_bytes(content[:length])
        kept = records[: sum(end <= length for end in ends)]
        assert list(read_log(torn)) == kept
        with AppendLog(torn) as log:
            log.append([{"n": "after"}])
        assert list(read_log(torn)) == [*kept, {"n": "after"}]


def test_a_damaged_middle_line_is_reported_not_guessed(tmp_path) -> None:
    path = tmp_path / "log"
    with AppendLog(path) as log:
        log.append([{"n": 1}, {"n": 2}, {"n": 3}])
    path.write_bytes(path.read_bytes().replace(b'{"n":2', b'{"n":7'))
    assert list(read_log(path)) == [{"n": 1}, None, {"n": 3}]


def test_replacing_keeps_the_old_file_on_failure(tmp_path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as stream:
            stream.write("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_replacing_follows_the_umask(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "f") as stream:
            stream.write("x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def full_disk(tmp_path: Path, code: str) -> "subprocess.CompletedProcess[str]":
    """Run code whose files may not grow beyond 4 kB: EFBIG, as a full disk gives ENOSPC."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, check=False
    )


def test_a_full_disk_leaves_the_old_file(tmp_path) -> None:
    (tmp_path / "f").write_text("old")
    code = "from lading.core.atomic import atomic_write\nwith atomic_write('f') as s: s.write('x' * 100000)"
    result = full_disk(tmp_path, code)
    assert "cannot write f" in result.stderr
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_full_disk_leaves_a_readable_log(tmp_path) -> None:
    code = (
        "from lading.core.atomic import AppendLog\nfrom lading.core.errors import LadingError\n"
        "log = AppendLog('log'); log.append([{'n': 1}])\n"
        "try: log.append([{'n': 2, 'x': 'y' * 9000}])\n"
        "except LadingError as error: print(error)\n"
        "log.append([{'n': 3}]); log.close()"
    )
    result = full_disk(tmp_path, code)
    assert "cannot append to log" in result.stdout, result.stderr
    assert list(read_log(tmp_path / "log")) == [{"n": 1}, {"n": 3}]


def test_replacing_in_a_missing_directory_is_a_sentence(tmp_path) -> None:
    with pytest.raises(LadingError, match=r"cannot write .*nowhere/f"), atomic_write(tmp_path / "nowhere" / "f"):
        pass
