"""What a manifest's header says of its dataset is another's text: it leads nowhere and steers nothing."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lading.core.errors import ConsistencyError, LadingError
from lading.mirror.dataset_note import DatasetNote, ImportIndex, attached_files, note_of, read_index
from lading.verification.manifest import Manifest, ManifestEnd, ManifestHeader

DIGEST = "0" * 64
NOTE = json.loads(json.dumps(asdict(DatasetNote("000003", "session", "2026-01-01T00:00:00+00:00"))))


def header(note: Any) -> ManifestHeader:
    return ManifestHeader("bucket", "", None, "", DIGEST, "2026-01-01", {"dataset": note})


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../up"},
        {"path": "/etc"},
        {"path": ""},
        {"path": "a//b"},
        {"kind": "super"},
        {"newest": 3},
        {"attached": {"../x": DIGEST}},
        {"attached": {".git/config": DIGEST}},
        {"attached": {".gitmodules": DIGEST}},
        {"attached": {".GITATTRIBUTES": DIGEST}},
        {"attached": {".datalad/config": DIGEST}},
        {"attached": {".mirror/state.json": DIGEST}},
        {"attached": {"a\nb": DIGEST}},
        {"attached": {"dandiset.yaml": "../../etc/passwd"}},
        {"releases": [{"version": "../x", "created": "", "doi": "", "sha256": DIGEST}]},
        {"releases": [{"version": "-x", "created": "", "doi": "", "sha256": DIGEST}]},
        {"releases": [{"version": "1.0", "created": "", "doi": "", "sha256": "short"}]},
        {"releases": 3},
    ],
)
def test_a_note_that_leads_elsewhere_is_refused(change: dict[str, Any]) -> None:
    assert note_of(header(NOTE), "m") == DatasetNote("000003", "session", "2026-01-01T00:00:00+00:00")
    with pytest.raises(ConsistencyError, match="its header describes no dataset"):
        note_of(header({**NOTE, **change}), "m")


def test_a_manifest_of_no_importer_has_none() -> None:
    assert note_of(ManifestHeader("bucket", "", None, "", DIGEST, "2026-01-01", {}), "m") is None


def test_attached_files_are_those_that_the_manifest_names(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "m", header(NOTE), ManifestEnd(0, 0, DIGEST, True))
    note = DatasetNote("000003", "session", "", {"dandiset.yaml": DIGEST})
    with pytest.raises(LadingError, match="cannot be read"):
        attached_files(manifest, note, tmp_path)
    (tmp_path / "attached").mkdir()
    (tmp_path / "attached" / DIGEST).write_bytes(b"other")
    with pytest.raises(ConsistencyError, match="is not what"):
        attached_files(manifest, note, tmp_path)


def test_what_an_index_says_is_gone() -> None:
    index = ImportIndex(True, ("000003",), ("000004",))
    assert index.lacks("000005")
    assert not index.lacks("000003/sub/x.zarr")
    assert index.confirms_gone("000004/x.zarr")
    assert not ImportIndex(False, (), ()).lacks("000005"), "an import that was cut off says nothing"


@pytest.mark.parametrize("text", ["[]", "{", '{"complete": 1, "datasets": {}, "gone": {}}', '{"complete": true}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    assert read_index(tmp_path) is None
    (tmp_path / "import.json").write_text(text)
    with pytest.raises(ConsistencyError, match="is not the index of an import"):
        read_index(tmp_path)
