"""The mirror of one small dandiset beside what backups2datalad makes of it: file by file, each difference listed.

The reference's side is what its source writes: ``datalad create`` (datalad 1.x), ``cfg_dandiset``,
``dump_asset_metadata``, ``update_dandiset_metadata``, ``set_assets_state``, ``sync_zarr``, ``mkrelease``.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.cli import import_manifest
from lading.cli import mirror as mirror_command
from tests.conftest import need_program
from tests.mirrors import REPOSITORY, git, repository
from tests.servers.dandi import Archive, body_of, checksum_of, serve

PAGE = REPOSITORY / "docs" / "howto" / "mirror-dandi.md"
VERSION = "0.240101.0001"
NWB, TEXT, ZARR = "sub-1/sub-1_ecephys.nwb", "dataset_description.json", "sub-1/img.ome.zarr"
DANDISET = {
    ".datalad/.gitattributes", ".datalad/config", ".gitattributes", ".gitmodules", ".dandi/assets.json",
    ".dandi/assets-state.json", "dandiset.yaml", NWB, TEXT, ZARR,
}  # fmt: skip
CHUNKS = {".zgroup", "0/0000/000", "0/0000/001", "0/0000/002"}
ZARRS = {".datalad/.gitattributes", ".datalad/config", ".gitattributes", ".dandi/zarr-checksum", ".dandi/s3sync.json"}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """One dandiset with a recording, a text, a Zarr store and a published version, mirrored."""
    need_program("git-annex")
    monkeypatch.chdir(tmp_path)
    with serve(Archive()) as found:
        found.add("000026")
        found.put("000026", NWB)
        found.put("000026", TEXT, content="000026/description.json")
        found.put("000026", ZARR, zarr=4)
        found.publish("000026", VERSION)
        Path("mirror.yaml").write_text("dandisets: {path: datasets}\nzarrs: {path: datasets}\nmanifest: manifests\n")
        flags = ["-c", "mirror.yaml", "--endpoint-url", found.url, "--no-sign-request"]
        assert import_manifest.main([f"dandi+{found.api}", *flags]) == 0
        assert mirror_command.main(["-c", "mirror.yaml", "update"]) == 0
        yield found


def entries(where: Path, ref: str) -> dict[str, tuple[str, bytes]]:
    """Mode and content of every entry of a tree; of a gitlink its commit."""
    found = {}
    for line in git("ls-tree", "-r", "-z", ref, cwd=where).decode().split("\0")[:-1]:
        head, path = line.split("\t")
        mode, kind, name = head.split()
        found[path] = (mode, name.encode() if kind == "commit" else git("cat-file", "blob", name, cwd=where))
    return found


def test_each_difference_from_the_reference_is_listed(archive: Archive, tmp_path: Path) -> None:
    where, zarr = repository(tmp_path, "000026"), repository(tmp_path, f"000026/{ZARR}")
    ours, chunks = entries(where, "main"), entries(zarr, "main")
    listed = PAGE.read_text(encoding="utf-8")
    for differing in (set(ours) ^ DANDISET, set(chunks) ^ (ZARRS | CHUNKS)):
        assert differing, "it is another layout"
        assert not [path for path in differing if f"`{path}`" not in listed]

    # What is there on both sides says the same.
    assert ours[".datalad/config"][1].startswith(b'[datalad "dataset"]\n\tid = ')
    assert b"* annex.backend=SHA256E\n" in ours[".gitattributes"][1]
    assert b"* annex.backend=MD5E\n" in chunks[".gitattributes"][1]
    assets = json.loads(ours[".dandi/assets.json"][1])
    assert [asset["path"] for asset in assets] == sorted([NWB, TEXT, ZARR])
    asked = archive.answer("/api/dandisets/000026/versions/draft/assets/", {}, "")[1]["results"]
    assert assets == sorted(asked, key=lambda asset: asset["path"])
    assert json.loads(ours[".dandi/assets-state.json"][1]).keys() == {"timestamp"}
    assert ours[TEXT] == ("100644", body_of("000026/description.json"))
    mode, target = ours[NWB]
    digest = next(a["metadata"]["digest"]["dandi:sha2-256"] for a in assets if a["path"] == NWB)
    assert (mode, target.rpartition(b"/")[2]) == ("120000", f"SHA256E-s192--{digest}.nwb".encode())
    assert ours[ZARR] == ("160000", git("rev-parse", "main", cwd=zarr).strip())
    store = archive.dandisets["000026"].own[ZARR]
    assert chunks[".mirror/zarr-checksum"][1].decode().strip() == checksum_of(store)
    assert {mode for path, (mode, _) in chunks.items() if path in CHUNKS} == {"120000"}
    modules = ours[".gitmodules"][1].decode()
    for line in (f'[submodule "{ZARR}"]', f'path = "{ZARR}"', "url = ", "datalad-id = "):
        assert line in modules

    # A version: the same name, an annotated tag on a commit with its metadata.
    assert git("tag", cwd=where).decode().split() == [VERSION]
    assert git("cat-file", "-t", f"refs/tags/{VERSION}", cwd=where).strip() == b"tag"
    assert f"version: {VERSION}" in entries(where, VERSION)["dandiset.yaml"][1].decode()
    for word in ("`draft`", "`main`", "10 MiB", "`github-access-status`", "`dandiapi`"):
        assert word in listed
