"""What ``lading publish`` puts beside the data: names that an audit knows.

Input: a key. Output: whether it is of a published set.
Invariant: only these names, and only in this folder at the top of the place or of the release below it, are not extra.
"""

from collections.abc import Sequence

from lading.objectstore.keys import PROBE_NAME

FOLDER = "_lading/"
MANIFEST, SUMS, INDEX = "manifest.jsonl.zst", "SHA256SUMS", "index.json"
_SIGNED = tuple(MANIFEST + ending for ending in (".signed", ".signed.sig", ".signed.minisig", ".rows"))
PUBLISHED = frozenset({MANIFEST, *_SIGNED, SUMS, INDEX, "files.jsonl.gz", "check.py", "changes.json"})


def is_of_lading(key: str, prefix: str, roots: Sequence[str] = ()) -> bool:
    """Tell whether an object beside the release of a prefix is of Lading: published, or left by a probe.

    ``roots``: what all keys of the release begin with, where several releases are below one prefix.
    """
    top, _, name = key.rpartition("/")
    if name.startswith(PROBE_NAME):
        return True
    above, _, folder = f"/{top}".rpartition("/")
    if name not in PUBLISHED or f"{folder}/" != FOLDER:
        return False
    place = f"{above[1:]}/" if above else ""
    return place == prefix or place in roots
