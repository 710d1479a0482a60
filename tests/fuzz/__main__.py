"""Fuzz a compiled module for a while: build it with libFuzzer, run it on this machine, say what came of it.

    python -m tests.fuzz walk --seconds 3600 --keep corpus

Exits with 1 when something was found; the input that shows it is in the directory ``--keep`` then.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests import sanitizing
from tests.conftest import REPOSITORY
from tests.fuzz.targets import TARGETS
from tests.sanitizing import FUZZ

HERE = Path(__file__).parent
# Runs inside an interpreter with the sanitizer: both modules are of one library.
CHILD = """
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from tests.fuzz.targets import TARGETS

def load(name, library):
    loader = ExtensionFileLoader(name, library)
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module

target, library, *arguments = sys.argv[1:]
fuzz = load("_fuzz", library)
judge = TARGETS[target].judge(load(TARGETS[target].module, library), fuzz)
fuzz.run([b"fuzz", *map(str.encode, arguments)], judge)
"""


@dataclass(frozen=True)
class Run:
    """What came of fuzzing: how many inputs were tried, and the report of what was found, if anything was."""

    executions: int
    finding: str


def build(name: str, directory: Path) -> Path:
    """Build a target; the library."""
    target = TARGETS[name]
    archive = sanitizing.ask_compiler(FUZZ.compiler, "libclang_rt.fuzzer_no_main-x86_64.a")
    more = [str(HERE / "driver.c"), archive, "-lstdc++", "-lm", "-ldl"]
    if target.fake_files:
        more = ["-DFAKE_FILES", "-include", str(HERE / "fake_files.h"), str(HERE / "fake_files.c"), *more]
    library = directory / f"{name}.so"
    sanitizing.build(target.module, FUZZ, library, more)
    return library


def run(name: str, library: Path, corpus: Path, seconds: int) -> Run:
    """Fuzz for so many seconds; inputs that were worth it, and those that show a fault, are left in ``corpus``."""
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={TARGETS[name].longest}", f"-artifact_prefix={corpus}/found-"]
    options += ["-print_final_stats=1", "-detect_leaks=0", "-timeout=20", "-rss_limit_mb=4096", "-verbosity=1"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, name, str(library), *options, str(corpus)],
        cwd=REPOSITORY,
        env=sanitizing.environment(FUZZ, REPOSITORY),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + 300,
    )
    count = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    executions = int(count[1]) if count else 0
    if done.returncode == 0 and executions:
        return Run(executions, "")
    start = re.search(r"runtime error|ERROR: |Traceback|WARNING: ", done.stderr)
    report = done.stderr[max(0, start.start() - 200) if start else 0 :]
    return Run(executions, done.stdout[-1000:] + report[:4000] + "\n…\n" + report[4000:][-1500:])


def main() -> int:
    """Build and run one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="directory of the inputs; used again, and added to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lading-fuzz-") as scratch:
        library = build(arguments.target, Path(scratch))
        corpus = arguments.keep or Path(scratch) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        found = run(arguments.target, library, corpus, arguments.seconds)
    print(f"{arguments.target}: {found.executions} inputs in {arguments.seconds} s", found.finding, sep="\n")
    return 1 if found.finding else 0


if __name__ == "__main__":
    sys.exit(main())
