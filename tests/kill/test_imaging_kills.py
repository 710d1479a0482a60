"""A large sparse stack within bounded memory, and kills at any moment.

Settings: LADING_STACK=512,2048,2048 for the 4 GB stack, LADING_KILLS for the number of kills of each victim.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import tifffile
import zarr

from lading.compress.imaging.pyramid import mean_halved
from lading.coordination.claims import CompletionRecords, file_name
from lading.core.atomic import read_log
from tests.conftest import REPOSITORY
from tests.images import light_sheet
from tests.kinds import tree_bytes

pytestmark = pytest.mark.long


def command(source: Path, out: Path, *flags: str, workers: int = 2) -> list[str]:
    base = [sys.executable, "-m", "jobs", "compress", str(source), str(out), "--kind", "imaging"]
    return [*base, "--workers", str(workers), *flags]


def write_sparse_stack(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A stack of mostly holes: a bright block in every eighth part of each axis. Returns its map."""
    stack = tifffile.memmap(path, shape=shape, dtype="uint16", bigtiff=True, photometric="minisblack")
    generator = np.random.default_rng(4)
    z, y, x = (max(1, length // 8) for length in shape)
    for corner in generator.integers(0, 8, (12, 3)):
        box = tuple(slice(at * step, (at + 1) * step) for at, step in zip(corner, (z, y, x)))
        stack[box] = generator.integers(100, 4000, (z, y, x), dtype=np.uint16)
    stack[-1, -1, -1] = 65535
    stack.flush()
    return stack


def copy_to_hdf5(stack: np.ndarray[Any, Any], path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", stack.shape, stack.dtype, chunks=(16, 256, 256), compression="gzip")
        for start in range(0, len(stack), 16):
            data[start : start + 16] = stack[start : start + 16]


@pytest.mark.parametrize(("version", "suffix"), [("0.5", "tif"), ("0.4", "tif"), ("0.5", "h5")])
def test_large_sparse_stack_in_bounded_memory(
    version: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    shape = tuple(int(length) for length in os.environ.get("LADING_STACK", "228,1100,2148").split(","))
    stack = write_sparse_stack(tmp_path / "stack.tif", shape)
    if suffix == "h5":
        copy_to_hdf5(stack, tmp_path / "stack.h5")
    started = time.monotonic()
    flags = ["--levels", "5", "--ngff", version]
    # A small process between: what pytest has mapped would count as its children's memory until they exec.
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    compress = [sys.executable, "-c", code, *command(tmp_path / f"stack.{suffix}", tmp_path / "out", *flags)]
    peak = int(subprocess.run(compress, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout)
    seconds = time.monotonic() - started
    stated = json.loads((tmp_path / "out.state" / "plan.json").read_bytes())["job"]["facts"]["worker_memory"]
    assert stated < 0.9e9
    image = tmp_path / "out" / "stack.ome.zarr"
    with capsys.disabled():
        stored = sum(map(len, tree_bytes(image).values()))
        size = f"{' × '.join(map(str, shape))}, {np.prod(shape) * 2 / 1e9:.2f} GB"
        print(f"\nNGFF {version} from {suffix}: {size}, {seconds:.0f} s")
        print(f"{stored / 1e6:.0f} MB stored, peak {peak / 1e6:.0f} MB a worker (stated: {stated / 1e6:.0f} MB)")
    assert peak < stated

    from ome_zarr_models import open_ome_zarr

    assert version.replace(".", "") in type(open_ome_zarr(zarr.open_group(image, mode="r"))).__module__
    below: Any = stack
    for level in range(5):
        spec = {
            "driver": "zarr3" if version == "0.5" else "zarr",
            "kvstore": {"driver": "file", "path": f"{image / str(level)}/"},
        }
        array = tensorstore.open(spec).result()
        for start in range(0, array.shape[2], 32):
            found = array[0, 0, start : min(start + 32, array.shape[2])].read().result()
            expected = below[start : start + 32] if level == 0 else mean_halved(below[2 * start : 2 * start + 64])
            assert np.array_equal(found, expected), f"level {level}, z {start}"
        below = zarr.open_array(image / str(level), mode="r")[0, 0] if level else stack
    metadata = (".zarray", ".zattrs", ".zgroup")
    assert not [path for path in image.rglob(".*") if path.name not in metadata]


FLAGS = ["--levels", "4", "--chunk", "8,32,32", "--shard", "16,64,64"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    top = tmp_path_factory.mktemp("kills")
    tifffile.imwrite(top / "stack.tif", light_sheet((96, 320, 512)), compression="zlib")
    subprocess.run(command(top / "stack.tif", top / "out", *FLAGS), cwd=REPOSITORY, check=True, capture_output=True)
    return top / "stack.tif", images_of(top / "out")


def images_of(out: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree_bytes(out).items() if path != "compress.json"}


def markers_of(out: Path) -> dict[str, tuple[int, int]]:
    """Marker file → (inode, mtime): a unit done again would have a new one."""
    top = out.with_name(f"{out.name}.state") / "done"
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in top.rglob("*.json") if p.name[0] != "."}


def wait_for_markers(out: Path, process: "subprocess.Popen[bytes]", count: int) -> None:
    while process.poll() is None and len(markers_of(out)) < count:
        time.sleep(0.005)


def finished_in(out: Path, *, known: set[str]) -> set[str]:
    """Marker names of the units that logs other than the ``known`` ones tell of."""
    return {
        file_name(record["item"])
        for path in (out.with_name(f"{out.name}.state") / "log").glob("*.jsonl")
        if path.name not in known
        for record in read_log(path)
        if record and record["event"] == "done"
    }


@pytest.mark.parametrize(("victim", "kills"), [("worker", 4), ("client", 10), ("whole job", 10)])
def test_kill_at_any_point_then_the_same_command_converges(
    victim: str, kills: int, undisturbed: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    source, expected = undisturbed
    random_points = random.Random(victim)
    kills = int(os.environ.get("LADING_KILLS", kills))
    killed = 0
    units = len(markers_of(source.with_name("out")))
    for number in range(kills):
        out = tmp_path / f"out{number}"
        kept: dict[str, tuple[int, int]] = {}
        process = subprocess.Popen(
            command(source, out, *FLAGS), cwd=REPOSITORY, start_new_session=True, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        # Ten points spread over the job's units, and a little later at random: inside a unit, not at its end.
        wait_for_markers(out, process, 1 + number * units // kills)
        time.sleep(random_points.random() * 0.05)
        if process.poll() is None:
            kept = markers_of(out)
            if victim == "whole job":
                os.killpg(process.pid, signal.SIGKILL)
            elif victim == "client":
                os.kill(process.pid, signal.SIGKILL)
            else:
                workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                if workers:
                    workers[number % len(workers)].kill()
            killed += 1
        code = process.wait(timeout=300)
        if victim == "worker":
            assert code in (0, 3), "a dead worker costs its unit only"
        elif kept:
            # Only a job that had written its report, the last thing it does, may have outrun the kill.
            assert code == -signal.SIGKILL or (code == 0 and (out / "compress.json").exists())
        # The report is written last: where it is, nothing may be missing.
        looked_finished = set(markers_of(out)) if (out / "compress.json").exists() else None
        state = out.with_name(f"{out.name}.state")
        finished = CompletionRecords(state / "done").names()
        logs = {path.name for path in (state / "log").glob("*.jsonl")}
        for _ in range(3):
            result = subprocess.run(
                command(source, out, *FLAGS), cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
            if result.returncode == 0:
                break
            time.sleep(1)  # an orphaned worker may still be ending
        assert result.returncode == 0, result.stderr
        after = markers_of(out)
        assert looked_finished is None or looked_finished == set(after)
        done = {path: facts for path, facts in kept.items() if "finish" not in path}
        assert {path: after[path] for path in done} == done, "a finished unit was done again"
        assert not finished_in(out, known=logs) & finished, "the log tells of a finished unit that was done again"
        assert images_of(out) == expected
    assert killed >= kills // 2, "most jobs must have been alive when they were hit"


def test_ranks_give_identical_bytes(undisturbed: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    source, expected = undisturbed
    launcher = Path(sys.executable).parent / "mpiexec"
    for ranks in (1, 2, 4):
        out = tmp_path / f"out{ranks}"
        mpi = [str(launcher), "-n", str(ranks), sys.executable, "-m", "mpi4py", *command(source, out, *FLAGS)[1:]]
        subprocess.run(mpi, cwd=REPOSITORY, check=True, capture_output=True, timeout=280)
        assert images_of(out) == expected, f"{ranks} ranks"
