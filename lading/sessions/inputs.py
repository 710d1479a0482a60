"""The small files that decide how a job is done, beside its row: noticed when somebody corrects them.

Input: a job. Output: a digest of what its ``extra_configs`` and its ``metadata_dir`` hold.
Invariant: a file that is gone changes nothing: it was read when it was needed, or its task says that it lacks.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lading.sessions.job_model import Job

CONFIGS, METADATA = "extra_configs", "metadata_dir"


def read_inputs(job: Job) -> dict[str, str]:
    """Return a digest for each kind of file that the job has."""
    configs = [entry.extra_configs for entry in job.modalities if entry.extra_configs]
    found = {CONFIGS: _digest(configs)} if configs else {}
    if job.metadata_dir and job.metadata_dir.is_dir():
        with suppress(OSError):  # what cannot be listed is said when it is needed
            found[METADATA] = _digest(json_files(job.metadata_dir))
    return {kind: digest for kind, digest in found.items() if digest}


def json_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder, sorted; ``OSError`` when it cannot be listed, which a glob passes over."""
    return sorted(folder / name for name in os.listdir(folder) if name.endswith(".json"))


def changed_inputs(noted: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """Return the kinds that are not what was noted; what was never noted, or is gone, is none of them."""
    return {kind for kind, digest in now.items() if kind in noted and noted[kind] != digest}


def _digest(paths: Iterable[Path]) -> str:
    """Return a digest over names and contents; "" when some of it cannot be read."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            return ""
        whole.update(hashlib.sha256(bytes(path)).digest() + hashlib.sha256(content).digest())
    return whole.hexdigest()
