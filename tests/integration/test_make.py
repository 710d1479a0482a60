"""The makefile: help, precedence of settings, what rebuilds what, and quoting."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FIXED_TARGETS = (
    *("find.json", "batch.json", "upload", "verify", "restore", "compress", "jobs", "mirror", "status", "report"),
    *("serve", "estimate", "demo", "test", "test-long", "check", "bench", "setup", "clean"),
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    release = tmp_path / "data" / "dr1"
    release.mkdir(parents=True)
    (release / "a").write_bytes(b"12345")
    return release


def listed(output: str) -> set[str]:
    return set(re.findall(r"^  make (\S+)", output, re.MULTILINE))


def test_plain_make_is_help(make) -> None:
    result = make()
    assert result.returncode == 0
    assert listed(result.stdout) >= set(FIXED_TARGETS)
    assert make("help").stdout == result.stdout


def test_every_target_has_a_recipe() -> None:
    text = (REPOSITORY / "makefile").read_text()
    for target in FIXED_TARGETS:
        assert re.search(rf"^{re.escape(target)}:.*## ", text, re.MULTILINE), target


def test_upload_says_what_is_missing_and_never_crawls(make, release, tmp_path) -> None:
    result = make("upload", root=release.parent, release=release, bucket="s3://bucket")
    assert result.returncode == 2
    assert "make batch.json" in result.stderr
    assert not (tmp_path / "find.json").exists()
    assert not (tmp_path / "batch.json").exists()


def test_a_setting_crawls_again_and_nothing_else_does(make, release, tmp_path) -> None:
    tree = tmp_path / "find.json"
    assert make("find.json", release=release).returncode == 0
    first = tree.stat().st_mtime_ns
    time.sleep(0.02)
    assert make("find.json", release=release).returncode == 0
    assert tree.stat().st_mtime_ns == first
    # Another bound cuts again, but does not crawl again.
    assert make("batch.json", release=release).returncode == 0
    plan = (tmp_path / "batch.json").stat().st_mtime_ns
    time.sleep(0.02)
    assert make("batch.json", release=release, max_batch="2T").returncode == 0
    assert (tmp_path / "batch.json").stat().st_mtime_ns > plan
    assert tree.stat().st_mtime_ns == first
    other = release.parent / "dr2"
    other.mkdir()
    assert make("find.json", release=other).returncode == 0
    assert tree.read_text() == '["dr2",0,0]\n'


def test_since_crawls_again_whoever_asks_for_the_tree(make, release, tmp_path) -> None:
    """The first time there is nothing to begin with; a later target makes no new tree of itself."""
    result = make("find.json", f"root={release}", "since=find.json")
    assert result.returncode == 0, result.stderr
    assert "find.json does not exist yet" in result.stderr
    (release / "new").mkdir()
    (release / "new" / "file").write_bytes(b"x" * 33)
    result = make("find.json", f"root={release}", "since=find.json")
    assert "have not changed since" in result.stdout, result.stderr
    assert b'["new",0,33,["file",1,33]]' in (tmp_path / "find.json").read_bytes()
    before = (tmp_path / "find.json").stat().st_mtime_ns
    assert make("batch.json", f"root={release}", "since=find.json").returncode == 0
    assert (tmp_path / "find.json").stat().st_mtime_ns == before


def test_a_tree_that_lacks_something_is_kept(make, release, tmp_path) -> None:
    """find.py ends with 3 when it could not read all: make says so, the tree stays and can be cut."""
    partly = tmp_path / "python"
    partly.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit 3\n')
    partly.chmod(0o755)
    result = make("find.json", release=release, python=partly)
    assert result.returncode == 2
    assert "Error 3" in result.stderr
    assert (tmp_path / "find.json").read_text().startswith('["dr1"')
    assert make("batch.json", release=release).returncode == 0


def test_several_subdirectories_are_the_plan_and_nothing_else(make, release, tmp_path) -> None:
    for name in ("b", "c", "d"):
        (release / name).mkdir()
        (release / name / "f").write_bytes(b"123")

    def count(**settings: object) -> int:
        result = make("batch.json", release=release, **settings)
        assert result.returncode == 0, result.stderr
        return sum(batch["files"] for batch in json.loads((tmp_path / "batch.json").read_text())["batches"])

    assert count() == 4
    assert count(batch_flags="--subdir b --subdir c") == 2
    assert count(batch_flags="--subdir b", subdir="d") == 2
    assert count(subdir="c") == 1


@pytest.mark.parametrize("targets", [("upload", "verify"), ("batch.json", "estimate")])
def test_stages_follow_one_another_with_j_too(make, release, tmp_path, targets) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\necho begin >> order\nsleep 0.5\necho end >> order\n")
    slow.chmod(0o755)
    (tmp_path / "find.json").touch()
    result = make("-j", "-o", "find.json", *targets, python=slow, release=release, root=release, bucket="s3://bucket")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "order").read_text().split() == ["begin", "end"] * 2


def test_the_mirror_does_other_verbs(make, tmp_path) -> None:
    result = make("mirror", verb="zarr-checksum", verb_flags="store.zarr")
    assert result.returncode == 2
    assert "manifest.jsonl.zst" in result.stderr
    assert "usage" not in result.stderr


def test_command_line_beats_environment_beats_config(tmp_path, monkeypatch) -> None:
    (tmp_path / "config.mk").write_text("bucket ?= s3://from-config\nrelease ?= /from-config\n")

    def value(name: str, *arguments: str) -> str:
        (tmp_path / "show.mk").write_text(f'include {REPOSITORY}/makefile\nshow:\n\t@printf %s "$${name}"\n')
        command = ["make", "-s", "-f", "show.mk", "show", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert value("bucket") == "s3://from-config"
    monkeypatch.setenv("bucket", "s3://from-environment")
    assert value("bucket") == "s3://from-environment"
    assert value("bucket", "bucket=s3://from-command") == "s3://from-command"


def note_arguments(path: Path) -> Path:
    """Write a program in place of Python that prints its arguments, one a line."""
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


DOLLARS = "/x/do$lar/$(shell touch pwn)/$$y/${lar}/`touch pwn`/$(eval bucket := no)"


@pytest.mark.parametrize("source", ["command", "environment", "?=", "=", ":="])
def test_a_dollar_is_a_character(make, tmp_path, monkeypatch, source) -> None:
    """In a setting from every source, in flags too; nothing of it is run by make or by the shell."""
    flags = "--exclude '*$(touch pwn).tmp' --exclude \"it's $HOME `touch pwn`\" --exclude \\\\$x"
    settings = {"root": DOLLARS, "find_flags": flags}
    if source == "environment":
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
    elif source != "command":
        lines = [f"{name} {source} {value}\n" for name, value in settings.items()]
        (tmp_path / "config.mk").write_text("".join(lines))
    given = settings if source == "command" else {}
    done = make("find.json", python=note_arguments(tmp_path / "python"), **given)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    start = said.index("find")
    assert said[start + 1] == DOLLARS  # release follows root
    found = [word for before, word in itertools.pairwise(said) if before == "--exclude"]
    assert found == ["*$(touch pwn).tmp", "it's $HOME `touch pwn`", "\\$x"]
    assert not (tmp_path / "pwn").exists()
    assert (tmp_path / ".settings.find").read_text() == f"{DOLLARS}\n{flags}\n"


def test_config_may_name_what_is_set(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/some$where")
    text = "# $(shell touch pwn)\nroot ?= $(SOMEWHERE)/a\nrelease := ${root}/$(dr1)\nbucket = s3://$(undefined)\n"
    (tmp_path / "config.mk").write_text(text)
    done = make("upload", python=note_arguments(tmp_path / "python"))
    said = done.stdout.splitlines()
    assert "/some$where/a" in said
    assert "s3://$(undefined)" in said
    assert "/some$where/a/$(dr1)" in make("find.json", python=tmp_path / "python").stdout.splitlines()
    assert not (tmp_path / "pwn").exists()


def test_flags_with_an_open_quote_are_refused(make, release, tmp_path) -> None:
    done = make("find.json", release=release, find_flags="--exclude 'open")
    assert done.returncode == 2
    assert "error: find_flags=--exclude 'open: no closing quotation" in done.stderr
    assert not (tmp_path / "find.json").exists()


def test_every_exported_setting_is_taken_as_it_is() -> None:
    text = (REPOSITORY / "makefile").read_text().replace("\\\n", " ")
    known = set(re.findall(r"^settings := (.*)$", text, re.MULTILINE)[0].split())
    exported = set(re.sub(r"^(?!export [a-z]).*$|^export", "", text, flags=re.MULTILINE).split())
    defaults = set(re.findall(r"^([a-z_]+) +\?=", text, re.MULTILINE))
    assert exported | defaults <= known


@pytest.mark.parametrize("name", ["a b", " a", "tab\there", "a b/c d"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_checkout_below_a_space_says_so(tmp_path, name, inside) -> None:
    """One sentence, called from elsewhere or from the checkout itself."""
    checkout = tmp_path / name / "lading"
    (checkout / "lading").mkdir(parents=True)
    (checkout / "lading/environment.py").touch()
    shutil.copy(REPOSITORY / "makefile", checkout)
    command = ["make"] if inside else ["make", "-f", str(checkout / "makefile")]
    result = subprocess.run(
        [*command, "-n", "status"], cwd=checkout if inside else tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "the path of this checkout holds a space" in result.stderr
    assert "move the checkout to a path of" in result.stderr


def test_an_environment_below_a_space_says_so(tmp_path) -> None:
    command = ["make", "-f", str(REPOSITORY / "makefile"), "-n", "status", f"venv={tmp_path}/a b"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "cannot read a path with a space" in result.stderr


@pytest.mark.parametrize("name", ["it's", 'say "hi"', "a b", "$HOME", "`id`", "; touch pwned", "-o"])
def test_a_setting_is_never_a_command(make, tmp_path, name) -> None:
    release = tmp_path / name
    release.mkdir()
    (release / "f").write_bytes(b"1")
    result = make("find.json", release=release)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "find.json").exists()
    assert not (tmp_path / "pwned").exists()
