"""What ``lading publish`` puts beside the data: names that an audit knows.

Input: a key. Output: whether it is of a published set.
Invariant: only these names, and only in this folder of the release, are not extra.
"""

from lading.objectstore.keys import PROBE_NAME

FOLDER = "_lading/"
MANIFEST, SUMS, INDEX = "manifest.jsonl.zst", "SHA256SUMS", "index.json"
_SIGNED = tuple(MANIFEST + ending for ending in (".signed", ".signed.sig", ".signed.minisig", ".rows"))
PUBLISHED = frozenset({MANIFEST, *_SIGNED, SUMS, INDEX, "files.jsonl.gz", "check.py", "changes.json"})


def is_of_lading(key: str, prefix: str) -> bool:
    """Tell whether an object beside the release of a prefix is of Lading: published, or left by a probe."""
    place = prefix + FOLDER
    return key.rpartition("/")[2].startswith(PROBE_NAME) or (key.startswith(place) and key[len(place) :] in PUBLISHED)
