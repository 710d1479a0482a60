"""What a stage needs beyond the packages that every installation has: the extras of pyproject.toml.

Input: an extra's name, or the ``ImportError`` of a package that is not there.
Output: a sentence that names the extra and the command that brings it.
Invariant: every package that an extra brings and the code imports stands in
``PACKAGES``; no module guards its own imports for this.
"""

import importlib.util
from collections.abc import Iterable

from lading.core.errors import UsageError

# Extra: the packages that show that it is there, and what goes missing without it. A package of several extras is
# said to be of the first of them, unless a command knows better.
PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "aind": (("pydantic", "aind_data_schema_models", "aind_data_schema", "openpyxl"), "job lists, metadata files"),
    "mapper": (("aind_metadata_mapper",), "settings of aind-metadata-mapper"),
    "ephys": (("zarr", "numcodecs", "pcodec", "h5py", "probeinterface"), "compression of electrophysiology"),
    "neo": (("neo",), "recordings of Intan, Blackrock, Neuralynx and other systems"),
    "imaging": (("tifffile", "zarr", "numcodecs", "h5py", "PIL"), "compression of image stacks"),
    "video": (("imageio_ffmpeg",), "transcoding of videos, unless the site has ffmpeg"),
    "portal": (("fastapi", "uvicorn", "python_multipart", "pydantic"), "portal"),
    "mirror": (("pydantic",), "DataLad mirror"),  # git-annex is a program: lading/mirror/git/commands.py looks for it
    "fleet": (("pydantic", "apprise", "prometheus_client"), "fleet of releases, alarms, metrics"),
    "obstore": (("obstore",), "upload --engine obstore, copies to gs:// and az://"),
    "mpi": (("mpi4py",), "more ranks than one"),
    "dask": (("dask", "distributed", "dask_mpi"), "compression with dask"),
    "demo": (("tifffile", "zarr", "aind_data_schema"), "demo"),  # and rclone: lading/testing/s3_server.py looks for it
}
# Of no extra: two whose wheels have to be built on the spot, with a compiler; and pyarrow, 50 MB for one kind of input.
ALONE = {"wavpack_numcodecs": "wavpack-numcodecs", "pyminizip": "pyminizip", "pyarrow": "pyarrow"}

# Of every installation, yet missed by some: what brings them.
BASE = {"awscrt": "'boto3[crt]'"}


def is_there(package: str) -> bool:
    """Tell whether a package could be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def lacking(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [package for package in PACKAGES[extra][0] if not is_there(package)]


def require(extras: Iterable[str]) -> None:
    """Raise ``UsageError`` with one sentence when an extra is not installed."""
    for extra in extras:
        if missing := lacking(extra):
            raise UsageError(describe(missing[0], extra))


def require_base(package: str, wanted: str) -> None:
    """Raise ``UsageError`` when a package that every installation should have is not there; ``wanted`` needs it."""
    if not is_there(package):
        raise UsageError(
            f"{wanted} needs the Python package {package}, which is not installed: pip install {BASE[package]}, "
            f"or in a checkout: make setup; or leave {wanted} out"
        )


def explain(error: ImportError) -> str | None:
    """Return the sentence on a package that is not there, None when no extra would bring it."""
    package = (error.name or "").partition(".")[0]
    if package in ALONE:
        return f"this needs the Python package {ALONE[package]}, which is not installed: pip install {ALONE[package]}"
    # A package that is there and lacks a part is broken, and no extra mends that.
    if not isinstance(error, ModuleNotFoundError) or "." in (error.name or "."):
        return None
    extra = next((extra for extra, (packages, _) in PACKAGES.items() if package in packages), None)
    return describe(package, extra) if extra else None


def describe(package: str, extra: str) -> str:
    """Return the sentence on a package that is not there: which extra brings it, and how."""
    return (
        f"this needs the Python package {package.replace('_', '-')}, which is not installed: "
        f"pip install 'lading[{extra}]', or in a checkout: make setup extras={extra}"
    )
