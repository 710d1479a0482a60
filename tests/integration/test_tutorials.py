"""The command blocks of the tutorials, run in order as a reader types them, against the S3 server of the demo."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lading.core.extras import PACKAGES
from lading.testing.s3_server import serve
from tests.conftest import REPOSITORY, need_program
from tests.reading import Block, blocks

SECONDS = 300
MARK = "=== block "
DOTALL = re.DOTALL | re.MULTILINE
# What a reader has as an alias: make with the makefile of the checkout, whose environment is that of this test.
STAMPS = (".ready", *(f".ready-{extra}" for extra in (*PACKAGES, "optional", "docs", "tests")))
BUILT = " ".join(f"-o {sys.prefix}/{stamp}" for stamp in STAMPS)
PREAMBLE = f"""\
set -euo pipefail
LADING={REPOSITORY}
make() {{ command make --no-print-directory -s -f {REPOSITORY}/makefile {BUILT} \\
  venv={sys.prefix} here=1 "$@"; }}
lading() {{ PYTHONPATH={REPOSITORY} {sys.executable} -m lading "$@"; }}
"""
DATALAD = {
    # git-annex refuses servers on private addresses unless told otherwise.
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "annex.security.allowed-ip-addresses",
    "GIT_CONFIG_VALUE_0": "127.0.0.1",
}


def check_session(printed: str) -> None:
    """What README.md shows as a session is what the first tutorial prints."""
    found = re.search(r"^## A real session\n.*?^```text\n(.*?)^```", (REPOSITORY / "README.md").read_text(), DOTALL)
    assert found is not None
    lines = {shape(line) for line in printed.splitlines()}
    shown = [line for line in found[1].splitlines() if line and not line.startswith("$ ")]
    assert len(shown) > 5
    assert not [line for line in shown if shape(line) not in lines], printed


@contextmanager
def bucket(directory: Path, name: str, *, public: bool = False) -> Iterator[Mapping[str, str]]:
    """Serve a bucket; yields the environment that leads to it."""
    with serve(directory / "s3", directory / "s3.log", anonymous=public) as server:
        server.make_bucket(name)
        yield {**server.environment(), "AWS_ENDPOINT_URL": server.endpoint, "S3_ENDPOINT_URL": server.endpoint}


def run(page: str, directory: Path, environment: Mapping[str, str]) -> list[tuple[Block, str]]:
    """Run the blocks of a page in one shell; returns each with what it printed."""
    wanted = [block for block in blocks((REPOSITORY / page).read_text(encoding="utf-8")) if not block.why_not]
    assert wanted
    script = PREAMBLE + "".join(f"echo '{MARK}{block.line}'\n{block.commands}\n" for block in wanted)
    (directory / "page.sh").write_text(script)
    done = subprocess.run(
        ["bash", str(directory / "page.sh")],
        cwd=directory,
        env={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    pieces = re.split(rf"^{MARK}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    return list(zip(wanted, pieces, strict=True))


def shape(line: str) -> str:
    """Return a line of output without what differs from run to run: numbers, units, times."""
    line = re.sub(r"\d[\d.,:]*", "0", line)
    return re.sub(r"\b0 (?:[kMGT]?B|ms|s|min|h)\b", "0 X", line).strip()


def check_shown(ran: list[tuple[Block, str]]) -> None:
    """Each line that the page shows after a block is a line that the block prints."""
    for block, printed in ran:
        lines = {shape(line) for line in printed.splitlines()}
        missing = [line for line in block.output.splitlines() if line.strip(" …") and shape(line) not in lines]
        assert not missing, f"line {block.line}: the page shows {missing}, printed was:\n{printed}"


def test_a_release_to_a_bucket(tmp_path: Path) -> None:
    with bucket(tmp_path, "desidata") as environment:
        ran = run("docs/start/release.md", tmp_path, environment)
        check_shown(ran)
        check_session("".join(printed for _, printed in ran))
        folder = tmp_path / "dr1"
        assert (tmp_path / "s3/desidata/raw_spectro_data/20240501/desi-1.fits.fz").stat().st_size == 300_000
        sums = (folder / "SHA256SUMS").read_text().splitlines()
        assert len(sums) == 14
        subprocess.run(["sha256sum", "--quiet", "-c", folder / "SHA256SUMS"], cwd=folder / "public/edr", check=True)


def test_a_csv_of_sessions(tmp_path: Path) -> None:
    with bucket(tmp_path, "sessions") as environment:
        ran = run("docs/start/sessions.md", tmp_path, environment)
        check_shown(ran)
        prefixes = {path.name for path in (tmp_path / "s3/sessions").iterdir()}
        assert prefixes == {"ecephys_123454_2024-05-27_16-07-59", "behavior_123456_2024-05-29_09-30-00"}


def test_a_mirror(tmp_path: Path) -> None:
    need_program("datalad", "git-annex", "s5cmd")
    with bucket(tmp_path, "dandiarchive", public=True) as environment:
        ran = run("docs/start/mirror.md", tmp_path, {**environment, **DATALAD})
        check_shown(ran)


def test_give_the_data_away(tmp_path: Path) -> None:
    """In the folder of the first tutorial, whose manifest is there by then."""
    folder = tmp_path / "public" / "edr"
    folder.mkdir(parents=True)
    (folder / "a.fits").write_bytes(b"a" * 1000)
    with bucket(tmp_path, "desidata") as environment:
        stages = (
            "make find.json batch.json upload verify root=public release=public/edr bucket=s3://desidata min_batch=1k"
        )
        subprocess.run(
            ["bash", "-c", PREAMBLE + stages],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
        run("docs/howto/give-away.md", tmp_path, environment)
        assert (tmp_path / "check" / "check.py").exists()
