"""Alarms: each trouble once, nothing secret, whatever the notifiers do."""

import time
from pathlib import Path

import pytest

from lading.fleet import alarms
from lading.fleet.alarms import AlarmState, FleetAlarms, digest_due, find_events, heed_now, read_alarms
from lading.fleet.notifiers import notify, ping, redact, resolve_address
from lading.report.fleet import FAILED, LATE, WELL, FleetProblem, FleetRow, FleetStatus
from lading.report.release_list import FleetFile, FleetSettings, ReleaseEntry

NOW = time.mktime((2026, 11, 25, 12, 0, 0, 0, 0, -1))  # a Wednesday
WEEK = 7 * 86400.0


def row(name: str, *problems: FleetProblem) -> FleetRow:
    state = problems[0].kind if problems else WELL
    return FleetRow(name, f"/releases/{name}", f"s3://lab/{name}/", state, "upload", problems=problems)


def failed(sentence: str = "no", code: int = 1) -> FleetProblem:
    return FleetProblem(FAILED, "upload", sentence, NOW, code)


def test_each_trouble_is_told_once_and_its_end() -> None:
    events, told = find_events([row("a", failed()), row("b")], AlarmState())
    assert [event.title for event in events] == ["a failed"]
    events, again = find_events([row("a", failed("other words"))], AlarmState(told))
    assert events == []
    events, _ = find_events([row("a", failed(code=4))], AlarmState(again))
    assert len(events) == 1  # it changed
    late = FleetProblem(LATE, "upload", "late")
    events, told = find_events([row("a", failed(), late)], AlarmState(again))
    assert [found.kind for found in events[0].problems] == [LATE]
    events, told = find_events([row("a")], AlarmState(told))
    assert [event.title for event in events] == ["a works again"]
    assert told == {}


@pytest.mark.parametrize(
    ("last", "due"), [(None, False), (NOW - WEEK - 3 * 86400, True), (NOW - 86400, False), (NOW - 2.5 * 86400, True)]
)
def test_the_digest_goes_out_once_a_week(last: float | None, due: bool) -> None:
    settings = FleetSettings(Path("l"), Path("h"), FleetFile(digest="mon 08:00"))
    assert digest_due(settings, last, NOW) is due
    assert not digest_due(FleetSettings(Path("l"), Path("h")), last, NOW)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], str, str]]:
    messages: list[tuple[tuple[str, ...], str, str]] = []

    def take(addresses, title, text):  # type: ignore[no-untyped-def]
        messages.append((tuple(addresses), title, text))
        return ["notifier 1 did not answer in time"] if "dead" in addresses[0] else []

    monkeypatch.setattr(alarms, "notify", take)
    return messages


def settings_of(home: Path, own: dict[str, list[str]], **shared: object) -> FleetSettings:
    entries = tuple(
        ReleaseEntry.model_validate({"name": name, "folder": f"/{name}", "stages": [], "notify": addresses})
        for name, addresses in own.items()
    )
    return FleetSettings(home / "l.yaml", home, FleetFile.model_validate(shared), entries)


def test_who_is_told_of_what(tmp_path: Path, sent) -> None:
    settings = settings_of(tmp_path, {"a": ["own"], "b": []}, notify=["all"])
    notes: list[str] = []
    FleetAlarms(settings, notes.append).tell([row("a", failed()), row("b", failed())], NOW)
    assert [(addresses, title) for addresses, title, _ in sent] == [
        (("all",), "lading: 2 releases: 2 need attention"),
        (("own",), "lading: a failed"),
    ]
    assert set(read_alarms(tmp_path).told) == {"a", "b"}
    assert notes == []


def test_what_nobody_took_is_told_by_the_next_run(tmp_path: Path, sent) -> None:
    settings = settings_of(tmp_path, {"a": []}, notify=["dead"])
    notes: list[str] = []
    teller = FleetAlarms(settings, notes.append)
    teller.tell([row("a", failed())], NOW)
    teller.tell([row("a", failed())], NOW)
    assert len(sent) == 1  # one attempt a run
    assert notes == ["notifier 1 did not answer in time"]
    assert read_alarms(tmp_path).told == {"a": ()} or read_alarms(tmp_path).told == {}
    FleetAlarms(settings_of(tmp_path, {"a": []}, notify=["alive"]), notes.append).tell([row("a", failed())], NOW)
    assert [addresses for addresses, *_ in sent] == [("dead",), ("alive",)]


def test_the_digest(tmp_path: Path, sent) -> None:
    settings = settings_of(tmp_path, {}, notify=["all"], digest="mon 08:00")
    status = FleetStatus((row("a", failed("first line\nsecond")), row("b")), NOW)
    FleetAlarms(settings, print).tell([], NOW - WEEK, whole=status)
    assert sent == []  # the first one goes out at its next time
    FleetAlarms(settings, print).tell([], NOW, whole=status)
    assert [title for _, title, _ in sent] == ["lading: 2 releases this week: 1 failed, 1 well"]
    assert "a: failed: first line" in sent[0][2]
    assert read_alarms(tmp_path).seen == {"a": NOW - WEEK, "b": NOW - WEEK}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://user:pw@host/x", "https://…@host/x"),
        ("GET https://h/k?X-Amz-Signature=abc&y=1 failed", "GET https://h/k?… failed"),
        ("key AKIAIOSFODNN7EXAMPLE is unknown", "key … is unknown"),
        ("Authorization: Bearer-abc", "Authorization: …"),
        ("plain words, 3 objects", "plain words, 3 objects"),
    ],
)
def test_nothing_secret_is_sent(text: str, left: str) -> None:
    assert redact(text) == left
    assert redact("see slack://tok/en", ["slack://tok/en"]) == "see …"


def test_addresses_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "address").write_text("json://h/T0ken\n")
    monkeypatch.setenv("LAB", "mailto://x")
    assert resolve_address(f"file:{tmp_path}/address") == "json://h/T0ken"
    assert resolve_address("env:LAB") == "mailto://x"
    assert resolve_address("mailto://y") == "mailto://y"
    assert notify(["env:NOWHERE"], "t", "x") == [
        "notifier 1: the variable NOWHERE is not set; the message was not sent there"
    ]
    assert ping("file:///etc/passwd") == ["the ping URL does not begin with http:// or https://"]


def test_times_that_are_still_to_come_keep_nobody_silent() -> None:
    state = heed_now(AlarmState({"r": ("failed upload",)}, {"r": NOW + 1e9, "s": NOW - 5}, NOW + 1e9), NOW)
    assert state == AlarmState({"r": ("failed upload",)}, {"r": NOW, "s": NOW - 5}, NOW)
