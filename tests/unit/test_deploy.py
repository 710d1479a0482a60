"""The recipes of deploy/: their syntax, and what they do with the exit codes of lading."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lading.cli.reference_pages import parser_of
from lading.core.yaml_file import read_yaml
from tests.conftest import REPOSITORY, need_program

DEPLOY = REPOSITORY / "deploy"


def test_each_recipe_is_named_on_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").rglob("*.md"))
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert f"deploy/{path.relative_to(DEPLOY)}" in pages, path.name


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a night of a release whose stages end with these codes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text(
        "#!/bin/sh\n"
        'for word; do case "$word" in upload|verify) target=$word;; max_time=*) time=$word;; esac; done\n'
        'echo "$target $time" >> "$CALLS"\n'
        'printf "sh -c %s\\n" "\'cat $SAYS.$target; exit $(cat $SAYS.$target.code)\'"\n'
    )
    (programs / "make").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SAYS", str(tmp_path / "says"))
    release = tmp_path / "dr1"
    release.mkdir()

    def call(upload: int, said: str = "next: make verify", verify: int = 0) -> "subprocess.CompletedProcess[str]":
        for name, code, text in (("upload", upload, said), ("verify", verify, "verify  said")):
            (tmp_path / f"says.{name}").write_text(text + "\n")
            (tmp_path / f"says.{name}.code").write_text(str(code))
        (tmp_path / "calls").write_text("")
        command = [str(DEPLOY / "cron" / "nightly.sh"), str(release)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return call


def test_a_good_night_is_silent_and_verifies_once_nothing_is_left(night: Any, tmp_path: Path) -> None:
    done = night(0, "next: make upload")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "calls").read_text() == "upload max_time=8h\n"
    done = night(0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "calls").read_text() == "upload max_time=8h\nverify \n"


@pytest.mark.parametrize("code", [1, 2, 3, 4, 70, 130])
def test_a_failed_night_says_so_with_the_code_of_lading(night: Any, code: int, tmp_path: Path) -> None:
    done = night(code, "3 objects failed")
    assert done.returncode == code
    assert f"ended with {code}" in done.stdout
    assert "3 objects failed" in done.stdout
    assert "verify" not in (tmp_path / "calls").read_text()


def test_a_difference_that_verify_found_is_said(night: Any) -> None:
    done = night(0, verify=4)
    assert done.returncode == 4
    assert "verify  said" in done.stdout


def test_a_run_that_is_still_at_work_is_said_on_the_fourth_night(night: Any) -> None:
    assert [(night(75, "busy").stdout == "") for _ in range(4)] == [True, True, True, False]
    assert night(0).stdout == ""
    assert night(75, "busy").stdout == ""


def test_lines_of_the_scrontab() -> None:
    """Each entry has its #SCRON lines just above it, with what NERSC demands."""
    lines = (DEPLOY / "nersc" / "scrontab").read_text().splitlines()
    entries = [number for number, line in enumerate(lines) if re.match(r"[\d*]", line)]
    assert len(entries) == 3
    for number in entries:
        assert re.match(r"(?:[\d*/,-]+ ){5}\S", lines[number])
        flags = lines[number - 2] + lines[number - 1]
        assert lines[number - 1].startswith("#SCRON ")
        assert all(f"--{name}=" in flags for name in ("account", "qos", "constraint", "licenses", "time", "output"))
        command = lines[number].split(" ", 5)[5]
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


class Skip(Exception):
    pass


class Again(Exception):
    pass


class Fail(Exception):
    pass


def load(name: str, monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> tuple[Any, list[str]]:
    """Import a DAG file over stand-ins of Airflow's names; returns it and the tasks that it made, in order."""
    made: list[str] = []

    def task(function: Any = None, **more: Any) -> Any:
        if function is None:
            return lambda function: task(function)

        def wired(*arguments: Any) -> Any:
            made.append(function.__name__)
            return Node()

        tasks[function.__name__] = function
        return wired

    class Node:
        def __rshift__(self, other: Any) -> Any:
            return other

    tasks: dict[str, Any] = {}
    sdk = types.ModuleType("airflow.sdk")
    sdk.task, sdk.dag = task, lambda **more: lambda function: function  # type: ignore[attr-defined]
    sdk.Variable = types.SimpleNamespace(get=values.__getitem__)  # type: ignore[attr-defined]
    exceptions = types.ModuleType("airflow.exceptions")
    exceptions.AirflowException, exceptions.AirflowFailException = Again, Fail  # type: ignore[attr-defined]
    exceptions.AirflowSkipException = Skip  # type: ignore[attr-defined]
    for key, module in (
        ("airflow", types.ModuleType("airflow")),
        ("airflow.sdk", sdk),
        ("airflow.exceptions", exceptions),
    ):
        monkeypatch.setitem(sys.modules, key, module)
    spec = importlib.util.spec_from_file_location(name, DEPLOY / "airflow" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.tasks = tasks  # type: ignore[attr-defined]
    return module, made


@pytest.mark.parametrize(
    ("code", "raised"), [(0, None), (3, Again), (75, Skip), (4, Fail), (1, Fail), (2, Fail), (70, Fail)]
)
def test_airflow_learns_what_an_exit_code_means(
    code: int, raised: type[Exception] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "lading"
    program.write_text(f'#!/bin/sh\necho "$@" >> calls\nexit {code}\n')
    program.chmod(0o755)
    names = ("lading_root", "lading_release", "lading_bucket")
    values = {"lading_command": str(program), "lading_folder": str(tmp_path), **{name: name for name in names}}
    module, made = load("lading_release", monkeypatch, values)
    assert made == ["crawl", "plan", "upload", "verify"]
    for name in made:
        if raised is None:
            module.tasks[name]()
        else:
            with pytest.raises(raised):
                module.tasks[name]()
    for line in (tmp_path / "calls").read_text().splitlines():
        name, *words = line.split()
        parser_of(name, words).parse_args(words)


def test_airflow_submits_a_list_and_fails_for_a_failed_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.csv").write_text("subject_id\n1\n")
    values = {"lading_portal": "http://portal", "lading_token": "t", "lading_list": str(tmp_path / "list.csv")}
    module, made = load("lading_sessions", monkeypatch, values)
    assert made == ["submit", "wait"]
    asked = []
    states = iter(["queued", "success", "failed"])

    def ask(path: str, body: bytes | None = None, kind: str = "") -> dict[str, Any]:
        asked.append(path)
        if body is not None:
            assert b"subject_id\n1\n" in body
            return {"dag_run_ids": ["a", "b"]}
        return {"job_status_list": [{"name": path[-1], "job_state": next(states)}]}

    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    ids = module.tasks["submit"]()
    with pytest.raises(Fail, match="b failed"):
        module.tasks["wait"](ids)
    assert asked[0] == "/api/v2/submit_csv"


def test_sections_of_the_image_parse() -> None:
    text = (DEPLOY / "apptainer" / "lading.def").read_text()
    assert text.startswith("Bootstrap: docker\nFrom: python:3.12")
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == {"files", "post", "environment", "test", "runscript"}
    for name in ("post", "environment", "test", "runscript"):
        assert subprocess.run(["sh", "-n", "-c", sections[name]], check=False).returncode == 0, name
    code = re.search(r"<< 'END' > \S+\n(.*?)^END", sections["post"], re.MULTILINE | re.DOTALL)
    assert code is not None
    lines = subprocess.run([sys.executable, "-c", code[1]], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "boto3==" in lines.stdout
    assert "mkdocs" not in lines.stdout


def test_the_modulefile_sets_what_it_says() -> None:
    need_program("tclsh")
    commands = "".join(
        f"proc {name} args {{ puts [list {name} {{*}}$args] }}\n"
        for name in ("module-whatis", "conflict", "setenv", "prepend-path", "set-alias")
    )
    text = (DEPLOY / "modules" / "lading").read_text()
    done = subprocess.run(["tclsh"], input=f"{commands}{text}", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "setenv venv /path/to/lading/.venv\n" in done.stdout
    assert "prepend-path PYTHONPATH /path/to/lading\n" in done.stdout


def test_dashboard_and_alarms_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    from lading.portal.fleet_watch import job_families
    from lading.portal.service import PortalService
    from lading.portal.store import JobStore
    from lading.report.fleet import FleetStatus
    from lading.report.metrics import fleet_families

    service = PortalService(JobStore(tmp_path / "jobs.sqlite"), tmp_path)
    known = {family.name for family in (*fleet_families(FleetStatus((), 0.0)), *job_families(service))}
    dashboard = json.loads((DEPLOY / "grafana" / "lading.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    rules = read_yaml(DEPLOY / "prometheus" / "lading.rules.yml").value
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    names = {name for text in asked for name in re.findall(r"\blading_\w+", text)}
    assert len(names) > 10
    assert names <= known
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
