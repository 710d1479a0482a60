"""Videos with more streams, odd frames and varying rates, damaged ones among good ones, and names inside old zips."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lading.cli import compress as command
from lading.compress import launcher
from lading.compress.job import SourceFault
from lading.compress.video import ffmpeg

NUMBERS = "1\n00:00:00,000 --> 00:00:00,200\nlick left\n"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are functions of this process: a child of its own loads the libraries once more for each test."""
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def make(path: Path, *arguments: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    program = ffmpeg.find_ffmpeg()
    subprocess.run([program, "-v", "error", "-y", "-nostdin", *arguments, str(path)], check=True, cwd=path.parent)
    return path


def compress(source: Path, out: Path, *flags: str, kind: str = "video") -> dict[str, Any]:
    for path in (out, out.with_name(f"{out.name}.state")):
        shutil.rmtree(path, ignore_errors=True)
    assert command.main([str(source), str(out), "--kind", kind, "--workers", "1", *flags]) == 0
    return dict(json.loads((out / "compress.json").read_text()))


def lavfi(*sources: str) -> list[str]:
    return [word for source in sources for word in ("-f", "lavfi", "-i", source)]


def grey_columns(path: Path, size: tuple[int, int]) -> bytes:
    """The first frame of a video as grey values."""
    raw = subprocess.run(
        [
            ffmpeg.find_ffmpeg(),
            "-v",
            "error",
            "-i",
            str(path),
            "-frames:v",
            "1",
            "-pix_fmt",
            "gray",
            "-f",
            "rawvideo",
            "-",
        ],
        capture_output=True,
        check=True,
    ).stdout
    assert len(raw) == size[0] * size[1]
    return raw


@pytest.mark.parametrize("preset", ["default", "gamma-fix", "no-gamma"])
@pytest.mark.parametrize("size", [(161, 121), (160, 121)])
def test_frames_of_odd_size_lose_no_column(size: tuple[int, int], preset: str, tmp_path: Path) -> None:
    """The last column and row are white: they are still there, before a black one."""
    width, height = size
    white = f"color=c=black:size={width}x{height}:rate=25,format=gray,drawbox=x={width - 1}:w=1:t=fill:c=white"
    make(tmp_path / "in" / "odd.mkv", *lavfi(white), "-frames:v", "3", "-c:v", "ffv1")
    compress(tmp_path / "in", tmp_path / "out", "--preset", preset)
    (stream,) = ffmpeg.find_streams(ffmpeg.find_ffmpeg(), tmp_path / "out" / "odd.mp4")
    wide, tall = width + width % 2, height + height % 2
    assert stream.size == (wide, tall)
    raw = grey_columns(tmp_path / "out" / "odd.mp4", (wide, tall))
    middle = raw[wide * (height // 2) : wide * (height // 2 + 1)]
    assert middle[width - 1] - middle[width // 2] > 120


def test_every_frame_of_a_varying_rate_is_kept_once(tmp_path: Path) -> None:
    make(
        tmp_path / "in" / "vfr.mkv",
        *lavfi("testsrc2=size=64x48:rate=25"),
        *["-vf", "select='lt(n,5)+gt(n,20)'", "-fps_mode", "passthrough", "-frames:v", "14", "-c:v", "ffv1"],
    )
    report = compress(tmp_path / "in", tmp_path / "out")
    assert report["facts"]["frames"] == {"vfr.mp4": 14}


def test_second_streams_and_subtitles_are_kept_and_others_named(tmp_path: Path) -> None:
    top = tmp_path / "in"
    top.mkdir()
    (top / "note.srt").write_text(NUMBERS)
    make(
        top / "two.mkv",
        *lavfi("testsrc2=size=64x48:rate=25", "color=c=gray:size=32x32:rate=25", "sine"),
        *["-i", "note.srt", "-map", "0", "-map", "1", "-map", "2", "-map", "3", "-t", "0.4", "-c:v", "ffv1"],
        *["-attach", "note.srt", "-metadata:s:t", "mimetype=application/x-subrip"],
    )
    report = compress(top, tmp_path / "out")
    program = ffmpeg.find_ffmpeg()
    made = ffmpeg.find_streams(program, tmp_path / "out" / "two.mp4")
    assert [(one.kind, one.size) for one in made] == [
        ("Video", (64, 48)),
        ("Video", (32, 32)),
        ("Audio", None),
        ("Subtitle", None),
    ]
    assert report["facts"]["frames_of_each"] == {"two.mp4": [10, 10]}
    text = subprocess.run(
        [program, "-v", "error", "-i", str(tmp_path / "out" / "two.mp4"), "-map", "0:s:0", "-f", "srt", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "lick left" in text
    assert [item["item"].split(" (")[0] for item in report["left_out"]] == ["two.mkv: stream 4"]
    assert "attachment" in report["left_out"][0]["item"]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_video_among_good_ones(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "secret")
    top = tmp_path / "in"
    make(top / "good.mkv", *lavfi("testsrc2=size=64x48:rate=25"), "-frames:v", "3", "-c:v", "ffv1")
    (top / "bad.avi").write_bytes(b"RIFF" + bytes(100))
    (top / "empty.mp4").write_bytes(b"")
    more = ["--video-zip", "aes"] if zipped else []
    with pytest.raises(SourceFault, match=r"empty\.mp4: is empty"):
        compress(top, tmp_path / "out", *more)
    report = compress(top, tmp_path / "out", "--accept-damaged", *more)
    end = ".zip" if zipped else ""
    assert sorted(report["facts"]["damaged"]) == [f"bad.avi{end}", f"empty.mp4{end}"]
    assert report["facts"]["frames"] == {f"good.mp4{end}": 3}
    if not zipped:
        assert (tmp_path / "out" / "bad.avi").read_bytes() == (top / "bad.avi").read_bytes()


def test_an_ffmpeg_on_path_that_is_too_old_gives_way_to_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    old = tmp_path / "bin" / "ffmpeg"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'ffmpeg version 4.2.7-0ubuntu0.1 Copyright (c) 2000-2022 the FFmpeg developers'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(old.parent))
    assert ffmpeg.find_ffmpeg() != str(old)
    assert ffmpeg._passthrough(str(old)) == ["-vsync", "passthrough"]
    assert ffmpeg._passthrough(ffmpeg.find_ffmpeg()) == ["-fps_mode", "passthrough"]


def test_what_is_printed_of_a_file_makes_no_stream(tmp_path: Path) -> None:
    """A title is the writer's: one that looks like ffmpeg's list of streams adds none to it."""
    title = "title=x\n  Stream #0:7: Video: h264, yuv420p, 999x999"
    path = make(
        tmp_path / "a.mkv", *lavfi("testsrc2=size=64x48:rate=25"), "-frames:v", "1", "-c:v", "ffv1", "-metadata", title
    )
    (stream,) = ffmpeg.find_streams(ffmpeg.find_ffmpeg(), path)
    assert stream.size == (64, 48)


NAMES = ["plain.txt", "a b/ü/日本語 файл.txt", "café.txt", "emoji 🐭.txt"]


@pytest.mark.filterwarnings("ignore")
def test_names_in_a_legacy_zip_are_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyminizip")
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "secret")
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    compress(tmp_path / "in", tmp_path / "out", "--pack", "legacy", kind="generic")
    with zipfile.ZipFile(tmp_path / "out" / "in.zip") as archive:
        assert sorted(archive.namelist()) == sorted(NAMES)
        assert {name: archive.read(name, pwd=b"secret").decode() for name in NAMES} == dict(zip(NAMES, NAMES))
    if shutil.which("unzip"):
        monkeypatch.setenv("LC_ALL", "C.UTF-8")
        listed = subprocess.run(
            ["unzip", "-Z1", str(tmp_path / "out" / "in.zip")], capture_output=True, text=True, check=True
        ).stdout
        assert sorted(listed.splitlines()) == sorted(NAMES)
    (tmp_path / "in" / "back\\slash.txt").write_text("x")
    with pytest.raises(SourceFault, match="the name has a backslash"):
        compress(tmp_path / "in", tmp_path / "out", "--pack", "legacy", kind="generic")
    compress(tmp_path / "in", tmp_path / "out", "--pack", "aes", kind="generic")
