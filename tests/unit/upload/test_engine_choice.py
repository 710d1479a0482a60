"""Which engine sends what: the default where it can, crt where it cannot, boto3 where both failed."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lading.core.errors import LadingError
from lading.objectstore.manner import Manner
from lading.objectstore.object_attributes import ObjectAttributes
from lading.objectstore.target import Target
from lading.upload import engine_choice
from lading.upload.engine_choice import build_engines, start_engine
from lading.upload.engines import s5cmd
from lading.upload.engines.base import Engine, UploadTask
from lading.upload.engines.crt import CrtEngine
from lading.upload.send_stage import EngineSet

TARGET = Target("bucket", "http://127.0.0.1:9", 4)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines whose process would have been started."""
    names: list[str] = []
    monkeypatch.setattr("lading.upload.engines.child_engine.ChildEngine.load", lambda self: names.append(self.name))
    return names


@pytest.fixture
def no_s5cmd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5cmd.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(s5cmd.shutil, "which", lambda name: None)
    monkeypatch.setattr(engine_choice, "is_there", lambda name: True)


def test_crt_takes_the_place_of_a_default_that_is_not_installed(
    no_s5cmd: None, begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = start_engine(None, TARGET)
    assert isinstance(engine, CrtEngine)
    assert begun == ["crt"]
    assert capsys.readouterr().err == "note: s5cmd is not installed, so crt sends the files\n"


def test_an_engine_that_was_named_and_is_not_installed_is_an_error(no_s5cmd: None, begun: list[str]) -> None:
    with pytest.raises(LadingError, match=r"^s5cmd is not installed; run: make setup$"):
        start_engine("s5cmd", TARGET)
    assert begun == []


def test_crt_sends_what_the_default_cannot(begun: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    engine = start_engine(None, replace(TARGET, manner=Manner(checksum="SHA256")))
    assert isinstance(engine, CrtEngine)
    said = "note: s5cmd cannot send --checksum-algorithm=SHA256, so crt sends the files\n"
    assert capsys.readouterr().err == said


def test_boto3_sends_where_there_is_no_awscrt(
    no_s5cmd: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_choice, "is_there", lambda name: False)
    assert start_engine(None, TARGET) is None
    assert capsys.readouterr().err == "note: s5cmd is not installed, so the slower boto3 sends the files\n"


def engine_named(name: str, refuses: str = "") -> Engine:
    def accepts(task: UploadTask) -> str | None:
        return "not that one" if refuses and refuses in task.key else None

    return cast(Engine, SimpleNamespace(name=name, accepts=accepts))


@pytest.mark.parametrize(
    ("key", "attempts", "name"),
    [("plain", 0, "s5cmd"), ("odd", 0, "crt"), ("odd odder", 0, "boto3"), ("plain", 2, "boto3"), ("odd", 2, "boto3")],
)
def test_the_second_takes_what_the_first_cannot_and_the_last_what_failed(key: str, attempts: int, name: str) -> None:
    engines = EngineSet(engine_named("s5cmd", "odd"), engine_named("crt", "odder"), last=engine_named("boto3"))
    assert engines.choose(UploadTask("/x", key, 1, 1), attempts).name == name
    assert [engine.name for engine in engines.all()] == ["s5cmd", "crt", "boto3"]


def test_the_engines_of_a_run(begun: list[str], tmp_path: Path) -> None:
    first = start_engine(None, TARGET)
    store: Any = SimpleNamespace()
    engines = build_engines(first, TARGET, store, tmp_path, 10**9)
    assert [engine.name for engine in engines.all()] == ["s5cmd", "crt", "multipart", "boto3"]
    assert begun == [], "crt begins with the first file that needs it"
    tagged = UploadTask("/x", "k", 1, 1, attributes=ObjectAttributes(tags=(("a", "b"),)))
    assert engines.choose(tagged, 0).name == "crt"
    for name, others in (("crt", ["boto3"]), ("boto3", ["boto3"])):
        engines = build_engines(start_engine(name, TARGET), TARGET, store, tmp_path, 10**9)
        assert (engines.first.name, engines.second.name, engines.last) == (name, *others, None)
