"""What a list that comes through the portal learns of its sources: what the owner's settings let it, and no more."""

import json
import os
from pathlib import Path

import pytest

from lading.core.errors import LadingError
from lading.portal import submissions
from lading.sessions.commands.arguments import load_presets

HEADER = "job_type,project_name,platform,acq_datetime,subject_id,modality0,modality0.source,metadata_dir\n"


def faults_of(top: Path, sources: list[str] | None, *rows: tuple[object, object]) -> list[tuple[int, int, str]]:
    (top / "presets").mkdir(exist_ok=True)
    portal = {"portal": {"sources": sources}} if sources is not None else {}
    (top / "presets" / "site.json").write_text(json.dumps(portal))
    lines = [f"default,Lab,behavior,2024-05-27 16:07:5{n},{n},behavior,{a},{b}" for n, (a, b) in enumerate(rows)]
    found = submissions.take_file(
        (HEADER + "\n".join(lines)).encode(), "list.csv", load_presets(str(top / "presets")), "bucket"
    )
    return [(fault.line, fault.column, fault.message) for fault in found.faults]


def test_what_lacks_is_told_by_line_and_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, locked = tmp_path / "lab", tmp_path / "lab" / "locked"
    locked.mkdir(parents=True)
    there = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and there(path, mode))
    rows = [(lab, lab), (lab / "none", lab), (lab, lab / "file" / "none"), (locked, "")]
    assert faults_of(tmp_path, [str(lab)], *rows) == [
        (3, 7, f"modality0.source: {lab}/none does not exist"),
        (4, 8, f"metadata_dir: {lab}/file/none does not exist"),
        (5, 7, f"modality0.source: {locked} cannot be read by the user that this runs as; make it readable"),
    ]


def test_nothing_elsewhere_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer, whether it exists or not: outside, by dots, by a link, beside such a name, and without roots."""
    lab, other = tmp_path / "lab", tmp_path / "other"
    for folder in (lab, other / "real", tmp_path / "labs" / "real"):
        folder.mkdir(parents=True)
    (lab / "link").symlink_to(other)
    looked: list[str] = []
    stat = os.stat

    def note(path: object, *more: object, **named: object) -> os.stat_result:
        looked.append(str(path))
        return stat(path, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", note)
    for name in ("real", "none"):
        rows = [(place / name, "") for place in (other, lab / ".." / "other", lab / "link", tmp_path / "labs")]
        assert faults_of(tmp_path, [str(lab)], *rows) == []
        assert faults_of(tmp_path, None, (lab / name, "")) == []
    assert not [path for path in looked if path.endswith(("/real", "/none"))]


@pytest.mark.parametrize("sources", [["/"], ["lab"], ["//"], "/data"])
def test_roots_are_folders_by_their_whole_path(sources: list[str], tmp_path: Path) -> None:
    with pytest.raises(LadingError, match=r"sources (are absolute paths of folders|is a list of text)"):
        faults_of(tmp_path, sources, (tmp_path, ""))
