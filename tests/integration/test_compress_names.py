"""Sources that hold names of the program's own: every byte arrives, and nothing of theirs passes for the program's."""

import hashlib
import json
import os
import shutil
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import pytest
import tifffile

from lading.cli import compress as command
from lading.compress import file_records as records
from lading.compress import state as states
from lading.compress.job import SourceFault
from lading.coordination.claims import CompletionRecords
from lading.testing.ephys_data import make_samples, write_openephys
from lading.testing.s3_server import Server
from tests.conftest import mostly_long
from tests.images import light_sheet
from tests.integration.test_video import make_video
from tests.kinds import plan_job, tree_bytes

# What the program calls its own files, now or in earlier versions, at the top and below.
RESERVED = {
    "compress.json": b'{"kind": "compress", "finished_at": "an earlier compression"}',
    "source.compress.json": b"taken, too",
    "compress.sources.jsonl": b"a list\n",
    ".compress.json.bak": b"backup",
    ".lading-work-x": b"notes",
    "x/.lading-work-y": b"more notes",
    "sub/.lading-work-dir/y": b"even more",
    "sub/compress.json": b"of a part",
    "out.state/plan.json": b"{}",
}
CARRIED = {"compress.json": "source.1.compress.json", "compress.sources.jsonl": "source.compress.sources.jsonl"}


def add_reserved(top: Path) -> Path:
    for path, content in RESERVED.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(content)
    return top


def compress(source: Path, destination: object, *flags: str) -> dict[str, Any]:
    """Compress with one worker; returns the report."""
    assert command.main([str(source), str(destination), "--workers", "1", *flags]) == 0
    state = states.state_directory(str(destination), flags[flags.index("--state") + 1] if "--state" in flags else None)
    return dict(json.loads((state / "compress.json").read_bytes()))


def require_records(source: Path, state: Path, outputs: dict[str, bytes], lossy: set[str]) -> None:
    """Every file of the source and of the destination has its record."""
    found = {record.path: record for record in records.read_sources(state)}
    contents = tree_bytes(source)
    assert found.keys() == contents.keys()
    for path, record in found.items():
        status = (source / path).stat()
        assert record.sha256 == hashlib.sha256(contents[path]).hexdigest()
        assert record.size == len(contents[path])
        assert (record.mtime_ns, record.ctime_ns, record.inode, record.device) == (
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            status.st_dev,
        )
        assert bool(record.lossy) == (path in lossy)
    assert {(output.path, output.size, output.sha256) for output in records.read_outputs(state)} == {
        (path, len(data), hashlib.sha256(data).hexdigest()) for path, data in outputs.items()
    }


def require_carried(source: Path, outputs: dict[str, bytes], below: str = "") -> None:
    """What the program's names stand for is among the outputs, byte by byte."""
    for path, content in RESERVED.items():
        where = f"{below}/{path}" if below else CARRIED.get(path, path)
        assert outputs[where] == content, path


def test_files_as_they_are(tmp_path: Path) -> None:
    source = add_reserved(tmp_path / "in")
    report = compress(source, tmp_path / "out", "--kind", "generic")
    outputs = tree_bytes(tmp_path / "out")
    require_carried(source, outputs)
    assert len(outputs) == len(RESERVED) + 1
    assert json.loads(outputs["compress.json"]) == report
    assert report["renamed"] == CARRIED
    assert {row["path"]: row["sha256"] for row in report["sources"]} == {
        path: hashlib.sha256(content).hexdigest() for path, content in RESERVED.items()
    }
    assert report["not_carried"] == []
    require_records(source, tmp_path / "out.state", outputs, set())


def test_a_file_that_is_the_source(tmp_path: Path) -> None:
    (tmp_path / "compress.json").write_bytes(b"whole source")
    report = compress(tmp_path / "compress.json", tmp_path / "out", "--kind", "generic")
    assert (tmp_path / "out/source.compress.json").read_bytes() == b"whole source"
    assert [row["path"] for row in report["sources"]] == ["."]


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "in" / "compress.json").mkdir(parents=True)
    (tmp_path / "in" / "compress.json" / "a").write_bytes(b"1")
    compress(tmp_path / "in", tmp_path / "out", "--kind", "generic")
    assert (tmp_path / "out/source.compress.json/a").read_bytes() == b"1"


def test_zip(tmp_path: Path) -> None:
    source = add_reserved(tmp_path / "in")
    compress(source, tmp_path / "out", "--kind", "generic", "--pack", "plain")
    with zipfile.ZipFile(tmp_path / "out" / "in.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == RESERVED
    require_records(source, tmp_path / "out.state", tree_bytes(tmp_path / "out"), set())


@pytest.mark.parametrize("preset", ["none", "no-gamma"])
def test_video(tmp_path: Path, preset: str) -> None:
    source = add_reserved(make_video(tmp_path / "in" / "face.avi").parent)
    compress(source, tmp_path / "out", "--kind", "video", "--preset", preset)
    outputs = tree_bytes(tmp_path / "out")
    require_carried(source, outputs)
    require_records(source, tmp_path / "out.state", outputs, set() if preset == "none" else {"face.avi"})


def objects(client: Any, bucket: str, prefix: str) -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", ())
    return {
        item["Key"].removeprefix(f"{prefix}/"): client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        for item in listed
    }


@pytest.mark.parametrize(
    ("kind", "to_bucket"),
    mostly_long(product(["imaging", "ephys"], [False, True]), ("imaging", True), ("ephys", False)),
)
def test_images_and_recordings(
    tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch, kind: str, to_bucket: bool
) -> None:
    source = tmp_path / "in"
    if kind == "imaging":
        source.mkdir()
        tifffile.imwrite(source / "a.tif", light_sheet((9, 40, 50)), metadata=None)
        flags = ["--levels", "2", "--chunk", "8,16,16", "--shard", "16,32,32"]
    else:
        write_openephys(source, {"Neuropix-PXI-100.ProbeA-AP": make_samples(900, 8, 0, units=3)})
        flags = ["--chunk-seconds", "0.01"]
    add_reserved(source)
    flags += ["--kind", kind, "--state", str(tmp_path / "state")]
    if to_bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
        bucket = f"n-{os.urandom(6).hex()}"
        client.create_bucket(Bucket=bucket)
        compress(source, f"s3://{bucket}/x", *flags)
        outputs = objects(client, bucket, "x")
    else:
        compress(source, tmp_path / "out", *flags)
        outputs = tree_bytes(tmp_path / "out")
    require_carried(source, outputs, "ecephys_clipped" if kind == "ephys" else "")
    require_records(source, tmp_path / "state", outputs, set())


def test_many_files_are_listed_beside_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MOST_LISTED", 5)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    source = add_reserved(tmp_path / "in")
    with pytest.raises(SystemExit, match=r"^0$"):  # in this process, where the bound is lower
        compress(source, tmp_path / "out", "--kind", "generic", "--engine", "mpi")
    report = json.loads((tmp_path / "out" / "compress.json").read_bytes())
    listed = (tmp_path / "out" / report["sources"]["file"]).read_bytes()
    assert hashlib.sha256(listed).hexdigest() == report["sources"]["sha256"]
    assert len(listed.splitlines()) == 1 + report["sources"]["files"] == 1 + len(RESERVED)
    require_carried(source, tree_bytes(tmp_path / "out"))
    require_records(source, tmp_path / "out.state", tree_bytes(tmp_path / "out"), set())


def test_names_that_would_meet_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "images"
    (source / "a.ome.zarr").mkdir(parents=True)
    tifffile.imwrite(source / "a.tif", light_sheet((9, 40, 50)))
    (source / "a.ome.zarr" / "notes.txt").write_text("mine")
    with pytest.raises(
        SourceFault, match=r"notes\.txt: would be written as a\.ome\.zarr/notes\.txt, where the image a"
    ):
        plan_job("imaging", source, tmp_path / "out")
    videos = tmp_path / "videos"
    (videos / "a.mp4").mkdir(parents=True)
    (videos / "a.avi").write_bytes(b"x")
    (videos / "a.mp4" / "notes.txt").write_text("mine")
    with pytest.raises(SourceFault, match=r"notes\.txt: would be written below a\.mp4, which .*a\.avi becomes"):
        plan_job("video", videos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_state_directory_that_is_something_else_is_left_alone(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "f").write_bytes(b"1")
    for name in ("done/a", "attempts/b", "compress.json"):
        (tmp_path / "out.state" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out.state" / name).write_bytes(b"mine")
    before = tree_bytes(tmp_path / "out.state")
    argv = ["-m", "jobs", "compress", source, tmp_path / "out", "--kind", "generic"]
    result = run(*argv)
    assert result.returncode == 2
    assert "out.state holds other files than the state of a compression" in result.stderr
    # A source whose name is that of the state.
    result = run("-m", "jobs", "compress", tmp_path / "out.state", tmp_path / "out", "--kind", "generic")
    assert result.returncode == 2
    assert "overlap" in result.stderr
    assert tree_bytes(tmp_path / "out.state") == before
    # A link does not hide that the destination lies in the source.
    (tmp_path / "link").symlink_to(source)
    result = run("-m", "jobs", "compress", source, tmp_path / "link" / "out", "--kind", "generic")
    assert result.returncode == 2
    assert "is inside the source" in result.stderr
    assert tree_bytes(source) == {"f": b"1"}


def test_done_rests_on_the_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = add_reserved(tmp_path / "in")
    out, state = tmp_path / "out", tmp_path / "out.state"
    report = compress(source, out, "--kind", "generic")
    # A report that is not the one that was written is written again; it never stands for work that is not done.
    (out / "compress.json").write_bytes(RESERVED["compress.json"])
    again = compress(source, out, "--kind", "generic")
    assert json.loads((out / "compress.json").read_bytes()) == again
    assert again["sources"] == report["sources"]
    CompletionRecords(state / "done").drop(states.LAST)
    (state / "sources.jsonl").unlink()
    compress(source, out, "--kind", "generic")
    require_records(source, state, tree_bytes(out), set())
    # Without its state a destination of another source is nobody's.
    shutil.rmtree(state)
    assert command.main([str(source), str(out), "--kind", "generic", "--workers", "1"]) == 0
    (source / "x" / "new").write_bytes(b"1")
    shutil.rmtree(state)
    with pytest.raises(Exception, match="is of another source, or the source changed"):
        command.main([str(source), str(out), "--kind", "generic", "--workers", "1"])


def test_an_earlier_state_is_read_when_done_and_refused_when_not(tmp_path: Path) -> None:
    """Plans of earlier versions have no name of a working directory, and their markers no records."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "f").write_bytes(b"1")
    out, state = tmp_path / "out", tmp_path / "out.state"
    argv = [str(source), str(out), "--kind", "generic", "--workers", "1"]
    assert command.main(argv) == 0
    plan = json.loads((state / "plan.json").read_bytes())
    for name in ("working", "links"):
        del plan["job"][name]
    (state / "plan.json").write_text(json.dumps(plan))
    for name in ("sources.jsonl", "outputs.jsonl", "compress.json", states.MARK, states.WORKING):
        (state / name).unlink()
    for path in (state / "done").rglob("*.json"):
        marker = json.loads(path.read_bytes())
        marker["result"].pop("sources", None)
        for output in marker["result"].get("outputs", ()):
            del output["sha256"]
        path.write_text(json.dumps(marker))
    assert command.main(argv) == 0
    CompletionRecords(state / "done").drop(states.LAST)
    with pytest.raises(Exception, match="begun by an earlier version of Lading"):
        command.main(argv)
