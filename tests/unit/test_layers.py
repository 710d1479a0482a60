"""The layers of DESIGN section 2, checked by reach, and which module may load which library."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# A room may load rooms of lower floors, and itself. Rooms of one floor know nothing of each other, but for NEIGHBOURS.
FLOORS = (
    ("core",),
    ("coordination", "tree", "objectstore", "journal", "checksums"),
    ("plan", "parallel"),
    ("verification",),
    ("crawl", "upload", "restore", "copy", "export", "diff", "mirror", "report", "compress"),
    ("sessions", "signoff", "fleet"),
    ("portal",),
    ("cli", "testing"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The five rooms of floor 1 may use each other, in this order and never in a circle.
NEIGHBOURS = ("coordination", "checksums", "objectstore", "tree", "journal")
# Run by make before there is an environment: it knows nothing but the standard library.
LAUNCHERS = ("lading.environment",)
# Each outside tool or heavy library has one owner (or one folder).
OWNERS = {
    "mpi4py": ("lading/parallel/mpi.py",),
    "dask": ("lading/parallel/dask_pool.py",),
    "distributed": ("lading/parallel/dask_pool.py",),
    "dask_mpi": ("lading/parallel/dask_pool.py",),
    "boto3": ("lading/sessions/services/", "lading/testing/"),
    "botocore": (
        "lading/objectstore/s3_requests.py",
        "lading/objectstore/profile.py",
        "lading/sessions/services/",
    ),
    "awscrt": ("lading/checksums/digest.py", "lading/upload/engines/crt_worker.py"),
    "obstore": ("lading/upload/engines/obstore", "lading/objectstore/cloud_store.py"),
    "zstandard": ("lading/core/", "lading/verification/manifest.py", "lading/tree/", "lading/crawl/"),
    "rich": ("lading/core/", "lading/report/", "lading/cli/"),
    "yaml": ("lading/core/yaml_file.py",),
    "zarr": ("lading/compress/",),
    "numcodecs": ("lading/compress/",),
    "pcodec": ("lading/compress/",),
    "h5py": ("lading/compress/",),
    "tifffile": ("lading/compress/", "lading/testing/"),
    "pyarrow": ("lading/crawl/from_list.py", "lading/mirror/importers/parquet_inventory.py"),
    "pyminizip": ("lading/compress/",),
    "pyzipper": ("lading/compress/",),
    "apprise": ("lading/fleet/notifiers.py",),
    "fastapi": ("lading/portal/",),
    "prometheus_client": ("lading/report/metrics.py",),
    "uvicorn": ("lading/portal/", "lading/cli/"),
    "openpyxl": ("lading/sessions/table.py", "lading/portal/"),
}
# What a crawl rank must never load: it would cost seconds times thousands of ranks.
HEAVY = ("boto3", "botocore", "dask", "distributed", "zarr", "numpy", "pydantic", "fastapi")
OURS = ("lading", "jobs", "find", "batch", "upload", "demo", "tests", "benchmarks")


def sources() -> Iterator[Path]:
    """Yield the product's modules; tests, benchmarks and the demo compose freely."""
    for pattern in ("find.py", "batch.py", "upload.py", "lading/**/*.py", "jobs/**/*.py"):
        yield from sorted(REPOSITORY.glob(pattern))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


@cache
def names() -> dict[str, Path]:
    return {module_name(path): path for path in sources()}


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Return (line, absolute module) of every import, at any depth of the syntax tree; of types alone too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((node.lineno, inner if inner in names() else node.module or ""))
    return tuple(found)


def room(name: str) -> str:
    """Return the room of a module; what stands in no room is an entry, as ``cli`` is."""
    if not name.startswith("lading."):
        return ""
    inner = name.split(".")[1]
    return "cli" if f"lading.{inner}" in ("lading.__main__", *LAUNCHERS) else inner


def may(name: str, target: str) -> bool:
    """Tell whether one of our modules may import another."""
    here, there = room(name), room(target)
    if not there or here == there or not here:
        return True
    if FLOOR[there] != FLOOR[here]:
        return FLOOR[there] < FLOOR[here]
    return here in NEIGHBOURS and NEIGHBOURS.index(there) < NEIGHBOURS.index(here)


@pytest.mark.parametrize("name", sorted(names()))
def test_rules(name: str) -> None:
    path = names()[name]
    relative = str(path.relative_to(REPOSITORY))
    faults = []
    for line, target in imports(path):
        top = target.split(".")[0]
        where = f"{relative}:{line}: imports {target}"
        if top == "lading" and not may(name, target):
            faults.append(f"{where}: the layers go the other way")
        if name.startswith("lading.") and top in OURS and top != "lading":
            faults.append(f"{where}: the package knows nothing outside of it")
        if name in LAUNCHERS and top not in (*sys.stdlib_module_names, "lading"):
            faults.append(f"{where}: it runs before there is anything to import")
        owners = OWNERS.get(top)
        if owners and not relative.startswith(owners):
            faults.append(f"{where}: only {', '.join(owners)} may")
    assert not faults, "\n".join(faults)


def test_imports_of_ours_resolve() -> None:
    """Also in tests, benchmarks and the demo, and inside functions: a module that was moved is found here first."""
    paths = [path for top in OURS for path in [REPOSITORY / f"{top}.py", *(REPOSITORY / top).rglob("*.py")]]
    known = {module_name(path) for path in paths if path.exists()}
    missing = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}: {node.module}"
        for path in paths
        if path.exists() and path.relative_to(REPOSITORY).parts[:2] != ("tests", "data")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        if (node.module or "").split(".")[0] in OURS
        if node.module not in known and not (REPOSITORY / (node.module or "").replace(".", "/")).is_dir()
    ]
    assert not missing


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in names() if name.count(".") > 1}
    assert rooms <= set(FLOOR)


@cache
def reach(name: str) -> frozenset[str]:
    """Return every module of ours that a module can load in the end."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        for _, target in imports(names()[todo.pop()]):
            if target in names() and target not in seen:
                seen.add(target)
                todo.append(target)
    return frozenset(seen)


def test_no_module_reaches_up() -> None:
    """By what a module can load in the end, not only by what it names."""
    faults = [
        f"{name} can load {target}"
        for name in sorted(names())
        if name.count(".") > 1
        for target in sorted(reach(name))
        if target.count(".") > 1 and FLOOR[room(target)] > FLOOR[room(name)]
    ]
    assert not faults, "\n".join(faults)


def test_no_module_reaches_itself() -> None:
    """Imports inside functions count: they only hide a circle."""
    assert [name for name in sorted(names()) if name in reach(name)] == []


def test_crawl_ranks_load_nothing_heavy(run) -> None:
    """``find.py`` with everything it imports stays light."""
    code = f"import sys, find; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = run("-c", code, cwd=REPOSITORY)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_an_upload_begins_before_the_client_of_aws_is_loaded(run) -> None:
    """It takes a third of a second: engines start and the first files are read meanwhile."""
    result = run("-c", "import sys, lading.cli.upload; print([m for m in sys.modules if m in ('botocore', 'awscrt')])")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
