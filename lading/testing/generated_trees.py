"""Made-up trees in the shapes that data centres keep, as find.json bytes.

Input: a shape, a number of files, a seed. Output: find.json with its meta
file, written without any file on disk behind it.
Invariant: the same arguments give the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lading.tree.size_tree import TreeMeta, meta_path, write_meta

ROOT = "/data/release"
# A directory is a dict of its children, a file its size in bytes.
Content = dict[str, Any]


def many_small(files: int, seed: int = 1) -> Content:
    """Spectra by night and tile: sky-survey files of 10 kB to 100 MB, median 1 MB, 20 to 60 a directory."""
    random = np.random.default_rng(seed)
    tree: Content = {}
    made = night = 0
    while made < files:
        tiles: Content = {}
        for tile in range(int(random.integers(10, 60))):
            count = min(int(random.integers(20, 60)), files - made)
            sizes = np.clip(random.lognormal(13.8, 1.6, count), 10_000, 100_000_000).astype(int).tolist()
            tiles[f"{80_000 + tile + night * 7}"] = {
                f"spectra-{number % 10}-{number:05d}.fits.gz": size for number, size in enumerate(sizes)
            }
            made += count
            if made >= files:
                break
        tree.setdefault(f"{2021 + night // 300}", {})[f"{20210000 + night // 28 * 100 + night % 28 + 1}"] = tiles
        night += 1
    return {"spectro": {"redux": tree}, "README.txt": 2_000}


def few_huge(files: int, seed: int = 2) -> Content:
    """Recordings: per session one or two raw files of 1 to 300 GB, a video or two, and a dozen small ones."""
    random = np.random.default_rng(seed)
    tree: Content = {}
    made = session = 0
    while made < files:
        probes = {}
        for probe in range(int(random.integers(1, 4))):
            probes[f"Neuropix-PXI-100.Probe{'ABC'[probe]}-AP"] = {
                "continuous.dat": int(np.clip(random.lognormal(23.6, 1.1), 1e9, 3e11)),
                "sample_numbers.npy": int(random.integers(400_000_000, 900_000_000)),
                "timestamps.npy": int(random.integers(400_000_000, 900_000_000)),
            }
            made += 3
        videos = {
            f"camera_{side}.mp4": int(np.clip(random.lognormal(20.5, 0.8), 1e7, 8e9)) for side in ("body", "face")
        }
        small = {f"log_{number:02d}.csv": int(random.lognormal(11, 2)) + 1 for number in range(12)}
        made += 14
        tree[f"ecephys_{600_000 + session * 37 % 99_991:06d}_2023-{session % 12 + 1:02d}-{session % 28 + 1:02d}"] = {
            "ecephys": {"Record Node 101": probes},
            "behavior-videos": videos,
            "behavior": small,
        }
        session += 1
    return tree


def zarr_like(files: int, seed: int = 3) -> Content:
    """Imaging: stores of a hundred thousand chunks of 0.2 to 4 MB, nested (``t/c/z/y/x``) and, every fourth, flat."""
    random = np.random.default_rng(seed)
    tree: Content = {}
    made = store = 0
    while made < files:
        chunks = min(100_000, files - made)
        sizes = np.clip(random.normal(2e6, 6e5, chunks), 2e5, 4e6).astype(int).tolist()
        level: Content = {".zarray": 400, ".zattrs": 120}
        if store % 4 == 3:
            level |= {f"{n // 2500}.{n // 50 % 50}.{n % 50}": size for n, size in enumerate(sizes)}
        else:
            for n, size in enumerate(sizes):
                level.setdefault("0", {}).setdefault("0", {}).setdefault(str(n // 2500), {}).setdefault(
                    str(n // 50 % 50), {}
                )[str(n % 50)] = size
        made += chunks
        tree[f"SmartSPIM_{700_000 + store}"] = {
            "SPIM.ome.zarr": {f"tile_x_{store % 4:04d}.zarr": {"0": level, ".zgroup": 24}},
            "metadata.json": 9_000,
        }
        store += 1
    return tree


SHAPES = {"many small": many_small, "few huge": few_huge, "zarr": zarr_like}


def encode(name: str, content: Content) -> Iterator[str]:
    """Yield find.json of a tree of dicts (of any depth, children sorted as the format wants)."""
    text, _ = _encode(name, content)
    yield text


def _encode(name: str, content: Content) -> tuple[str, int]:
    directories = sorted(item for item in content.items() if isinstance(item[1], dict))
    files = sorted(item for item in content.items() if not isinstance(item[1], dict))
    parts, total = [], 0
    for child, below in directories:
        text, size = _encode(child, below)
        parts.append(text)
        total += size
    for child, size in files:
        parts.append(f"[{json.dumps(child)},1,{size}]")
        total += size
    return f"[{','.join([json.dumps(name), '0', str(total), *parts])}]", total


def write(directory: Path, content: Content) -> Path:
    """Write find.json and find.meta.json; returns the tree's path."""
    path = directory / "find.json"
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for text in [*encode("release", content), "\n"]:
            data = text.encode()
            digest.update(data)
            stream.write(data)
    write_meta(meta_path(path), TreeMeta(ROOT, {}, digest.hexdigest(), 0, 0, 0, 0, 0, 0, "", ""))
    return path
