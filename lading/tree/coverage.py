"""What a plan leaves behind: paths that the crawl could not read, links, sockets, and what was left out on purpose.

Input: the crawl's meta data and what of the tree is selected. Output: a
``Coverage``, carried by batch.json, so that each later stage can tell without
find.meta.json; its text for people.
Invariant: what could not be read makes a plan incomplete, and nothing but a
new crawl, or leaving it out by name, makes it complete again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lading.core.progress import counted
from lading.tree.not_regular import NotRegular, decode_not_regular, encode_not_regular
from lading.tree.size_tree import TreeMeta, Unreadable, decode_path

# The names that travel: at most so many, of at most so many characters together; the meta file has all.
MOST_NAMED = 100
MOST_CHARACTERS = 65536
# How many of them a line on the terminal shows.
SHOWN = 5

# What of a crawl's settings leaves entries out, and the value that leaves out none.
_LEAVES_OUT = {"links": "record", "exclude": [], "one_file_system": False, "depth": None}


@dataclass(frozen=True)
class Coverage:
    """What is selected of a release and is in no batch.

    unreadable  paths that the crawl could not read; ``named`` holds the first of them
    links       symbolic links; others: sockets, pipes, devices, links that lead nowhere
    left_out    settings of the crawl that left entries out: exclude, links, one_file_system, depth; and
                artefacts, Lading's own files inside the release
    known       False when neither the plan nor the meta data of its tree says what was read
    not_regular what of the selection is no regular file; None where the crawl did not record it
    """

    unreadable: int = 0
    named: tuple[Unreadable, ...] = ()
    links: int = 0
    others: int = 0
    left_out: Mapping[str, Any] = field(default_factory=dict)
    known: bool = True
    not_regular: NotRegular | None = None

    @property
    def complete(self) -> bool:
        """True when the crawl read everything that is selected."""
        return self.known and not self.unreadable

    def names(self, show: Callable[[str], str]) -> str:
        """Return the first unreadable paths as people read them."""
        text = ", ".join(show(bad.path) for bad in self.named[:SHOWN])
        return text + (" …" if self.unreadable > min(SHOWN, len(self.named)) else "")


UNKNOWN = Coverage(known=False)
ADVICE = (
    "make it readable and crawl again (rm find.json; make find.json batch.json upload verify), or leave it out by name "
    "(find_flags='--exclude NAME')"
)


def make_coverage(
    meta: TreeMeta, unreadable: Iterable[Unreadable], links: int, others: int, chosen: NotRegular | None = None
) -> Coverage:
    """Return the coverage of a selection: its unreadable paths, links and others in a crawl that ``meta`` describes.

    ``chosen``: what of the selection is no regular file, where it is not all that the crawl found.
    """
    bad = tuple(unreadable)
    left_out = {
        name: meta.settings[name]
        for name, nothing in _LEAVES_OUT.items()
        if meta.settings.get(name, nothing) not in (nothing, "follow")
    }
    if meta.artefacts:
        left_out["artefacts"] = list(meta.artefacts[:MOST_NAMED])
    kinds = chosen or meta.not_regular
    return Coverage(
        len(bad),
        first_names(bad),
        links,
        others,
        left_out,
        not_regular=kinds and kinds.with_unreadable((path.path for path in bad), len(bad)),
    )


def first_names(unreadable: Sequence[Unreadable]) -> tuple[Unreadable, ...]:
    """Return the first paths, within the bounds of what travels."""
    room = MOST_CHARACTERS
    for count, bad in enumerate(unreadable[:MOST_NAMED]):
        room -= len(bad.path) + len(bad.message)
        if room < 0:
            return tuple(unreadable[:count])
    return tuple(unreadable[:MOST_NAMED])


def encode_unreadable(unreadable: Iterable[Unreadable]) -> list[dict[str, Any]]:
    """Return paths in their JSON form."""
    return [{"path": bad.path, "errno": bad.errno, "message": bad.message} for bad in unreadable]


def encode_coverage(coverage: Coverage) -> dict[str, Any]:
    """Return the JSON form: ``crawl`` in batch.json and in the records of runs."""
    record: dict[str, Any] = {
        "complete": coverage.complete,
        "unreadable": coverage.unreadable if coverage.known else None,
        "named": encode_unreadable(coverage.named),
        "links": coverage.links,
        "others": coverage.others,
        "left_out": dict(coverage.left_out),
    }
    if coverage.not_regular is not None:
        record["not_regular"] = encode_not_regular(coverage.not_regular)
    return record


def decode_coverage(value: Any) -> Coverage:
    """Return the coverage of its JSON form; ``ValueError`` when it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"crawl is {type(value).__name__}, not an object")
    if not isinstance(value.get("left_out"), dict):
        raise ValueError("crawl does not say what was left out")
    unreadable, links, others = (_count(value, name) for name in ("unreadable", "links", "others"))
    kinds = decode_not_regular(value["not_regular"]) if "not_regular" in value else None
    named = decode_unreadable(value.get("named"))
    return Coverage(unreadable, named, links, others, value["left_out"], not_regular=kinds)


def _count(value: Mapping[str, Any], name: str) -> int:
    count = value.get(name)
    if type(count) is not int or count < 0:
        raise ValueError(f"crawl has {count!r} as its number of {name}")
    return count


def decode_unreadable(value: Any) -> tuple[Unreadable, ...]:
    """Return paths of their JSON form; ``ValueError`` when it is none."""
    if not isinstance(value, list):
        raise ValueError("the unreadable paths are not a list")
    found = []
    for item in value:
        found.append(decode_path(item))
    return tuple(found)


def describe_gap(coverage: Coverage, show: Callable[[str], str]) -> str:
    """Return what makes a plan incomplete as one clause, "" when nothing does."""
    if not coverage.known:
        return "it is not recorded whether the crawl could read everything"
    if not coverage.unreadable:
        return ""
    paths = counted(coverage.unreadable, "path")
    return f"the crawl could not read {paths}: {coverage.names(show)}"


def describe_rest(coverage: Coverage, show: Callable[[str], str]) -> str:
    """Return what else is in no batch as one line, "" when there is nothing."""
    if coverage.not_regular is not None:
        return "; ".join(coverage.not_regular.describe(show, without=("unreadable",)))
    parts = []
    if coverage.links:
        parts.append(counted(coverage.links, "link"))
    if coverage.others:
        parts.append(f"{coverage.others:,} sockets, pipes, devices or broken links")
    return " and ".join(parts)
