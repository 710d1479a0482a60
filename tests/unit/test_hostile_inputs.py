"""Artefacts written or damaged by others: the right value or a sentence, in bounded time and memory."""

import json
import os
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lading.core.atomic import encode_record
from lading.core.bounded import DEPTH, lines_of, parse_json
from lading.core.errors import LadingError, UsageError
from lading.core.times import LATEST
from lading.core.yaml_file import YamlError, parse_yaml
from lading.journal.records import encode_failure
from lading.mirror.config import load_config
from lading.plan.batch_plan import read_plan
from lading.plan.ownership import BatchFiles
from lading.portal.submissions import take_json
from lading.report.facts import read_journals
from lading.sessions.presets import PresetDirectory, Presets, load
from lading.sessions.tasks.transform import read_configs
from lading.tree.json_reader import read_tree
from tests import fuzzing
from tests.conftest import REPOSITORY

HOSTILE = sorted((Path(__file__).resolve().parents[1] / "data" / "hostile").iterdir())


def read_tree_file(path: Path) -> None:
    read_tree(path)


def read_batches(path: Path) -> None:
    """Read a plan and look its entries up in a tree of its own, whatever the plan says of another."""
    plan = read_plan(path)
    path.with_name("find.json").write_bytes(fuzzing.TREE)
    members = BatchFiles(read_tree(path.with_name("find.json")).tree, plan)
    for number in range(len(plan.batches)):
        list(members.files(number))


def read_journal(path: Path) -> None:
    directory = path.parent / "journal"
    directory.mkdir()
    path.rename(directory / "w.jsonl")
    fuzzing.read_whole_journal(directory)


def read_plain_manifest(path: Path) -> None:
    path.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    fuzzing.read_whole_manifest(path)


def read_manifest_rows(path: Path) -> None:
    """Take the records of a manifest, which the file holds as a list, and make the sums right again."""
    try:
        lines = [json.dumps(record, separators=(",", ":")).encode() for record in json.loads(path.read_bytes())]
    except ValueError:
        lines = [path.read_bytes()]
    path.write_bytes(fuzzing.seal_manifest(b"\n".join([*lines, b'{"end":{}}']) + b"\n"))
    fuzzing.read_whole_manifest(path)


def read_preset(path: Path) -> None:
    target = path.parent / "p" / "job_types/v2/default/tasks/compress_data.yaml"
    target.parent.mkdir(parents=True)
    path.rename(target)
    load(PresetDirectory(path.parent / "p"), "presets")


def read_submission(path: Path) -> None:
    take_json(json.loads(path.read_bytes())["upload_jobs"], Presets())


READERS: dict[str, Callable[[Path], object]] = {
    "find-": read_tree_file,
    "fuzz-find": read_tree_file,
    "fuzz-batch": read_batches,
    "fuzz-journal": read_journal,
    "fuzz-manifest-plain": read_plain_manifest,
    "fuzz-manifest-rows": read_manifest_rows,
    "fuzz-mirror": lambda path: load_config(path, {}),
    "mirror-": lambda path: load_config(path, {}),
    "fuzz-extra_configs": read_configs,
    "fuzz-task": read_preset,
    "fuzz-rest": read_submission,
}
# What these hold can be read: every other one is refused with a sentence.
TAKEN = ("find-mtime-overflow", "fuzz-find-OverflowError-230", "fuzz-find-ValueError-230", "fuzz-journal", "fuzz-rest")


@pytest.mark.parametrize("case", HOSTILE, ids=lambda path: path.name)
def test_a_hostile_input_is_a_value_or_a_sentence(case: Path, tmp_path: Path) -> None:
    [read] = [read for start, read in READERS.items() if case.name.startswith(start)]
    path = tmp_path / case.name
    path.write_bytes(case.read_bytes())
    started = time.process_time()
    try:
        read(path)
        refused = ""
    except LadingError as error:
        refused = str(error)
    assert time.process_time() - started < 2
    assert bool(refused) != case.name.startswith(TAKEN), refused or "it was taken"
    assert len(refused) < 3000


def test_a_time_beyond_64_bits_is_the_nearest(tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[1] / "data" / "hostile" / "find-mtime-overflow.json"
    times = read_tree(path).tree.mtimes
    assert times is not None
    assert max(times) == LATEST


def command(code: str, *arguments: object, memory: int = 700 << 20) -> "subprocess.CompletedProcess[str]":
    """Run code under a bound of memory."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    words = [sys.executable, "-c", code, *map(str, arguments)]
    given = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        words, capture_output=True, text=True, check=False, preexec_fn=bound, timeout=120, cwd=REPOSITORY, env=given
    )


READ = """
import sys, time
from pathlib import Path
from lading.core.errors import LadingError
from lading.{module} import {name}
started = time.process_time()
try:
    {name}(Path(sys.argv[1]))
except LadingError as error:
    print(f"{{time.process_time() - started:.1f}} {{error}}")
"""


def pack(path: Path, head: bytes, block: bytes, count: int) -> None:
    """Write a packed file that unpacks to ``count`` blocks."""
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=3).stream_writer(raw) as stream:
        stream.write(head)
        for _ in range(count):
            stream.write(block)


@pytest.mark.parametrize("inside", [b"x", b"[", b'"', b" "])
def test_a_small_manifest_of_one_endless_line_is_refused_in_little_memory(tmp_path: Path, inside: bytes) -> None:
    path = tmp_path / "m.zst"
    pack(path, b'{"format":1,"kind":"manifest","bucket":"', inside * (1 << 20), 3000)
    assert path.stat().st_size < 500_000
    done = command(READ.format(module="verification.manifest", name="read_manifest"), path)
    assert "has a line of more than" in done.stdout, done.stdout + done.stderr
    assert float(done.stdout.split()[0]) < 20


@pytest.mark.parametrize("inside", [b"]", b" ", b"x", b"[", b",", b"1", b"\\"])
@pytest.mark.parametrize("head", [b"", b'["d",0,0', b'["d",0,1,["a",1,1]', b'["d",0,1,["'])
def test_a_small_tree_of_endless_text_is_refused_in_little_memory(tmp_path: Path, head: bytes, inside: bytes) -> None:
    path = tmp_path / "find.json.zst"
    pack(path, head, inside * (1 << 20), 1000)
    done = command(READ.format(module="tree.json_reader", name="read_tree"), path)
    assert done.stdout[:1].isdigit(), done.stdout + done.stderr
    assert float(done.stdout.split()[0]) < 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * (DEPTH + 1) + "]" * (DEPTH + 1),
        "NaN",
        "[Infinity]",
        "9" * 5000,
        "",
        "\x00",
    ],
)
def test_json_beyond_its_bounds_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_within_its_bounds_is_its_value() -> None:
    deep = "[" * DEPTH + "]" * DEPTH
    assert json.dumps(parse_json(deep)) == deep
    assert parse_json('{"a": [1, 2.5, "\\udcff", null]}') == {"a": [1, 2.5, "\udcff", None]}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: *a",
        "a: &a [*a]",
        "[" * 3000,
        "{a: " * 3000,
        "- " * 3000,
        "a: " + "9" * 5000,
        "a: " + "1:" * 5000 + "1",
        "a: .inf",
        "a: 2024-13-45",
        "a: !!python/object/apply:os.system [id]",
        "? [a]: b",
        "a: \x01",
        "a: 'open",
        "{" + "a," * 30_000 + "}",
        "#" * (1 << 20),
    ],
)
def test_yaml_beyond_its_bounds_is_an_error_with_its_place(text: str) -> None:
    started = time.process_time()
    with pytest.raises(YamlError):
        parse_yaml(text.encode())
    assert time.process_time() - started < 2


def test_yaml_is_data_with_the_lines_of_its_keys() -> None:
    document = parse_yaml(b"a: 1\nb:\n- c: [x, true, 1.5, 2024-05-27]\n  a: 2\na: 3\n")
    assert document.value["b"][0]["c"][:3] == ["x", True, 1.5]
    assert document.lines["b", 0, "c"] == 3
    assert document.twice == [(5, "a")]


@pytest.mark.parametrize("size", [10, 11, 25])
def test_of_a_line_that_is_too_long_only_its_length_is_told(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"ab\n" + b"x" * size + b"\ncd\n" + b"y" * size)
    with path.open("rb") as stream:
        found = list(lines_of(stream, 10))
    assert [length for _, length in found] == [3, size + 1, 3, size]
    assert [line for line, _ in found][::2] == [b"ab\n", b"cd\n"]
    assert found[1][0] == b"\n"
    assert all(len(line) <= 10 for line, _ in found)


def test_a_mirror_with_an_alias_says_which_line(tmp_path: Path) -> None:
    (tmp_path / "mirror.yaml").write_text("jobs: &a 3\nworkers: *a\n")
    with pytest.raises(UsageError, match=r"mirror.yaml, line 2, column 10: not YAML \(the alias \*a is not supported"):
        load_config(tmp_path / "mirror.yaml", {})


def test_a_size_of_thousands_of_digits_in_a_journal_is_no_traceback(tmp_path: Path) -> None:
    line = b'{"kind":"done","key":"k","size":' + b"9" * 5000 + b',"at":"2026-01-01T00:00:00Z"}\n'
    (tmp_path / "j.jsonl").write_bytes(line)
    assert read_journals(tmp_path) == ((), ())


@pytest.mark.parametrize("first", ["done", "failed"])
def test_a_journal_record_that_names_two_kinds_is_no_traceback(tmp_path: Path, first: str) -> None:
    body = b'{"kind":"%s","key":"k","gen":0,"why":"changed","kind":"void"' % first.encode()
    failed = encode_record(encode_failure("k", "p", "0001", "object", "it is gone", 1))
    (tmp_path / "j.jsonl").write_bytes(failed + body + b',"crc":"%08x"}\n' % zlib.crc32(body))
    assert [failure.key for failure in read_journals(tmp_path)[0]] == ["k"]
