"""Which forms a manifest is exported in.

Input: a form's name. Output: its writer.
"""

from collections.abc import Callable
from pathlib import Path

from lading.export.addresses import Addresses
from lading.export.linked_data import write_croissant, write_ro_crate
from lading.export.parquet import write_parquet
from lading.export.writers import (
    Exported,
    write_bag,
    write_check,
    write_csv,
    write_directory_sums,
    write_pooch,
    write_sums,
)
from lading.export.zarr_manifests import write_zarr_manifests
from lading.verification.manifest import Manifest

FORMS: dict[str, Callable[[Manifest, Path, Addresses], Exported]] = {
    "sha256sums": write_sums,
    "directory-sums": write_directory_sums,
    "bagit": write_bag,
    "csv": write_csv,
    "parquet": write_parquet,
    "pooch": write_pooch,
    "check": write_check,
    "ro-crate": write_ro_crate,
    "croissant": write_croissant,
    "zarr-manifest": write_zarr_manifests,
}
