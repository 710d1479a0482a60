"""Metrics as Prometheus' own parsers read them, from folders as stages leave them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.journal.stage_result import StageFailure, StageResult
from lading.report.fleet import FleetRow, FleetStatus, read_fleet
from lading.testing.generated_fleets import failed, make_fleet, write_stage

pytest.importorskip("prometheus_client")
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from lading.report.metrics import content_type, fleet_families, render_metrics, write_metrics

NOW = 1_764_300_000.0
HOSTILE = [
    'a"b', "a\\b", "a\nb", "a\\nb", 'x"} 1\nlading_release_bytes{release="y', "# EOF", "\udcff", "\x1b[2J", "é–中",
    "{}", "", "a\u2028b", "a\x85b", "a\rb",
]  # fmt: skip


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels: equal by either parser."""
    found = []
    for parse in (parse_open_metrics, parse_plain):
        found.append(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in parse(text.decode())
                for sample in family.samples
            }
        )
    assert found[0] == found[1]
    return found[0]


def test_folders_become_samples(tmp_path: Path) -> None:
    releases = make_fleet(tmp_path, 3, NOW)
    write_stage(releases[1].folder, failed("verify", NOW - 60, 4, 'a "difference"\n', NOW - 86_400))
    status = read_fleet(releases, NOW)
    write_metrics(status, tmp_path / "lading.prom")
    found = samples((tmp_path / "lading.prom").read_bytes())
    name = (("release", "release-00001"),)
    stage = (*name, ("stage", "verify"))
    assert found["lading_release_exit_code", name] == 4
    assert found["lading_stage_exit_code", stage] == 4
    assert found["lading_stage_failure_timestamp_seconds", stage] == NOW - 60
    assert found["lading_stage_success_timestamp_seconds", stage] == NOW - 86_400
    assert found["lading_releases", (("state", "different"),)] == 1
    assert found["lading_releases", (("state", "well"),)] == 2
    assert found["lading_release_left_bytes", name] == 0
    assert found["lading_release_oldest_proof_timestamp_seconds", name] == NOW - 90 * 86_400
    assert found["lading_fleet_seen_timestamp_seconds", ()] == NOW
    assert (tmp_path / "lading.prom").stat().st_mode & 0o044 == 0o044
    # What is not known is no 0: nothing holds the lock, and nothing was mirrored.
    assert not [key for key in found if "locked" in key[0] or "mirrored" in key[0]]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_no_name_adds_a_sample_or_ends_the_text(name: str) -> None:
    stage = StageResult("upload", 1.0, 2.0, 3, name, None, StageFailure(2.0, 3, name), counts={"sent": 5, "retries": 2})
    row = FleetRow(name, "/f", f"s3://b/{name}", "failed", "upload", bytes=7, failure=name, stages={"upload": stage})
    plain = FleetRow("plain", "/f", "s3://b/", "well", "done", bytes=8)
    found = samples(render_metrics(fleet_families(FleetStatus((row, plain), NOW))))
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert found["lading_release_bytes", (("release", shown),)] == 7
    assert found["lading_release_bytes", (("release", "plain"),)] == 8
    assert found["lading_stage_retries", (("release", shown), ("stage", "upload"))] == 2
    assert len([key for key in found if key[0] == "lading_release_bytes"]) == 2


def test_names_follow_the_conventions_of_prometheus(tmp_path: Path) -> None:
    status = read_fleet(make_fleet(tmp_path, 1, NOW), NOW)
    row = replace(status.rows[0], rate=1.0, eta=2.0, mirrored=3.0)
    families = list(fleet_families(replace(status, rows=(row,))))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.type == "gauge"
        assert family.name.startswith("lading_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_mb", "_percent"))
        assert '"' not in family.documentation
        assert "\n" not in family.documentation
        if "timestamp" in family.name or "duration" in family.name:
            assert family.name.endswith("_seconds")


def test_who_asks_gets_the_type_that_was_asked_for() -> None:
    assert content_type("application/openmetrics-text;version=1.0.0,text/plain;q=0.5").startswith(
        "application/openmetrics"
    )
    assert content_type("*/*").startswith("text/plain; version=0.0.4")


def test_a_name_that_node_exporter_would_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.prom"):
        write_metrics(FleetStatus((), NOW), tmp_path / "lading.txt")
    write_metrics(FleetStatus((), NOW), tmp_path / "lading.prom")
    assert samples((tmp_path / "lading.prom").read_bytes())["lading_fleet_faults", ()] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lading.prom"]


def test_many_releases_are_one_text(tmp_path: Path) -> None:
    status = read_fleet(make_fleet(tmp_path, 1, NOW), NOW)
    rows = tuple(replace(status.rows[0], name=f"release-{number:05d}") for number in range(500))
    began = time.monotonic()
    text = render_metrics(fleet_families(replace(status, rows=rows)))
    print(f"{len(text):,} bytes, {text.count(b'release-'):,} samples in {time.monotonic() - began:.2f} s")
    assert text.count(b'lading_release_bytes{release="release-') == 500
    assert text.endswith(b"# EOF\n")
