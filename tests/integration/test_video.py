"""Videos by the real ffmpeg: presets, passwords, what is no video, damage."""

import os
import subprocess
from pathlib import Path

import pytest
import pyzipper

from lading.compress.job import SourceFault, VerificationFailed
from lading.compress.video import ffmpeg
from lading.core.errors import UsageError
from tests.kinds import compress, plan_job, tree_bytes


def make_video(path: Path, *, frames: int = 12, codec: str = "mjpeg", source: str = "testsrc2") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sign = ":" if "=" in source else "="
    command = [ffmpeg.find_ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", f"{source}{sign}size=64x48:rate=30"]
    subprocess.run([*command, "-frames:v", str(frames), "-c:v", codec, str(path)], check=True)
    return path


def facts_of(path: Path) -> str:
    return subprocess.run(
        [ffmpeg.find_ffmpeg(), "-hide_banner", "-i", str(path)], capture_output=True, text=True, check=False
    ).stderr


@pytest.fixture
def session(tmp_path: Path) -> Path:
    make_video(tmp_path / "videos" / "face camera" / "-face.avi")
    make_video(tmp_path / "videos" / "body.mkv", codec="ffv1")
    (tmp_path / "videos" / "body.csv").write_text("frame,time\n0,0.0\n")
    return tmp_path / "videos"


@pytest.mark.parametrize("preset", ["default", "gamma", "gamma-fix", "no-gamma"])
def test_presets_give_tagged_h264_of_equal_length(preset: str, session: Path, tmp_path: Path) -> None:
    told, markers = compress("video", session, tmp_path / "out", preset=preset)
    assert sorted(tree_bytes(tmp_path / "out")) == ["body.csv", "body.mp4", "face camera/-face.mp4"]
    assert told["frames"] == {"body.mp4": 12, "face camera/-face.mp4": 12}
    for name in told["frames"]:
        facts = facts_of(tmp_path / "out" / name)
        assert "h264" in facts
        assert "yuv420p(tv, bt709" in facts
        assert "64x48" in facts
    assert (tmp_path / "out/body.csv").samefile(session / "body.csv"), "what is no video is linked"
    assert all(marker.result.bytes_out for marker in markers)


def test_gamma_brightens_what_is_linear(tmp_path: Path) -> None:
    """Linear 10 % grey has the code value 0.099·… of BT.709: 1.099·0.1^0.45 - 0.099 = 0.291 of full scale."""
    source = make_video(tmp_path / "in" / "grey.mkv", codec="ffv1", source="color=c=0x1A1A1A")  # 26/255 = 0.102
    grey = ["-pix_fmt", "gray", "-f", "rawvideo", "-"]
    means = {}
    for preset in ("gamma", "no-gamma"):
        compress("video", source.parent, tmp_path / preset, preset=preset)
        raw = subprocess.run(
            [ffmpeg.find_ffmpeg(), "-v", "error", "-i", str(tmp_path / preset / "grey.mp4"), "-frames:v", "1", *grey],
            capture_output=True,
            check=True,
        ).stdout
        means[preset] = sum(raw) / len(raw) / 255
    assert means["no-gamma"] == pytest.approx(0.102, abs=0.02)
    assert means["gamma"] == pytest.approx(1.099 * 0.102**0.45 - 0.099, abs=0.03)


def test_user_preset_and_none(session: Path, tmp_path: Path) -> None:
    compress("video", session, tmp_path / "user", preset="user", ffmpeg_arguments="-c:v mpeg4 -q:v 5")
    assert "mpeg4" in facts_of(tmp_path / "user/body.mp4")
    compress("video", session, tmp_path / "none", preset="none")
    assert tree_bytes(tmp_path / "none") == tree_bytes(session)
    assert (tmp_path / "none/body.mkv").samefile(session / "body.mkv")
    with pytest.raises(UsageError, match="--ffmpeg-arguments"):
        plan_job("video", session, tmp_path / "x", preset="user")


@pytest.mark.parametrize("preset", ["none", "default"])
def test_password_zip_per_video(preset: str, session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "pässword")
    compress("video", session, tmp_path / "out", preset=preset, video_zip="aes")
    suffix = "mkv" if preset == "none" else "mp4"
    names = sorted(tree_bytes(tmp_path / "out"))
    assert names == ["body.csv", f"body.{suffix}.zip", f"face camera/-face.{'avi' if preset == 'none' else 'mp4'}.zip"]
    with pyzipper.AESZipFile(tmp_path / "out" / f"body.{suffix}.zip") as archive:
        assert archive.namelist() == [f"body.{suffix}"]
        data = archive.read(f"body.{suffix}", pwd="pässword".encode())
        assert archive.infolist()[0].wz_aes_strength == 3, "AES-256"
    if preset == "none":
        assert data == (session / "body.mkv").read_bytes()


def test_legacy_zip_of_a_video(session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyminizip")
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "secret")
    compress("video", session, tmp_path / "out", preset="none", video_zip="legacy")
    with pyzipper.AESZipFile(tmp_path / "out" / "body.mkv.zip") as archive:
        assert archive.read("body.mkv", pwd=b"secret") == (session / "body.mkv").read_bytes()


def test_wheel_serves_where_path_has_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = ffmpeg.find_ffmpeg()
    assert os.path.isabs(program)
    assert ffmpeg.version(program).startswith("ffmpeg version")


def test_truncated_and_empty_videos_are_named(session: Path, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "cut" / "cut.mp4", codec="mpeg4", frames=60)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(
        SourceFault, match=r"cut\.mp4: ffmpeg cannot transcode it: moov atom not found; restore it"
    ) as caught:
        compress("video", whole.parent, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert tree_bytes(tmp_path / "out") == {}
    (tmp_path / "cut" / "cut.mp4").write_bytes(b"")
    with pytest.raises(SourceFault, match=r"cut\.mp4: is empty"):
        plan_job("video", whole.parent, tmp_path / "out2")


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in" / "bad.mkv", codec="ffv1", frames=40)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = os.urandom(3000)
    path.write_bytes(data)
    with pytest.raises(SourceFault, match=r"bad\.mkv: .*--preset none"):
        compress("video", path.parent, tmp_path / "out")
    assert tree_bytes(tmp_path / "out") == {}


def test_lost_frames_are_caught(session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ffmpeg.arguments_of
    monkeypatch.setattr(ffmpeg, "arguments_of", lambda *a: [*original(*a), "-frames:v", "9"])
    with pytest.raises(VerificationFailed, match=r"has 9 frames and .* has 12"):
        compress("video", session, tmp_path / "out", preset="no-gamma")


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    for suffix in ("avi", "mkv"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"a.{suffix}").write_bytes(b"x")
    with pytest.raises(SourceFault, match=r"(?s)a\.avi: would be written as a\.mp4.*a\.mkv") as caught:
        plan_job("video", tmp_path / "in", tmp_path / "out")
    assert str(caught.value).count("\n") == 1
