"""The compiled modules with sanitizers and fuzzers in them: one way to build and run all of them.

Input: a module as pyproject.toml names it, and a kind of build. Output: a
library, and the environment in which an interpreter that knows nothing of
sanitizers loads it.
Invariant: sources, macros and libraries are those of pyproject.toml, so that
what is tested is what is shipped; the checkout's own builds stay as they are.
"""

import os
import subprocess
import sysconfig
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY, need, need_program

_COMMON = ("-g", "-O1", "-std=c11", "-pthread", "-shared", "-fPIC", "-fno-omit-frame-pointer")


@dataclass(frozen=True)
class Kind:
    """A sanitizer: how it is built in, what is loaded before the interpreter, and how it reports."""

    compiler: str
    flags: tuple[str, ...]
    runtime: tuple[str, ...]
    environment: dict[str, str]


# The interpreter keeps memory to its end, which is no leak of ours: test_walker_memory.py looks for those.
_ADDRESS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
ADDRESS = Kind(
    "gcc",
    ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    ("libasan.so", "libubsan.so"),
    _ADDRESS,
)
THREAD = Kind("gcc", ("-fsanitize=thread",), ("libtsan.so",), {"TSAN_OPTIONS": "exitcode=66:halt_on_error=1"})
FUZZ = Kind(
    "clang",
    ("-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=undefined", "-shared-libasan"),
    ("libclang_rt.asan-x86_64.so",),
    _ADDRESS,
)


def modules() -> dict[str, dict[str, Any]]:
    """Return the compiled modules of pyproject.toml by name."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    return {module["name"]: module for module in settings["tool"]["setuptools"]["ext-modules"]}


def library_of(name: str) -> str:
    """Return where a module's library is, seen from the checkout."""
    return name.replace(".", "/") + ".abi3.so"


def find_runtime(kind: Kind) -> list[str]:
    """Return the libraries to load before the interpreter; the test is skipped without compiler or libraries."""
    need_program(kind.compiler)
    found = [ask_compiler(kind.compiler, name) for name in kind.runtime]
    need(None if all(map(os.path.isabs, found)) else f"not installed: the sanitizers' libraries of {kind.compiler}")
    return found


def ask_compiler(compiler: str, library: str) -> str:
    """Return where a compiler has a library, its bare name when it has none."""
    command = [compiler, f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def build(name: str, kind: Kind, output: Path, more: Sequence[str] = ()) -> None:
    """Build a module; ``more`` are sources, flags and libraries beside its own."""
    module = modules()[name]
    output.parent.mkdir(parents=True, exist_ok=True)
    macros = [f"-D{macro}={value}" for macro, value in module["define-macros"]]
    libraries = [f"-l{library}" for library in module.get("libraries", [])]
    command = [kind.compiler, *_COMMON, *kind.flags, *macros, "-I", sysconfig.get_path("include")]
    subprocess.run([*command, *module["sources"], "-o", str(output), *more, *libraries], cwd=REPOSITORY, check=True)


def environment(kind: Kind, *path: Path) -> dict[str, str]:
    """Return the environment of an interpreter that loads such a build, modules looked for in ``path`` first."""
    places = os.pathsep.join(map(str, path))
    return os.environ | kind.environment | {"PYTHONPATH": places, "LD_PRELOAD": ":".join(find_runtime(kind))}
