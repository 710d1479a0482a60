"""Names are bytes taken as UTF-8 in every locale, and nothing that is printed commands a terminal."""

import ast
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lading.core.command_line import DEFECT, run_main
from lading.core.safe_streams import PlainStream, printable
from lading.mirror.git.portable_names import repository_path
from tests import hostile_names, labtree
from tests.conftest import REPOSITORY, need_program
from tests.locales import LOCALES, PLAIN, environment
from tests.locales import locale_directory as locale_directory
from tests.mirrors import Bucket, allow_loopback, content
from tests.unit.test_layers import sources

SCRIPT = """
import json, os, sys
from lading.core.command_line import run_main
def main(argv):
    names = sorted(os.listdir(sys.argv[1]))
    print(json.dumps([sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.argv[2:], names]))
    print("caf\\xe9 \\u65e5 \\x1b[31mred \\udcff", file=sys.stderr)
    return 0
sys.exit(run_main(main))
"""


@pytest.mark.parametrize("name", LOCALES)
def test_a_process_takes_names_as_utf8_in_any_locale(name: str, locale_directory: Path, tmp_path: Path) -> None:
    hostile_names.make_tree(tmp_path / "data", hostile_names.NAMES)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words: list[bytes] = [b"caf\xc3\xa9", b"\xe6\x97\xa5", b"latin-\xe9", b"-x", b""]
    command = [sys.executable, str(script), str(tmp_path / "data"), *words]
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, **environment(name, locale_directory)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "utf-8",
        "surrogateescape",
        [hostile_names.text(word) for word in words],
        sorted(map(hostile_names.text, hostile_names.NAMES)),
    ]
    assert done.stderr.decode() == "café 日 \\x1b[31mred \\udcff\n"


@pytest.mark.parametrize("name", ["POSIX", "en_US.ISO-8859-1"])
def test_a_command_line_that_forbids_utf8_is_obeyed_by_nobody(
    name: str, locale_directory: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # Make starts the tests in UTF-8: this command line forbids it.
    given = {**os.environ, **PLAIN, **environment(name, locale_directory), "LADING_STARTED_AGAIN": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    # Whoever was started again and is still in another encoding refuses: it never goes on, and never round and round.
    assert done.returncode == 2, done.stderr
    assert "set PYTHONUTF8=1" in done.stderr


def test_ranks_start_again_before_mpi_does(locale_directory: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    hostile_names.make_tree(root, hostile_names.NAMES)
    out = tmp_path / "find.json"
    given = {**os.environ, **environment("en_US.ISO-8859-1", locale_directory)}
    launcher = str(Path(sys.executable).parent / "mpiexec")
    command = [launcher, "-n", "2", sys.executable, "-m", "mpi4py", str(REPOSITORY / "find.py"), root, "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [entry[0] for entry in json.loads(out.read_text())[3:]] == sorted(
        map(hostile_names.text, hostile_names.NAMES)
    )


def carry(  # type: ignore[no-untyped-def]
    name: str, engine: str, locale_directory: Path, tmp_path: Path, gateway, bucket: str, paths: list[bytes]
) -> dict[bytes, bytes]:
    """Take these paths from a tree to the bucket and back in a locale; nothing may differ. Returns their contents."""
    root, run, back = tmp_path / "caf\xe9 日本", tmp_path / "run", tmp_path / "back"
    made = hostile_names.make_tree(root, paths)
    gateway.make_bucket(bucket)
    run.mkdir()
    given = {**os.environ, **environment(name, locale_directory)}
    bounds = ["--min-batch-size", "1", "--max-batch-size", "2M"]
    commands: list[list[object]] = [
        [REPOSITORY / "find.py", root, "--mtime", "-o", "find.json"],
        [REPOSITORY / "batch.py", root, "--file-tree", "find.json", "-o", "batch.json", *bounds],
        [*labtree.upload_command(root, gateway, bucket)[1:], "--engine", engine],
        [*labtree.verify_command(root, gateway, bucket)[1:]],
        ["-m", "lading", "restore", "--to", back],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=run, capture_output=True, check=False, env=given, timeout=300
        )
        assert done.returncode == 0, (command, done.stderr[-2000:])
        printed = done.stdout + done.stderr
        assert not set(printed) & (set(range(32)) - {9, 10} | {127}), printed
        printed.decode()
    assert b"0 failed" in done.stdout, done.stdout
    assert labtree.differences(gateway, bucket, root) == []
    assert hostile_names.read_tree(back) == made
    return made


SESSION = b"s_2024-05-27_16-07-59/"


def carry_to_a_clone(  # type: ignore[no-untyped-def]
    name: str, engine: str, locale_directory: Path, tmp_path: Path, gateway, bucket: str, names: Sequence[bytes]
) -> None:
    """Take names from a tree to the bucket, into a dataset and out of a clone, all in one locale."""
    need_program("git-annex", "datalad")
    allow_loopback()
    paths = [SESSION + b"files/" + each for each in names] + [SESSION + b"d/" + names[0] + b"/f"]
    made = carry(name, engine, locale_directory, tmp_path, gateway, bucket, paths)
    client = gateway.client()
    Bucket(client, bucket, gateway.endpoint, tmp_path).open_to_all()
    given = {**os.environ, **environment(name, locale_directory)}
    run, clone = tmp_path / "run", tmp_path / "clone"
    settings = ["-m", "manifest.jsonl.zst", "-B", tmp_path, "--store", "datasets"]
    datalad = Path(sys.executable).parent / "datalad"
    commands: list[list[object]] = [
        [sys.executable, "-m", "lading", "mirror", *settings, "update"],
        [sys.executable, "-m", "lading", "mirror", *settings, "verify"],
        [datalad, "clone", f"ria+file://{tmp_path}/datasets#~super", clone],
        [datalad, "-C", clone, "get", "-r", "-J", "4", "."],
    ]
    for command in commands:
        done = subprocess.run(list(map(str, command)), cwd=run, capture_output=True, check=False, env=given)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    found = {os.fsencode(path): data for path, data in content(clone).items()}
    assert found == {SESSION + repository_path(path[len(SESSION) :]): data for path, data in made.items()}


@pytest.mark.long
def test_hostile_names_reach_a_clone(locale_directory: Path, tmp_path: Path, gateway, bucket: str) -> None:  # type: ignore[no-untyped-def]
    names = hostile_names.NAMES[::6]
    carry_to_a_clone("en_US.ISO-8859-1", "s5cmd", locale_directory, tmp_path, gateway, bucket, names)


@pytest.mark.long
@pytest.mark.parametrize("name", LOCALES)
def test_the_whole_corpus_reaches_a_clone_in_every_locale(  # type: ignore[no-untyped-def]
    name: str, locale_directory: Path, tmp_path: Path, gateway, bucket: str
) -> None:
    carry_to_a_clone(name, "s5cmd", locale_directory, tmp_path, gateway, bucket, hostile_names.NAMES)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("en_US.ISO-8859-1", "s5cmd"),
        ("en_US.ISO-8859-1", "boto3"),
        ("POSIX", "obstore"),
        ("POSIX", "crt"),
        ("ja_JP.eucJP", "crt"),
        ("ja_JP.eucJP", "boto3"),
        ("ja_JP.eucJP", "obstore"),
    ],
)
def test_hostile_names_go_the_whole_way_in_every_locale(
    name: str, engine: str, locale_directory: Path, tmp_path: Path, gateway, bucket: str
) -> None:  # type: ignore[no-untyped-def]
    carry(name, engine, locale_directory, tmp_path, gateway, bucket, hostile_names.paths())


def test_what_does_not_print_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: object) -> int:
        print("name\x1b[31m \x9b \x07 \u202egnp \udcff\ttab\nnext")
        sys.stderr.write("\x1b]0;title\x07\n")
        sys.stdout.writelines(["a\x00", "b\r\n"])
        return 0

    assert run_main(main) == 0
    found = capsys.readouterr()
    assert found.out == "name\\x1b[31m \\x9b \\x07 \\u202egnp \\udcff\ttab\nnext\na\\x00b\\r\n"
    assert found.err == "\\x1b]0;title\\x07\n"
    assert not isinstance(sys.stdout, PlainStream)  # as it was
    assert printable("a\nb\x1b") == "a\\nb\\x1b"


def test_on_a_terminal_rich_draws_and_names_do_not(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom lading.core.command_line import run_main\nfrom lading.core.progress import Progress\n"
        "def main(_):\n"
        "    with Progress('crawl', log_seconds=0) as progress:\n"
        "        progress._shown = 0\n"
        "        progress.show('at evil\\x1b]0;pwned\\x07name')\n"
        "        print('beside \\x1b]0;pwned\\x07', file=sys.stderr)\n"
        "        print('out \\x1b[41mpwned')\n"
        "        import time; time.sleep(0.3)\n"
        "    return 0\n"
        "sys.exit(run_main(main))\n"
    )
    main, side = pty.openpty()
    given = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    child = subprocess.Popen([sys.executable, str(script)], stdin=side, stdout=side, stderr=side, env=given)
    os.close(side)
    text = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:
            break
        if not block:
            break
        text += block
    assert child.wait() == 0, text
    assert b"\x1b]0;pwned" not in text
    assert b"\x1b[41mpwned" not in text
    assert b"evil\\x1b]0;pwned" in text
    assert b"beside \\x1b]0;pwned" in text
    assert b"\x1b[" in text  # rich itself still moves the cursor


def test_no_module_prints_past_the_protected_streams() -> None:
    """``print`` is protected where the process began with ``run_main``; no text goes to a descriptor itself."""
    past = []
    # What writes bytes on purpose: a tree in JSON's ASCII, the answers of a worker process to its parent, rich's own.
    allowed = {
        "lading/crawl/output.py",
        "lading/upload/engines/child_worker.py",
        "lading/core/safe_streams.py",
        "lading/environment.py",
        "lading/launch.py",  # as the one before, to which it hands over
        "lading/export/check_download.py",  # it runs without Lading, and escapes what it prints by itself
        "lading/compress/library_watcher.py",  # likewise, and writes ASCII
        "lading/core/make_words.py",  # run by make before there is an environment; a shell reads its words
    }
    # Children of engines: they begin in child_worker, which writes to their parent alone.
    children = {"lading/upload/engines/crt_worker.py", "lading/upload/engines/obstore_worker.py"}
    for path in sources():
        relative = str(path.relative_to(REPOSITORY))
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("__stdout__", "__stderr__"):
                past.append(f"{relative}:{node.lineno}: {node.attr}")
            if relative in allowed:
                continue
            if isinstance(node, ast.Attribute) and node.attr == "buffer" and "std" in ast.unparse(node.value):
                past.append(f"{relative}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.write":
                first = ast.unparse(node.args[0])
                if (first in ("1", "2") or "sys.std" in first) and not isinstance(node.args[1], ast.Constant):
                    past.append(f"{relative}:{node.lineno}: {ast.unparse(node)}")
        mains = [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
        begun = "serve(" if relative in children else "run_main("
        if mains and relative not in allowed and begun not in ast.unparse(mains[0]):
            past.append(f"{relative}:{mains[0].lineno}: begins without run_main")
    assert past == []


def test_a_defect_is_a_sentence_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-value")

    def main(_: object) -> int:
        raise KeyError("s3cr3t-value at http://me:pw@host \x1b[31m\nsecond line")

    assert run_main(main) == DEFECT == 70
    said = capsys.readouterr().err
    assert said.startswith("error: Lading failed in a way that it does not handle (KeyError")
    assert said.count("\n") == 1
    [report] = tmp_path.glob("lading-error-*.txt")
    assert report.name in said
    assert report.stat().st_mode & 0o777 == 0o600
    text = report.read_text()
    assert "Traceback" in text
    assert "test_locales.py" in text
    for secret in ("s3cr3t-value", "me:pw", "\x1b"):
        assert secret not in text + said


@pytest.mark.parametrize("fault", ["RecursionError()", "MemoryError()", "ValueError('x' * 10000)", "AssertionError()"])
def test_a_report_goes_where_it_can(
    fault: str, tmp_path: Path, run: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    code = f"import sys; from lading.core.command_line import run_main\ndef f(_): raise {fault}\nsys.exit(run_main(f))"
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = f"import os, runpy; os.rmdir({str(gone)!r})\n{code}"
    given = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", shell]
    done = subprocess.run(command, cwd=gone, capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 70, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 600
    assert len(list(tmp_path.glob("lading-error-*.txt"))) == 1
