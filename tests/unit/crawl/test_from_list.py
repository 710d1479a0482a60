"""Trees from lists: the bytes of a crawl in every form, by both readers; what is wrong is named by line."""

import csv
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lading.cli.find import main as find
from lading.core.errors import UsageError
from lading.crawl import list_forms as forms
from lading.crawl.from_list import ListSource, take_list
from lading.crawl.list_forms import parse_form, with_columns
from lading.crawl.options import Options
from lading.crawl.python_listing import PythonListing
from lading.crawl.walker import has_core, make_walker
from lading.tree.globs import parse_glob
from lading.tree.size_tree import meta_path, read_meta
from tests import crawling
from tests.hostile_names import NAMES

readers = pytest.mark.parametrize("walk", ["core", "python"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with all hostile names, links, a fifo, times before 1970, and many files in one directory."""
    root = tmp_path / "the root"
    for folder in (root, root / "empty", root / "many", root / "d" / "e"):
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        Path(os.fsdecode(os.path.join(os.fsencode(root / "d"), name))).write_bytes(b"x" * number)
        if number % 3 == 0:
            folder = os.path.join(os.fsencode(root / "d" / "e"), name)
            os.mkdir(folder)
            Path(os.fsdecode(folder + b"/inside")).write_bytes(b"y" * number)
    for number in range(200):
        (root / "many" / f"f{number}").write_bytes(b"z" * (number * 37))
    os.symlink("f1", root / "many" / "link")
    os.mkfifo(root / "fifo")
    os.utime(root / "many" / "f7", ns=(0, -1_500_000_000))
    os.utime(root / "many" / "f8", ns=(0, 1_700_000_000_123_456_789))
    return root


def crawled(root: Path, options: Options | None = None) -> bytes:
    return crawling.text(crawling.walked(root, options))


def entries(root: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    top = os.fsencode(root)
    yield top, os.lstat(top)
    for above, directories, files in os.walk(top, onerror=pytest.fail):  # type: ignore[arg-type]
        for name in directories + files:
            path = os.path.join(above, name)
            yield path, os.lstat(path)


def shuffled(lines: Iterator[bytes]) -> bytes:
    found = list(lines)
    random.Random(3).shuffle(found)
    return b"".join(found)


def gpfs(root: Path, escape: Callable[[bytes], bytes]) -> bytes:
    return shuffled(
        b"%d 7 0   %s %d 2026-01-01 -- %s\n"
        % (status.st_ino, stat.filemode(status.st_mode).encode(), status.st_size, escape(path))
        for path, status in entries(root)
    )


def backslashes(path: bytes) -> bytes:
    return path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


def percents(path: bytes) -> bytes:
    return b"".join(bytes([c]) if (chr(c).isalnum() and c < 128) or c in b"/-_." else b"%%%02X" % c for c in path)


def taken(source: ListSource, root: Path, options: Options | None = None) -> bytes:
    return crawling.text(take_list(str(root), options or Options(), source, lambda _: None).walker)


@readers
@pytest.mark.parametrize("relative", [False, True])
def test_find_printf(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str, relative: bool) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    form = r"%y %s %T@ %P\0" if relative else r"%T@|%i|%M|%s|%p\0"
    printed = subprocess.run(["find", tree, "-printf", form], check=True, capture_output=True).stdout
    path = tmp_path / "list"
    path.write_bytes(shuffled(line + b"\0" for line in printed.split(b"\0")[:-1]))
    options = Options(mtime=True)
    assert taken(ListSource(path, parse_form(form)), tree, options) == crawled(tree, options)


@readers
def test_gpfs_with_both_escapes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    for name, escape in (("gpfs", backslashes), ("gpfs-percent", percents)):
        path = tmp_path / name
        path.write_bytes(gpfs(tree, escape))
        assert taken(ListSource(path, parse_form(name)), tree) == crawled(tree)


@readers
def test_lester_says_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    root = tmp_path / "r"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b|c").write_bytes(b"12345")
    os.symlink("x", root / "l")
    lines = [b"#IDENT#|1|2|3\n"] + [
        b"1|2|3|0|0|%o|%d|%d||%s\n" % (s.st_mode, s.st_size, s.st_ino, p.replace(os.fsencode(root), b"/ROOT"))
        for p, s in entries(root)
    ]
    path = tmp_path / "list"
    path.write_bytes(b"".join(lines) + b"#complete#17\n")
    assert taken(ListSource(path, None, "/ROOT"), root) == crawled(root)
    path.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"#complete# is missing at its end \(line 5\): the list is truncated"):
        taken(ListSource(path, None, "/ROOT"), root)


@readers
def test_columns(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str) -> None:
    """As Starfish and VAST export them: names of columns in any order, quotes, newlines in names; Parquet the same."""
    monkeypatch.setenv("LADING_WALK", walk)
    kinds = {stat.S_IFREG: "FILE", stat.S_IFDIR: "DIR", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    path = tmp_path / "list.csv"
    found = list(entries(tree))
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["Volume", "Size", "mtime_ns", "element_type", "name", "parent_path", "path"])
        for one, status in found:
            above, name = os.path.split(os.fsdecode(one))
            kind = kinds[stat.S_IFMT(status.st_mode)]
            writer.writerow(["v,1", status.st_size, status.st_mtime_ns, kind, name, f"{above}/", "ignored"])
    options = Options(mtime=True)
    assert taken(ListSource(path), tree, options) == crawled(tree, options)


@readers
def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("LADING_WALK", walk)
    root = tmp_path / "r"
    (root / "é" / "b").mkdir(parents=True)
    (root / "é" / "b" / 'new\nline,"q"').write_bytes(b"12345")
    (root / "top").write_bytes(b"1")
    found = [(os.path.relpath(os.fsdecode(p), root), s) for p, s in entries(root)]
    table = {
        "path": [p for p, _ in found],
        "type": ["d" if stat.S_ISDIR(s.st_mode) else "f" for _, s in found],
        "size": [s.st_size for _, s in found],
        "mtime_ns": arrow.array([s.st_mtime_ns for _, s in found], arrow.timestamp("ns")),
    }
    path = tmp_path / "list.parquet"
    parquet.write_table(arrow.table(table), path)
    options = Options(mtime=True)
    assert taken(ListSource(path, None, ""), root, options) == crawled(root, options)


@readers
def test_the_command_leaves_out_and_counts_as_a_crawl(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], walk: str
) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    path = tmp_path / "list.gz"
    with path.open("wb") as stream:
        lines = subprocess.run(["find", tree, "-printf", r"%y %s %T@ %p\0"], check=True, capture_output=True).stdout
        stream.write(subprocess.run(["gzip", "-c"], input=lines, check=True, capture_output=True).stdout)
    for flags in ([], ["--exclude", "f1*", "--exclude", "./d/e", "--links", "skip"], ["--depth", "1"]):
        assert find([str(tree), *flags, "-o", str(tmp_path / "crawl.json")]) == 0
        assert find([str(tree), *flags, "--from", str(path), "-o", str(tmp_path / "list.json")]) == 0
        assert (tmp_path / "list.json").read_bytes() == (tmp_path / "crawl.json").read_bytes(), flags
        crawl, listed = (read_meta(meta_path(tmp_path / name)) for name in ("crawl.json", "list.json"))
        assert listed.settings == {**crawl.settings, "from": str(path)}
        same = {"settings": {}, "started": "", "ended": "", "metadata_file": ""}
        assert replace(listed, **same) == replace(crawl, **same)
    capsys.readouterr()


def faults(root: Path, path: Path, form: str, lines: bytes) -> list[str]:
    path.write_bytes(lines)
    with pytest.raises(UsageError) as refused:
        taken(ListSource(path, parse_form(form)), root, Options(mtime=True))
    return [line.removeprefix(f"{path}: ") for line in str(refused.value).splitlines()]


@readers
def test_all_errors_are_told_at_once_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    root, path = tmp_path / "r", tmp_path / "list"
    root.mkdir()
    lines = [
        "d 1 1.0 R", "d 1 1.0 R/a", "f 5 1.0 R/a/x", "f 5 1.0 R/a/x", "d 1 1.0 R/a", "f 5 1.0 /other/x", "torn",
        "f 5 1.0 Rest/x", "f -5 1.0 R/y", "f 99999999999999999999 1.0 R/y", "z 5 1.0 R/y", "f 5 1,0 R/y",
        "f 5 1.0 R/a/../y", "f 5 1.0 R//y", "f 5 1.0 R", "f 5 1.0 R/n/y", "f 5 1.0 R/a/z", "d 5 1.0 R/a/z",
        "f 5 1.0 R/q",
    ]  # fmt: skip
    text = "\n".join(lines).replace("R", str(root), 99).encode() + b"\nf 7 1."
    assert faults(root, path, r"%y %s %T@ %p\n", text) == [
        "line 4 names a path again: a/x",
        "line 5 names a directory again: a",
        f"line 6 is not below {root}: /other/x",
        "line 7 is not a whole line of this form: torn",
        f"line 8 is not below {root}: {root}est/x",
        "line 9 has no size in bytes: -5",
        "line 10 has no size in bytes: 99999999999999999999",
        "line 11 has no known type: z",
        "line 12 has no time in seconds with nanoseconds: 1,0",
        f"line 13 is not the path of an entry: {root}/a/../y",
        f"line 14 is not the path of an entry: {root}//y",
        f"line 15 is not the path of an entry: {root}",
        "line 16 is in a directory that has no line of its own: n",
        "line 18 names a path again: a/z",
        "line 20 is not a whole line of this form: f 7 1.",
        "let the list name directories, too (GPFS: DIRECTORIES_PLUS; lester: show_dirs)",
    ]


@readers
def test_many_errors_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: str) -> None:
    monkeypatch.setenv("LADING_WALK", walk)
    found = faults(tmp_path, tmp_path / "list", r"%y %s %T@ %p\n", b"torn\n" * 1000)
    assert len(found) == 21
    assert found[-1] == "980 more errors of these kinds"


def test_what_a_list_cannot_serve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"1 2 0  -rw-r--r-- 5 -- /x\n")
    with pytest.raises(UsageError, match=r"--links follow needs a crawl: .*\n--hard-links once needs a crawl: "):
        find([str(tmp_path), "--from", str(path), "--links", "follow", "--hard-links", "once"])
    with pytest.raises(UsageError, match="give the list with --from"):
        find([str(tmp_path), "--from-format", "csv"])
    with pytest.raises(UsageError, match="has no mtimes in nanoseconds, which --mtime needs"):
        find([str(tmp_path), "--from", str(path), "--mtime"])
    path.write_bytes(b"something else\n")
    with pytest.raises(UsageError, match="cannot be told by its first line; say it with --from-format"):
        find([str(tmp_path), "--from", str(path)])
    for text, reason in (
        ("%y %p\\n", "no field for the size"),
        ("%y%s %p\\n", "nothing between"),
        ("%y %s %p", "must end with %p"),
        ("%y %s %l %p\\0", "'%l ' cannot be read"),
        ("%y %s %p\\q", "is not"),
        ("xml", "is neither gpfs"),
    ):
        with pytest.raises(UsageError, match=reason):
            parse_form(text)
    with pytest.raises(UsageError, match="no field for the type and the path"):
        with_columns(parse_form("csv"), ["size", "name"])


PIECES = (
    b"f", b"d", b"l", b"p", b"?", b" ", b" ", b" ", b"5", b"17", b"-1.5", b"1.25", b"/r", b"/r/", b"/r/a",
    b"/r/a/b", b"/r/b", b"\n", b"\n", b"\0", b"..", b"//", b",", b'"', b'""', b"\\n", b"\\", b"%41", b"%", b"\xff",
    b"--", b" -- ", b"#", b"|", b"dir",
)  # fmt: skip
FORMS = {
    "printf": (parse_form(r"%y %s %T@ %p\n"), b"f 5 1.5 /r/a/b\nd 0 1.0 /r/a\n"),
    "nul": (parse_form(r"%y %s %T@ %P\0"), b"f 5 1.5 a/b\0d 0 1.0 a\0"),
    "gpfs": (parse_form("gpfs"), b"1 2 3  -rw-r--r-- 5 -- /r/a\n1 2 3 drwxr-xr-x 5 x -- /r/a/b\n"),
    "gpfs-percent": (parse_form("gpfs-percent"), b"1 2 3  -rw-r--r-- 5 -- /r/a%41\n"),
    "lester": (parse_form("lester"), b"1|2|3|0|0|100644|5|7||/r/a\n1|2|3|0|0|40755|5|7||/r/b\n#complete#1\n"),
    "csv": (
        with_columns(parse_form("csv"), ["type", "parent_path", "name", "size", "x"]),
        b'f,/r,"a""b",5,\ndir,/r,a,,1\n',
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_both_readers_answer_alike(tmp_path: Path, name: str) -> None:
    """Damaged lists in pieces: the same errors, and the same tree where there are none."""
    form, sample = FORMS[name]
    chance = random.Random(name)
    trees = 0
    for _ in range(300):
        data = bytearray(sample * chance.choice([1, 1, 2]))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randrange(3)] = chance.choice(PIECES)
        trees += compare_readers(tmp_path, form, bytes(data), chance.randrange(1, len(data) + 1))
    assert trees > 3


def compare_readers(root: Path, form: forms.ListForm, data: bytes, step: int) -> bool:
    assert has_core()
    options = Options(mtime=form.has_times, exclude=(parse_glob("*b5"),))
    prefix = None if form.below else b"/r"
    plain, core = PythonListing(options, form, prefix), make_walker(str(root), options, seed=False, core=True)
    core.list_begin(form.kind, form.end, form.escapes, form.comments, prefix, form.program)  # type: ignore[attr-defined]
    answers = []
    for feed, end in ((plain.feed, plain.end), (core.list_feed, core.list_end)):  # type: ignore[attr-defined]
        rest = b""
        for at in range(0, len(data), step):
            rest += data[at : at + step]
            rest = rest[feed(rest, False) :]
        assert feed(rest, True) == len(rest)
        answers.append(end())
    assert answers[0] == answers[1], (data, step)
    if answers[0][0]:
        return False
    walker = make_walker(str(root), options, seed=False, core=False)
    walker.adopt(plain.directories())  # type: ignore[attr-defined]
    assert walker.settle() == core.settle(), data
    assert crawling.text(walker) == crawling.text(core), data
    return True
