"""The benchmarks where a peer is absent, of which a line says so; and their figures as one table."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import peers
from benchmarks.__main__ import main
from benchmarks.figures import Better, Figure
from benchmarks.results import collect, encode, is_steady, read_results, table
from lading.core.errors import UsageError
from tests.conftest import REPOSITORY, mostly_long


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

    for part in (latency, ranks, large):
        part(tmp_path)
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
    from benchmarks.report.__main__ import main as report

    monkeypatch.setattr(sys, "argv", ["benchmarks.report", "--entries", "2000", "--flat", "100"])
    monkeypatch.setattr(peers, "find", lambda name: None)
    report()
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    monkeypatch.delitem(sys.modules, "tests.browser", raising=False)
    report()
    said = capsys.readouterr().out
    assert "chromium: not here" in said
    assert "a browser: not here (playwright.sync_api is not installed" in said
    assert said.count("read find.json") == 2


def test_registration_without_git_annex(
    alone: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.mirror.__main__ import main as mirror

    monkeypatch.setattr(sys, "argv", ["benchmarks.mirror"])
    mirror()
    assert capsys.readouterr().out.startswith("git-annex: not here")


def test_a_plan_without_fpart(alone: None, tmp_path: Path) -> None:
    from benchmarks.batch.__main__ import fpart

    assert fpart(tmp_path, 1) == (0, 0, 0.0)


def figure(name: str, value: float, unit: str = "ratio", better: Better = "less", load: float = 1.0) -> Figure:
    return Figure("crawl", name, value, unit, better, load)


def test_figures_become_one_table() -> None:
    rounds = [[figure("a", 0.9), figure("b", 200, "MB/s", "more", 3.5)], [figure("a", 1.0), figure("b", 220, "MB/s")]]
    results = collect(rounds)
    assert [(one.name, one.values, one.unit, one.better) for one in results] == [
        ("a", (0.9, 1.0), "ratio", "less"),
        ("b", (200.0, 220.0), "MB/s", "more"),
    ]
    assert results[0].median == pytest.approx(0.95)
    assert results[0].spread == pytest.approx(0.1 / 0.95)
    assert not is_steady(results, 0.05)
    assert is_steady(results, 0.2), "a rate that differs as much is not waited for"
    assert not is_steady(collect(rounds[:1]), 1.0), "one round says nothing of a spread"
    lines = list(table(results))
    assert lines[1].split() == ["crawl", "a", "0.95", "ratio", "11%", "2", "1.0"]
    assert lines[2].split() == ["crawl", "b", "210", "MB/s", "10%", "2", "1.0–3.5"]


def test_two_outliers_of_five_rounds_do_not_count() -> None:
    result = collect([[figure("a", value)] for value in (1.0, 1.01, 3.0, 0.1, 0.99)])[0]
    assert result.median == 1.0
    assert result.spread == pytest.approx(0.02)


def test_results_are_written_read_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, *figures: Figure) -> str:
        path = tmp_path / name
        path.write_text(encode(collect([figures, figures]), "2026-11-28T00:00:00Z", "2026-11-28T01:00:00Z"))
        return str(path)

    before = write(
        "a.json", figure("less", 1.0), figure("same", 1.0), figure("more", 100, "MB/s", "more"), figure("x", 1)
    )
    after = write(
        "b.json", figure("less", 0.8), figure("same", 1.02), figure("more", 80, "MB/s", "more"), figure("y", 2)
    )
    assert read_results(Path(before)).results == tuple(collect([[figure("less", 1.0), figure("same", 1.0),
        figure("more", 100, "MB/s", "more"), figure("x", 1)]] * 2))  # fmt: skip
    assert main(["compare", before, after]) == 0
    lines = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines["less"][2:] == ["1", "0.8", "ratio", "-20%", "0%,", "0%", "better"]
    assert lines["same"][-1] == "0%", "2 % are noise"
    assert lines["more"][-1] == "worse"
    assert lines["x"][2:] == ["1", "–", "ratio"]
    assert lines["y"][2:] == ["–", "2", "ratio"]
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(UsageError, match="holds no results of python -m benchmarks"):
        main(["compare", before, str(other)])
    with pytest.raises(UsageError, match="cannot be read"):
        main(["compare", before, str(tmp_path / "none")])
    assert main(["compare", before]) == 2
    assert main(["nonesuch:warm"]) == 2


def test_rounds_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated while the ratios differ, as often as was asked for; a failure gives no figure and is the exit code."""
    import benchmarks.__main__ as runner

    values = iter([1.0, 2.0, 1.0, 1.01, 5.0, 6.0])
    rounds: list[tuple[str, tuple[str, ...]]] = []

    def run_round(name: str, words: list[str], scratch: Path) -> tuple[int, list[Figure]]:
        rounds.append((name, tuple(words)))
        return (3, []) if name == "batch" else (0, [figure("a", next(values))])

    monkeypatch.setattr(runner, "run_round", run_round)
    out = tmp_path / "out.json"
    assert main(["crawl:warm:x", "--rounds", "2", "--json", str(out)]) == 0
    assert rounds == [("crawl", ("warm", "x"))] * 2
    assert read_results(out).results[0].values == (1.0, 2.0)
    assert main(["crawl", "batch", "--rounds", "9", "--json", str(out)]) == 3
    assert len(rounds) == 5, "steady after two, and one failure"
    assert main(["crawl", "--rounds", "9", "--minutes", "0"]) == 0
    assert len(rounds) == 6, "another one would end too late"


@pytest.mark.long
def test_a_benchmark_notes_its_ratios(tmp_path: Path) -> None:
    """Tiny sizes: the table of the crawl, with the ratios of the documents, as a file."""
    out = tmp_path / "out.json"
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "crawl:warm", "--rounds", "1", "--json", str(out)],
        env=os.environ | {"LADING_BENCH_FILES": "1000", "LADING_BENCH_ROUNDS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert result.returncode == 0, result.stderr
    found = {one.name: one for one in read_results(out).results}
    for name in ("core, 2 threads", "core, 2 ranks", "Python walk", "du --apparent-size"):
        assert found[f"warm, {name}: CPU of find"].values[0] > 0
    assert found["warm, two ranks: CPU of two threads"].unit == "ratio"
    assert "warm, core, 32 threads: wall of find" in result.stdout.split("\nbench ")[1]


BENCHMARKS = sorted(path.parent.name for path in (REPOSITORY / "benchmarks").glob("*/__main__.py"))


@pytest.mark.parametrize("name", mostly_long(BENCHMARKS, "crawl", "scale"))
def test_each_benchmark_tells_its_words_and_refuses_others(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    told = subprocess.run([*command, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("usage: ")
    refused = subprocess.run([*command, "nonsense"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "nonsense" in refused.stderr.splitlines()[-1] or "invalid" in refused.stderr
    assert "Traceback" not in refused.stderr
