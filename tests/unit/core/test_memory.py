"""How much memory may be used, as the machine and control groups of both kinds say."""

from pathlib import Path

import pytest

from lading.core import memory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PROC", "GROUPS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(memory, name, tmp_path / name)
    (tmp_path / "PROC/meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:    2000 kB\n")
    (tmp_path / "PROC/self").mkdir()
    return tmp_path


def group(machine: Path, line: str, **limits: str) -> None:
    with (machine / "PROC/self/cgroup").open("a") as stream:
        stream.write(f"{line}\n")
    for path, text in limits.items():
        file = (
            machine
            / "GROUPS"
            / path.replace("__", "/").replace("max", "memory.max").replace("limit", "memory.limit_in_bytes")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def test_without_limits_it_is_what_the_machine_has(machine: Path) -> None:
    assert memory.usable_bytes() == 2000 * 1024
    group(machine, "0::/job/step", job__max="max")
    assert memory.usable_bytes() == 2000 * 1024


def test_the_least_limit_of_the_groups_above_counts(machine: Path) -> None:
    group(machine, "0::/slurm/job/step", slurm__max="900000", slurm__job__max="700000", slurm__job__step__max="max")
    assert memory.usable_bytes() == 700_000


def test_groups_of_the_first_version(machine: Path) -> None:
    group(machine, "5:cpu,cpuacct:/job", cpu__job__limit="1")
    group(machine, "4:memory:/job", memory__job__limit="600000", memory__limit="9223372036854771712")
    assert memory.usable_bytes() == 600_000


def test_what_cannot_be_read_bounds_nothing(machine: Path) -> None:
    (machine / "PROC/meminfo").unlink()
    assert memory.usable_bytes() == 1 << 62
