"""Where each file lands: path → key, remap rules, and what a bucket cannot hold.

Input: ROOT (the directory that maps to the bucket's top), the plan's root
below it, the bucket prefix, remap rules. Output: a key per path.
Invariant: a rule takes whole path components, the longest match wins; a key
has no ``.``, ``..`` or empty segment and fits the server; bytes that are
no UTF-8 become ``%XX``, since a key is UTF-8 text.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lading.core.bounded import parse_json
from lading.core.errors import UsageError, usage_errors
from lading.objectstore.capacity import KEY_BYTES

# How the objects are named by which a run proves that a bucket can be used; later runs delete those left behind.
PROBE_NAME = ".lading-canary-"

_UNHOLDABLE = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")
_BAD_SEGMENT = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)")
# AWS names new buckets in lower case, up to 63 bytes; old ones and other servers allow more.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True)
class KeyPrefix:
    """A bucket and the prefix below it: empty, or ending in ``/``."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def parse_key_prefix(text: str) -> KeyPrefix:
    """Return the place of ``s3://bucket`` or ``s3://bucket/prefix``."""
    scheme, _, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or (prefix and _BAD_SEGMENT.search(prefix)):
        wrong = f"{text!r} is not a bucket" if text else "no bucket is given"
        raise UsageError(f"{wrong}; write it like bucket=s3://name or bucket=s3://name/prefix")
    return KeyPrefix(bucket, prefix + "/" if prefix else "")


def parse_remap(text: str, root: str, plan_root: str) -> dict[str, str]:
    """Return {source relative to ``root``: target relative to the bucket prefix}.

    ``text`` is a JSON object of paths. A relative source is relative to
    ``plan_root``, an absolute one must lie below ``root``. Raises
    ``UsageError`` with every fault of the rules.
    """
    try:
        rules = parse_json(text or "{}")
    except ValueError as error:
        raise UsageError(
            f'the remap is not JSON ({error}); write it like remap=\'{{"spectro/data": "raw_spectro_data"}}\''
        ) from error
    if not isinstance(rules, dict) or not all(isinstance(target, str) for target in rules.values()):
        raise UsageError("the remap must be a JSON object of two paths each: source in the release, target in bucket")
    faults: list[str] = []
    parsed: dict[str, str] = {}
    for source, target in rules.items():
        absolute = os.path.normpath(os.path.join(plan_root, source))
        place = target.strip("/")
        if not is_below(absolute, root):
            faults.append(f"remap: {source!r} is not below {root}")
        elif place and _BAD_SEGMENT.search(place):
            faults.append(f"remap: the target {target!r} has an empty, '.' or '..' segment")
        elif parsed.setdefault(relative(absolute, root), place) != place:
            faults.append(f"remap: {source!r} is mapped twice")
    if faults:
        raise usage_errors(faults)
    return parsed


def is_below(path: str, root: str) -> bool:
    """Tell whether ``path`` is ``root`` or lies below it; both absolute and normal."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def relative(path: str, root: str) -> str:
    """Return ``path`` relative to ``root``: empty when they are the same."""
    return path[len(root.rstrip("/")) + 1 :]


def encode_key(name: str) -> str:
    """Return ``name`` as a key: each byte that is no UTF-8 (a lone surrogate here) or a control character as ``%XX``.

    S3 answers in XML 1.0, which has no control characters: servers and
    clients lose, refuse or mangle keys that hold one.
    """
    if name.isprintable():
        return name
    return _UNHOLDABLE.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def key_error(key: str, most_bytes: int = KEY_BYTES) -> str | None:
    """Return why the server, which takes keys of ``most_bytes``, cannot hold this one, or None."""
    if len(key) > most_bytes // 4 and len(key.encode()) > most_bytes:
        length = len(key.encode())
        return f"its key has {length:,} bytes, the server accepts {most_bytes:,}; if it accepts more: --max-key-bytes"
    if "/." in key or "//" in key or key.startswith((".", "/")) or key.endswith("/"):
        match = _BAD_SEGMENT.search(key)
        if match:
            return f"its key has the segment {match[0].strip('/')!r}"
        if f"/{PROBE_NAME}" in f"/{key}":
            return (
                f"its key has a segment {PROBE_NAME}…, the name of test objects that uploads delete; remove or remap it"
            )
    return None


class KeyMap:
    """Maps paths relative to the plan's root to keys; counts what each rule took."""

    def __init__(self, root: str, plan_root: str, prefix: str, rules: Mapping[str, str]) -> None:
        if not is_below(plan_root, root):
            raise UsageError(f"the plan was made from {plan_root}, which is not below ROOT {root}")
        inner = relative(plan_root, root)
        self.prefix = prefix
        self._default = encode_key(prefix + (inner + "/" if inner else ""))
        # A rule at or above the plan's root moves everything; only the longest such rule counts.
        above = max((source for source in rules if is_below_relative(inner, source)), key=len, default=None)
        if above is not None:
            rest = inner[len(above) :].lstrip("/")
            head = "/".join(part for part in (rules[above], rest) if part)
            self._default = encode_key(prefix + (head + "/" if head else ""))
        cut = len(inner) + 1 if inner else 0
        inside = [
            (source[cut:], target)
            for source, target in rules.items()
            if source != inner and is_below_relative(source, inner)
        ]
        self._rules = sorted(inside, key=lambda rule: -len(rule[0]))
        self.taken = {source: 0 for source, _ in self._rules}
        self._foreign = [s for s in rules if not is_below_relative(s, inner) and not is_below_relative(inner, s)]

    def key(self, path: str) -> str:
        """Return the key of a file; ``path`` is relative to the plan's root."""
        for source, target in self._rules:
            if path.startswith(source) and (len(path) == len(source) or path[len(source)] == "/"):
                self.taken[source] += 1
                rest = path[len(source) :].lstrip("/")
                joined = "/".join(part for part in (target, rest) if part)
                return encode_key(self.prefix + joined)
        return encode_key(self._default + path)

    def roots(self) -> list[str]:
        """Return key prefixes that cover every key of the plan, none inside another."""
        heads = {self._default, *(encode_key(self.prefix + target) for _, target in self._rules)}
        found: list[str] = []
        for head in sorted(heads):
            if not found or not head.startswith(found[-1]):
                found.append(head)
        return found

    def unused(self) -> list[str]:
        """Return the rules that took nothing: most likely misspelt."""
        return [source for source, count in self.taken.items() if not count] + self._foreign


def is_below_relative(path: str, base: str) -> bool:
    """Tell whether a relative path is ``base`` or lies below it; "" is the top."""
    return not base or path == base or path.startswith(base + "/")


def collisions(pairs: Iterable[tuple[str, str]], suspects: set[str]) -> list[str]:
    """Return a sentence for each key of ``suspects`` that two of the (path, key) pairs share."""
    first: dict[str, str] = {}
    faults = []
    for path, key in pairs:
        if key in suspects:
            other = first.setdefault(key, path)
            if other != path:
                faults.append(f"{other!r} and {path!r} would have the same key, {key!r}")
    return faults
