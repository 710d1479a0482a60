"""The import rules of docs/design.md, checked over the syntax tree of every module."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Rule 1: formats, errors and files use the standard library and the one JSON/compression library.
FOUNDATION = {
    "lading.errors",
    "lading.files",
    "lading.formats",
    "lading.opening",
    "lading.times",
    "lading.bounded",
    "lading.streams",
    "lading.startup",
    "lading.coordination",
    "lading.core",
}
FOUNDATION_MAY = {"zstandard", "orjson", "msgspec"}
# Rule 2: a mechanism folder imports the foundation, the shared command line, itself and the cluster facts.
MECHANISMS = ("crawl", "cut", "transfer", "mirror", "report", "cluster")
SHARED = {
    "lading.errors",
    "lading.files",
    "lading.children",
    "lading.compiled",
    "lading.formats",
    "lading.opening",
    "lading.times",
    "lading.streams",
    "lading.bounded",
    "lading.yamlfile",
    "lading.cli",
    "lading.progress",
    "lading.cluster",
    "lading.coordination",
    "lading.core",
    "lading",
}
# Rule 4: nothing imports what composes.
COMPOSERS = ("find", "batch", "upload", "jobs.workflow", "jobs.service", "demo")
# Rule 3: what compression must not know of.
COMPRESS_NEVER = (
    "dask",
    "distributed",
    "dask_mpi",
    "mpi4py",
    "subprocess_s5cmd",
    "boto3",
    "requests",
    "httpx",
    "urllib",
)
# Joins the two sides that know nothing of each other.
COMPRESS_COMPOSERS = ("jobs.compress.command", "jobs.compress.launch")
# Rule 5: each outside tool or heavy library has one owner (or one folder).
OWNERS = {
    "mpi4py": ("lading/cluster/mpi.py",),
    "dask": ("lading/cluster/daskpool.py",),
    "distributed": ("lading/cluster/daskpool.py",),
    "dask_mpi": ("lading/cluster/daskpool.py",),
    "boto3": ("lading/transfer/store.py", "jobs/remote/"),
    "botocore": ("lading/transfer/store.py", "jobs/remote/"),
    "awscrt": ("lading/transfer/checksum.py",),
    "obstore": ("lading/transfer/obstore",),
    "zstandard": ("lading/formats/", "lading/files.py", "lading/crawl/"),
    "rich": ("lading/progress.py", "lading/cli/", "lading/report/"),
    "zarr": ("jobs/compress/",),
    "numcodecs": ("jobs/compress/",),
    "pcodec": ("jobs/compress/",),
    "h5py": ("jobs/compress/",),
    "tifffile": ("jobs/compress/",),
    "pyminizip": ("jobs/compress/",),
    "pyzipper": ("jobs/compress/",),
    "fastapi": ("jobs/service/",),
    "uvicorn": ("jobs/service/",),
    "openpyxl": ("jobs/table.py", "jobs/service/"),
}
# What a crawl rank must never load: it would cost seconds times thousands of ranks.
HEAVY = ("boto3", "botocore", "dask", "distributed", "zarr", "numpy", "pydantic", "fastapi")


def sources() -> Iterator[Path]:
    """Yield the product's modules; tests, benchmarks and the demo compose freely."""
    for pattern in ("find.py", "batch.py", "upload.py", "lading/**/*.py", "jobs/**/*.py"):
        yield from sorted(REPOSITORY.glob(pattern))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import, at any depth of the syntax tree."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def inside(name: str, packages: tuple[str, ...] | set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", list(sources()), ids=module_name)
def test_rules(path: Path) -> None:
    name = module_name(path)
    relative = str(path.relative_to(REPOSITORY))
    faults = []
    for line, target in imports(path):
        top = target.split(".")[0]
        ours = top in ("lading", "jobs", "find", "batch", "upload", "demo", "tests", "bench")
        where = f"{relative}:{line}: imports {target}"
        if inside(name, FOUNDATION) and (
            not inside(target, FOUNDATION | {"lading"})
            if ours
            else top not in sys.stdlib_module_names and top not in FOUNDATION_MAY
        ):
            faults.append(f"{where}: the foundation knows only itself and the standard library")
        parts = name.split(".")
        if parts[0] == "lading" and len(parts) > 1 and parts[1] in MECHANISMS and ours:
            own = f"lading.{parts[1]}"
            if not inside(target, SHARED - {"lading"} | {own}) and target != "lading":
                faults.append(f"{where}: a mechanism imports the foundation and itself, never another mechanism")
        if parts[0] == "lading" and top == "jobs":
            faults.append(f"{where}: lading never imports jobs")
        if name.startswith("jobs.compress") and inside(target, COMPRESS_NEVER):
            faults.append(f"{where}: compression knows data, not clusters or networks")
        if name.startswith("jobs.compress") and inside(target, ("lading.cluster",)) and name not in COMPRESS_COMPOSERS:
            faults.append(f"{where}: only the launch joins kinds and engines")
        if inside(target, COMPOSERS) and not (
            # The commands are the command line's half of the composers, as jobs.service is the page's.
            inside(name, ("jobs.service", "jobs.commands")) or name in ("jobs.__main__", "jobs.workflow")
        ):
            faults.append(f"{where}: nothing imports what composes")
        owners = OWNERS.get(top)
        if owners and not ours and not relative.startswith(owners):
            faults.append(f"{where}: only {', '.join(owners)} may")
    assert not faults, "\n".join(faults)


def test_crawl_ranks_load_nothing_heavy(run) -> None:
    """``find.py`` with everything it imports stays light."""
    code = f"import sys, find; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = run("-c", code, cwd=REPOSITORY)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
