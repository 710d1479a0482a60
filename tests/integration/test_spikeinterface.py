"""SpikeInterface, in its own environment, finds in the Zarr groups what it finds in the source."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading.cli import compress as command
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long
REQUIREMENTS = REPOSITORY / "tests/requirements-spikeinterface.txt"


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of SpikeInterface's environment, made when it is not there.

    ``LADING_SPIKEINTERFACE_VENV`` names one that exists; otherwise it lies beside this environment.
    """
    given = os.environ.get("LADING_SPIKEINTERFACE_VENV")
    directory = Path(given) if given else Path(sys.prefix).parent / f"{Path(sys.prefix).name}-spikeinterface"
    interpreter = directory / "bin/python"
    check = [str(interpreter), "-c", "import spikeinterface, pcodec"]
    if not interpreter.exists() or subprocess.run(check, check=False, capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
        subprocess.run(install, check=True, timeout=900)
        # The wavpack reader has no wheel; without it the two codecs that have are tested.
        wavpack = [*install[:6], "--no-cache-dir", "wavpack-numcodecs==0.3.0"]
        subprocess.run(wavpack, check=False, timeout=300, capture_output=True)
    return interpreter


def readable(python: Path, codec: str) -> bool:
    """Tell whether that environment has a codec."""
    module = {"pcodec": "pcodec", "wavpack": "wavpack_numcodecs", "blosc-zstd": "numcodecs"}[codec]
    return subprocess.run([python, "-c", f"import {module}"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("codec", ["pcodec", "wavpack", "blosc-zstd"])
@pytest.mark.parametrize("kind", ["openephys", "spikeglx"])
def test_spikeinterface_reads_equal_recordings(kind: str, codec: str, python: Path, tmp_path: Path) -> None:
    if not readable(python, codec):
        pytest.skip(f"no {codec} in SpikeInterface's environment")
    source = tmp_path / "session"
    for number, frames in enumerate((31_000, 12_345)):
        samples = make_samples(frames, 384, number, units=30)
        if kind == "openephys":
            daq = make_samples(frames, 8, 7, units=2)
            streams = {"Neuropix-PXI-100.ProbeA-AP": samples, "NI-DAQmx-103.PXI-6133": daq}
            write_openephys(source, streams, recording=number + 1)
        else:
            write_spikeglx(source, samples, trigger=number)
    out = tmp_path / "out"
    assert command.main([str(source), str(out), "--kind", "ephys", "--workers", "2", "--codec", codec]) == 0
    result = subprocess.run(
        [python, REPOSITORY / "tests/spikeinterface_reads.py", kind, source, out / "ecephys_compressed"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == (6 if kind == "openephys" else 10)
    assert any(line["probe"] for line in lines)
