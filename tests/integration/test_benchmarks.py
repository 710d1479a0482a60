"""The benchmarks where a peer is absent: a line says so, and the rest is measured."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import peers
from lading.core.errors import UsageError


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program of others is here."""
    monkeypatch.setattr(peers, "find", lambda name: None)


def test_an_upload_without_rclone(alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.upload.__main__ import SETS, contestants

    server = SimpleNamespace(endpoint="http://127.0.0.1:1")
    table = contestants(tmp_path, tmp_path, server, SETS["small"])
    assert "rclone copy" not in table
    assert {"s5cmd cp", "ours, s5cmd, proven", "one s5cmd sync per batch"} <= set(table)
    assert capsys.readouterr().out == "rclone copy: not here\n"


def test_servers_that_have_to_be_compiled(alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.crawl.__main__ import latency, ranks
    from benchmarks.crawl.large import large
    from benchmarks.upload.__main__ import SETS, compare, idle

    for table in (latency, ranks, large):
        table(tmp_path)
    compare(SETS["small"], tmp_path, 1, "sink")
    idle(tmp_path, 10)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(line.endswith("not here (no C compiler)") for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_codec_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.compress import ephys

    def refuse(*_: object) -> None:
        raise UsageError("wavpack-numcodecs is not installed")

    monkeypatch.setattr(ephys, "NAMES", ("wavpack",))
    monkeypatch.setattr(ephys, "make_codec", refuse)
    monkeypatch.setattr(ephys, "tune_malloc", lambda: None)  # it would stay for the other tests
    ephys.compare_codecs(tmp_path)
    lines = capsys.readouterr().out.splitlines()[3:]
    assert len(lines) == len(ephys.KINDS)
    assert all("wavpack: not here" in line for line in lines)


def test_pages_without_a_browser(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.report.__main__ import main

    monkeypatch.setattr(sys, "argv", ["benchmarks.report", "--entries", "2000", "--flat", "100"])
    monkeypatch.setattr(peers, "find", lambda name: None)
    main()
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    monkeypatch.delitem(sys.modules, "tests.browser", raising=False)
    main()
    said = capsys.readouterr().out
    assert "chromium: not here" in said
    assert "a browser: not here (playwright.sync_api is not installed" in said
    assert said.count("read find.json") == 2


def test_registration_without_git_annex(
    alone: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.mirror.__main__ import main

    monkeypatch.setattr(sys, "argv", ["benchmarks.mirror"])
    main()
    assert capsys.readouterr().out.startswith("git-annex: not here")


def test_a_plan_without_fpart(alone: None, tmp_path: Path) -> None:
    from benchmarks.batch.__main__ import fpart

    assert fpart(tmp_path, 1) == (0, 0, 0.0)
