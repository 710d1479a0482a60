"""IBL's ``.cbin``: what mtscomp packed is compressed as the ``.bin`` would be."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lading.cli import compress as command
from lading.cli import prove
from lading.compress import launcher
from lading.core.errors import LadingError
from lading.testing.ephys_data import make_samples, write_spikeglx

SAMPLES = make_samples(2500, 384, 0, units=3)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def pack(top: Path, **settings: Any) -> Path:
    """Write SpikeGLX and let mtscomp pack its AP band; returns the .cbin."""
    mtscomp = pytest.importorskip("mtscomp")
    write_spikeglx(top, SAMPLES)
    (binary,) = top.rglob("*.ap.bin")
    packed = binary.with_suffix(".cbin")
    logging.getLogger("mtscomp").setLevel(logging.ERROR)
    mtscomp.compress(
        binary, packed, binary.with_suffix(".ch"), sample_rate=30000, n_channels=385, dtype=np.int16,
        chunk_duration=0.03, n_threads=1, check_after_compress=False, **settings,
    )  # fmt: skip
    binary.unlink()
    return packed


def compress(source: Path, out: Path, *flags: str) -> dict[str, Any]:
    assert command.main([str(source), str(out), "--kind", "ephys", "--workers", "1", *flags]) == 0
    return dict(json.loads((out / "compress.json").read_text()))


@pytest.mark.parametrize("settings", [{}, {"do_spatial_diff": True}, {"do_time_diff": False, "chunk_order": "C"}])
def test_packed_samples_come_out(settings: dict[str, Any], tmp_path: Path) -> None:
    packed = pack(tmp_path / "in", **settings)
    report = compress(tmp_path / "in", tmp_path / "out", "--chunk-seconds", "0.02")
    for name, expected in (("imec0.ap", SAMPLES), ("imec0.ap-SYNC", None)):
        group = zarr.open_group(tmp_path / "out" / "ecephys_compressed" / f"run_g0_{name}.zarr", mode="r")
        assert expected is None or np.array_equal(group["traces_seg0"][:], expected)
    assert "lossy" not in {key for row in report["sources"] for key in row}
    (copy,) = (tmp_path / "out" / "ecephys_clipped").rglob("*.cbin")
    assert copy.read_bytes() == packed.read_bytes()
    assert prove.main(["prove", str(tmp_path / "out")]) == 0


def test_damage_is_a_sentence(tmp_path: Path) -> None:
    packed = pack(tmp_path / "in")
    held, about = packed.read_bytes(), packed.with_suffix(".ch")
    packed.write_bytes(held[:-10])
    with pytest.raises(LadingError, match="it was interrupted; copy it again"):
        compress(tmp_path / "in", tmp_path / "out")
    broken = bytearray(held)
    broken[5] ^= 255
    packed.write_bytes(broken)
    with pytest.raises(LadingError, match=r"chunk 0 \(offset 0\) cannot be unpacked"):
        compress(tmp_path / "in", tmp_path / "out2")
    packed.write_bytes(held)
    text = json.loads(about.read_text())
    for change in ({"chunk_bounds": [5, 1]}, {"algorithm": "lzma"}, {"n_channels": 3}, {"dtype": "what"}):
        about.write_text(json.dumps({**text, **change}))
        with pytest.raises(LadingError, match=r"\.ch: "):
            compress(tmp_path / "in", tmp_path / "out3")
    about.unlink()
    with pytest.raises(LadingError, match=r"is packed by mtscomp, and its \.ch is missing"):
        compress(tmp_path / "in", tmp_path / "out4")
