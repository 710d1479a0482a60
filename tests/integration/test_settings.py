"""Settings that are empty, roots that nobody means, and what one release's settings do to another."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lading.cli.main import COMMANDS, main
from lading.core.command_line import Parser, run_main
from lading.core.errors import UsageError
from lading.testing.s3_server import Server
from tests.conftest import REPOSITORY
from tests.shipping import make_site, walk, write_files

# A line of settings with which each target would do its work.
GOOD = {
    "find.json": {"root": "/data"},
    "batch.json": {"root": "/data", "subdir": "a", "remap": "{}"},
    "estimate": {"root": "/data", "release": "/data/dr1", "remap": "{}"},
    "upload": {"root": "/data", "bucket": "s3://b", "endpoint": "http://127.0.0.1:1", "remap": "{}"},
    "verify": {"root": "/data", "bucket": "s3://b", "endpoint": "http://127.0.0.1:1", "remap": "{}"},
    "restore": {"to": "back", "prefix": "a", "endpoint": "http://127.0.0.1:1"},
    "withdraw": {"list": "gone.txt", "reason": "consent", "endpoint": "http://127.0.0.1:1"},
    "compress": {"source": "/data", "dest": "/scratch", "kind": "ephys"},
    "jobs": {"jobs_csv": "a.csv", "bucket": "s3://b", "endpoint": "http://127.0.0.1:1", "presets": "p"},
    "report": {"index": "http://x", "root": "/data", "remap": "{}"},
    "serve": {"bucket": "s3://b", "endpoint": "http://x", "presets": "p", "portal": "d", "listen": "unix:p"},
}
CASES = [(target, name) for target, settings in GOOD.items() for name in settings]
MISSING = [
    *(("find.json", "root"), ("batch.json", "root"), ("estimate", "release"), ("upload", "root"), ("upload", "bucket")),
    *(("verify", "root"), ("verify", "bucket"), ("restore", "to"), ("compress", "source"), ("compress", "dest")),
    *(("jobs", "jobs_csv"), ("report", "root"), ("withdraw", "reason")),
]


@pytest.fixture
def asked(make, tmp_path):
    """Make with a Python that only notes that it was called."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho called >> called\n")
    python.chmod(0o755)

    def call(target: str, **settings: str):  # type: ignore[no-untyped-def]
        old = () if target == "find.json" else ("-o", "find.json")
        done = make(*old, target, cwd=tmp_path, python=python, **settings)
        return done, (tmp_path / "called").exists()

    return call


@pytest.mark.parametrize("source", ["command", "blanks", "environment", "?=", "="])
def test_an_empty_setting_is_refused_by_name(asked, tmp_path, monkeypatch, source) -> None:
    for target, name in CASES:
        settings = {key: value for key, value in GOOD[target].items() if key != name}
        (tmp_path / "config.mk").unlink(missing_ok=True)
        monkeypatch.delenv(name, raising=False)
        if source in ("command", "blanks"):
            settings[name] = "" if source == "command" else "  "
        elif source == "environment":
            monkeypatch.setenv(name, "")
        else:
            (tmp_path / "config.mk").write_text(f"{name} {source}\n")
        done, called = asked(target, **settings)
        monkeypatch.delenv(name, raising=False)
        assert (done.returncode, called) == (2, False), (target, name, done.stderr)
        assert f"no {name} is given; write it like {name}=" in done.stderr or f"({name}= is missing" in done.stderr
        assert not (tmp_path / ".settings.find").exists()


@pytest.mark.parametrize(("target", "name"), MISSING)
def test_a_missing_setting_is_refused_by_name(asked, target, name) -> None:
    done, called = asked(target, **{key: value for key, value in GOOD[target].items() if key != name})
    named = "root" if name == "release" else name
    if target == "estimate":
        assert (done.returncode, called) == (0, True), "release follows root"
        return
    assert (done.returncode, called) == (2, False), done.stderr
    assert f"no {named} is given; write it like {named}=" in done.stderr or f"({named}= is missing" in done.stderr


def test_what_is_given_goes_on(asked, tmp_path) -> None:
    for target, settings in GOOD.items():
        done, called = asked(target, **settings)
        assert (done.returncode, called) == (0, True), (target, done.stderr)
        (tmp_path / "called").unlink()


def test_a_make_below_a_make_has_no_empty_settings(tmp_path) -> None:
    """A recipe that runs make (the tests do) hands on what is set, and nothing that is not."""
    (tmp_path / "show.mk").write_text(f"include {REPOSITORY}/makefile\nshow:\n\t@env\n")
    command = ["make", "-s", "-f", "show.mk", "show", "bucket=s3://b", "endpoint="]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert found["bucket"] == "s3://b"
    assert not {"root", "release", "prefix", "to", "endpoint"} & set(found)


def test_a_forgotten_root_sends_nothing(make, s3: Server, bucket: str, tmp_path: Path, monkeypatch) -> None:
    s3.make_bucket(bucket)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    work = tmp_path / "work"
    (work / "notes").mkdir(parents=True)
    (work / "aws_keys_backup.txt").write_text("secret\n")
    (work / "notes" / "a.txt").write_text("a\n")
    before = walk(work)
    for targets in (("find.json", "batch.json"), ("upload",), ("find.json", "batch.json", "upload", "verify")):
        done = make(*targets, cwd=work, bucket=f"s3://{bucket}", endpoint=s3.endpoint)
        assert done.returncode == 2
        assert "no root is given; write it like root=/data" in done.stderr
    assert walk(work) == before
    assert not list((s3.directory / bucket).iterdir())


EMPTY = [
    (("find", ""), "no root is given"),
    (("find", " "), "no root is given"),
    (("batch", ""), "no root is given"),
    (("batch", "/data", "--upload-root", ""), "no root is given"),
    (("batch", "/data", "--subdir", ""), "--subdir is empty"),
    (("batch", "/data", "--file-tree", ""), "--file-tree is empty"),
    (("estimate", ""), "no root is given"),
    (("upload", "", "--bucket", "s3://b"), "no root is given"),
    (("upload", "/data", "--bucket", ""), "no bucket is given"),
    (("upload", "/data", "--bucket="), "no bucket is given"),
    (("upload", "/data", "--bucket", "s3://b", "--endpoint-url", ""), "no endpoint is given"),
    (("upload", "/data", "--bucket", "s3://b", "--remap", ""), "no remap is given"),
    (("verify", "", "--bucket", "s3://b"), "no root is given"),
    (("verify", "/data", "--bucket", "s3://b", "-o", ""), "-o/--output is empty"),
    (("restore", "--to", ""), "no place to restore to is given"),
    (("restore", "--to", "x", "--prefix", ""), "no prefix is given"),
    (("restore", "--to", "x", "--endpoint-url", ""), "no endpoint is given"),
    (("compress", "", "x", "--kind", "ephys"), "no source is given"),
    (("compress", "x", "", "--kind", "ephys"), "no dest is given"),
    (("jobs", "run", ""), "LIST is empty"),
    (("jobs", "run", "a.csv", "--bucket", ""), "no bucket is given"),
    (("mirror", "--store", "", "update"), "--store is empty"),
    (("report", "--index", ""), "--index is empty"),
    (("serve", "--home", ""), "--home is empty"),
]


@pytest.mark.parametrize(("arguments", "sentence"), EMPTY, ids=lambda value: " ".join(value)[:30])
def test_an_empty_argument_is_refused(capsys, tmp_path, monkeypatch, arguments, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Parser, "called_as", None)
    assert run_main(main, arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert list(tmp_path.iterdir()) == []


def test_no_word_of_any_argument_is_empty() -> None:
    """Whatever is added to a parser: lists, optional words, subcommands."""
    parser = Parser(prog="x")
    parser.add_argument("some", nargs="*")
    parser.add_argument("--maybe", nargs="?", const="all")
    parser.add_argument("--names", action="append", default=[])
    commands = Parser(prog="y")
    commands.add_subparsers(dest="verb").add_parser("go").add_argument("where")
    assert parser.parse_args(["--maybe"]).maybe == "all"
    assert commands.parse_args(["go", "there"]).where == "there"
    for words in (["a", ""], ["--maybe", ""], ["--names", "\t"], ["--", ""]):
        with pytest.raises(UsageError, match="is empty"):
            parser.parse_args(words)
    with pytest.raises(UsageError, match="where is empty"):
        commands.parse_args(["go", ""])


@pytest.mark.parametrize("script", ["find", "batch", "upload"])
def test_the_scripts_refuse_it_too(tmp_path, script) -> None:
    more = ["--bucket", "s3://b"] if script == "upload" else []
    command = [sys.executable, str(REPOSITORY / f"{script}.py"), "", *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "no root is given" in done.stderr


@pytest.mark.parametrize("script", ["find", "upload"])
def test_the_batch_scripts_refuse_it_too(tmp_path, script) -> None:
    environment = {**os.environ, "lading": str(REPOSITORY), "root": "", "bucket": "s3://b", "here": "1"}
    command = ["bash", str(REPOSITORY / "slurm" / f"{script}.sbatch")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "no root is given" in done.stderr


def test_a_root_that_nobody_means_needs_a_word(s3: Server, bucket: str, tmp_path: Path) -> None:
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"a": 10})
    inside = site.root / "work"
    inside.mkdir()
    for name in ("there", "other"):
        (tmp_path / name).symlink_to(site.root)
    find, upload = str(REPOSITORY / "find.py"), str(REPOSITORY / "upload.py")
    site.plan()
    plan = ["--bucket", site.place, "--batch", str(site.directory / "batch.json"), "--endpoint-url", site.endpoint]
    for root in (str(site.root), ".", "..", str(tmp_path / "there"), str(site.root) + "/"):
        for command in ([find, root], [upload, root, *plan]):
            done = subprocess.run([sys.executable, *command], cwd=inside, capture_output=True, text=True, check=False)
            assert done.returncode == 2, (command, done.stdout)
            if command[0] == find or "is not below ROOT" not in done.stderr:
                assert "contains the working directory" in done.stderr
                assert "--yes-root (make: yes_root=1)" in done.stderr
    for root in ("/", "//", "/.", "/tmp/.."):
        for command in ([find, root], [upload, root, *plan]):
            done = site.command(*command)
            assert done.returncode == 2
            assert "is the whole machine" in done.stderr
    assert not (site.directory / "journal").exists()
    assert list(inside.iterdir()) == []
    done = subprocess.run([sys.executable, find, "..", "--yes-root"], cwd=inside, capture_output=True, check=False)
    assert done.returncode == 0
    assert (inside / "find.json").exists()


def test_make_hands_the_word_on(asked, make, tmp_path) -> None:
    for target in ("find.json", "upload"):
        done = make("-o", "batch.json", target, print=1, yes_root=1, **GOOD[target])
        assert " --yes-root" in done.stdout, done.stderr
        assert " --yes-root" not in make(target, print=1, **GOOD[target]).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a config.mk of its own beside the makefile."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("makefile", "lading", "jobs", "find.py", "requirements.txt", "pyproject.toml"):
        (checkout / name).symlink_to(REPOSITORY / name)
    return checkout


def make_there(checkout: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    command = ["make", "--no-print-directory", "-f", str(checkout / "makefile"), f"venv={sys.prefix}", "here=1"]
    command += ["-o", f"{sys.prefix}/.ready", "-o", f"{sys.prefix}/.ready-mirror", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("assign", ["?=", "=", ":="])
@pytest.mark.parametrize(
    "name", ["root", "release", "bucket", "remap", "subdir", "prefix", "to", "jobs_csv", "find_flags", "upload_flags"]
)
def test_the_checkout_s_config_holds_no_release(checkout, tmp_path, name, assign) -> None:
    (checkout / "config.mk").write_text(f"workers ?= 5\n{name} {assign} /other\n")
    folder = tmp_path / "dr2"
    for target in ("find.json", "upload", "mirror"):
        settings = [f"{key}={value}" for key, value in GOOD.get(target, {}).items() if key != name]
        done = make_there(checkout, folder, target, "print=1", *settings)
        if f"no {name} is given" in done.stderr:
            continue  # the first of two sentences
        assert done.returncode == 2, done.stdout
        assert f"config.mk sets {name}, a setting of one release; move this to {folder}/config.mk" in done.stderr
    assert make_there(checkout, folder, "help").returncode == 0
    # In the checkout itself it is the release's own file.
    done = make_there(checkout, checkout, "upload", "print=1", "root=/data", "bucket=s3://b")
    assert done.returncode == 0, done.stderr


def test_site_settings_and_a_release_s_own_go_together(checkout, tmp_path) -> None:
    (checkout / "config.mk").write_text("workers ?= 5\nendpoint ?= http://site\nmax_workers ?= 7\n")
    folder = tmp_path / "dr2"
    folder.mkdir()
    (folder / "config.mk").write_text("root ?= /data\nbucket ?= s3://dr2\nmax_workers ?= 9\n")
    done = make_there(checkout, folder, "upload", "print=1")
    assert done.returncode == 0, done.stderr
    assert "/data --bucket s3://dr2" in done.stdout
    assert "--endpoint-url http://site" in done.stdout
    assert "--max-workers 9" in done.stdout


def test_each_setting_is_shown_with_its_origin(checkout, tmp_path, monkeypatch) -> None:
    (checkout / "config.mk").write_text("workers ?= 5\nrate = 2G\nremap = {}\n")
    folder = tmp_path / "dr2"
    folder.mkdir()
    (folder / "config.mk").write_text("root ?= /data/$x\nrelease ?= $(root)/dr1\nmax_batch = 5G\nmin_batch ?= 1G\n")
    monkeypatch.setenv("bucket", "s3://b$y")
    monkeypatch.setenv("max_batch", "7G")
    monkeypatch.setenv("min_batch", "7G")
    monkeypatch.setenv("endpoint", "http://user:secret@host")
    done = make_there(checkout, folder, "-s", "config", "json=1", "prefix=it's $z")
    assert done.returncode == 0, done.stderr
    found = {name: (one["value"], one["origin"]) for name, one in json.loads(done.stdout).items()}
    here, site = str(folder / "config.mk"), str(checkout / "config.mk")
    assert found["root"] == ("/data/$x", here)
    assert found["release"] == ("/data/$x/dr1", here)
    assert found["max_batch"] == ("5G", here)
    assert found["min_batch"] == ("7G", "environment")
    assert found["bucket"] == ("s3://b$y", "environment")
    assert found["prefix"] == ("it's $z", "command line")
    assert found["workers"] == ("5", site)
    assert found["rate"] == ("2G", site)
    assert found["remap"] == ("{}", f"{site} (refused: this setting belongs to one release, and that file is for all)")
    assert found["currency"] == ("USD", "default")
    assert "secret" not in done.stdout
    text = (REPOSITORY / "makefile").read_text().replace("\\\n", " ")
    assert set(found) == set(re.findall(r"^settings := (.*)$", text, re.MULTILINE)[0].split())


def test_lading_config_asks_make(tmp_path) -> None:
    (tmp_path / "config.mk").write_text("root ?= /data\n")
    command = [sys.executable, "-m", "lading", "config", "bucket=s3://b"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^root +/data  \[{tmp_path}/config.mk\]$", done.stdout, re.MULTILINE)
    assert re.search(r"^bucket +s3://b  \[command line\]$", done.stdout, re.MULTILINE)
    assert "config" in COMMANDS
    done = subprocess.run([*command, "nonsense"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 2
