"""What the bucket's owner wants each object to be stored with: class, tags, metadata, Cache-Control, content type.

Input: the settings as they were given, each a value for all files or values by
pattern. Output: ``ObjectAttributes`` for a path; a sentence for each error.
Invariant: every setting is checked before anything is sent, and all errors
are found at once. Content-Encoding is never set: a client that honoured it
would unpack what was sent packed. Limits: Amazon S3 User Guide, "Object tags",
"Working with object metadata"; the classes: PutObject.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from lading.core.bounded import parse_json
from lading.core.errors import UsageError
from lading.core.progress import counted
from lading.objectstore.object_attributes import PLAIN_OBJECT, ObjectAttributes
from lading.objectstore.rclone_metadata import MOST_BYTES, rclone_metadata
from lading.objectstore.rclone_metadata import NAMES as RCLONE_NAMES
from lading.tree.globs import compile_globs, parse_glob

T = TypeVar("T")
CLASSES = (
    "STANDARD",
    "INTELLIGENT_TIERING",
    "STANDARD_IA",
    "ONEZONE_IA",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
)
RCLONE = "rclone"  # the one form in which the attributes of files are stored with objects
OTHER = "other:"  # before the name of a class that only the user's own server knows
MOST_TAGS, TAG_NAME, TAG_VALUE = 10, 128, 256
METADATA_BYTES = 2048
NAMES = ("storage_class", "tags", "metadata", "cache_control", "content_type")  # of the settings that take patterns
_OWN_CLASS = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TAG_SIGNS = re.compile(r"[\w\s+\-=.:/@]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?|")
_MIME = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?: *; *[A-Za-z0-9_-]+=[!-~]+)*")


@dataclass(frozen=True)
class PatternRule(Generic[T]):
    """A value, and the files that it is for; ``pattern`` is empty where it is for all that no pattern takes."""

    pattern: str
    value: T
    matches: Callable[[str, str], bool] = field(compare=False)


def _always(name: str, path: str) -> bool:
    return True


@dataclass(frozen=True)
class ObjectSettings:
    """The settings by name (``NAMES``), each the rules in order: the first that matches decides.

    ``of_files``: the attributes of each file are stored with its object too, as rclone does.
    """

    rules: Mapping[str, tuple[PatternRule[Any], ...]] = field(default_factory=dict)
    of_files: bool = False

    @property
    def is_plain(self) -> bool:
        """Tell whether nothing was set."""
        return not self.of_files and not any(self.rules.values())

    def value(self, name: str, path: str) -> Any:
        """Return the value of a setting for a path in the release, or None."""
        file = path.rpartition("/")[2]
        return next((rule.value for rule in self.rules.get(name, ()) if rule.matches(file, path)), None)

    def attributes(self, path: str, status: os.stat_result | None = None) -> ObjectAttributes:
        """Return what the object of a path is stored with, but for its content type; ``status`` is of the file."""
        if self.is_plain:
            return PLAIN_OBJECT
        found = ObjectAttributes(
            self.value("storage_class", path),
            self.value("cache_control", path),
            self.value("tags", path) or (),
            self.value("metadata", path) or (),
        )
        if not self.of_files or status is None:
            return found
        return replace(found, metadata=(*found.metadata, *rclone_metadata(status)))

    def content_type(self, path: str) -> str | None:
        """Return the content type that was set for a path, or None."""
        kind: str | None = self.value("content_type", path) if "content_type" in self.rules else None
        return kind

    def sets(self, name: str) -> bool:
        """Tell whether a setting was given."""
        return bool(self.rules.get(name))

    def find_unmatched(self, paths: Iterable[str]) -> list[str]:
        """Return a sentence for each pattern that takes none of these files; ends reading at the last one found."""
        open_rules = [(name, rule) for name, rules in self.rules.items() for rule in rules if rule.pattern]
        for path in paths if open_rules else ():
            file = path.rpartition("/")[2]
            open_rules = [entry for entry in open_rules if not entry[1].matches(file, path)]
            if not open_rules:
                return []
        return [
            f"{name}: the pattern {rule.pattern!r} takes no file of the plan; correct it, or leave it out"
            for name, rule in open_rules
        ]

    def describe(self) -> dict[str, Any]:
        """Return the settings for records: by name the values, or by pattern where there are patterns."""
        found: dict[str, Any] = {}
        for name, rules in self.rules.items():
            shown = {rule.pattern or "*": dict(rule.value) if _is_pairs(name) else rule.value for rule in rules}
            if shown:
                found[name] = shown
        if self.of_files:
            found["object_metadata"] = {"*": RCLONE}
        return found


def _is_pairs(name: str) -> bool:
    return name in ("tags", "metadata")


def add_object_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what each object is stored with; values are checked together, not one by one."""
    group = parser.add_argument_group(
        "objects",
        "RULES is one value for all files, or PATTERN=VALUE;PATTERN=VALUE;VALUE, or a JSON object {PATTERN: VALUE}. "
        "The first pattern that matches decides. A changed setting is for what is sent from then on",
    )
    group.add_argument("--storage-class", default="", metavar="RULES", help="as '*.fits.fz=GLACIER_IR;STANDARD_IA'")
    group.add_argument("--tags", default="", metavar="TAGS", help="NAME=VALUE,NAME=VALUE, or JSON {PATTERN: {NAME: V}}")
    group.add_argument("--metadata", default="", metavar="PAIRS", help="x-amz-meta-NAME; written like --tags")
    group.add_argument(
        "--object-metadata",
        default="",
        metavar="FORM",
        help="store mtime, mode, uid and gid of each file in metadata; FORM is rclone, which can restore them",
    )
    group.add_argument("--cache-control", default="", metavar="RULES", help="the Cache-Control header")
    group.add_argument("--content-type", default="", metavar="RULES", help="as '*.fits=application/fits'")


def read_object_settings(arguments: argparse.Namespace) -> tuple[ObjectSettings, list[str]]:
    """Return the settings of the flags, and a sentence for each error."""
    errors: list[str] = []
    rules: dict[str, tuple[PatternRule[Any], ...]] = {}
    for name in NAMES:
        text = getattr(arguments, name, "") or ""
        found = []
        for pattern, value in _split(name, text, errors):
            rule = _read_rule(name, pattern, value, errors)
            if rule is not None:
                found.append(rule)
        if found:
            rules[name] = tuple(sorted(found, key=lambda rule: not rule.pattern))
    form = getattr(arguments, "object_metadata", "") or ""
    if form not in ("", RCLONE):
        errors.append(f"object_metadata: {form[:40]!r} is not a form; the one there is: {RCLONE}")
    elif form:
        errors += _find_clashes(rules.get("metadata", ()))
    return ObjectSettings(rules, bool(form)), errors


def _find_clashes(rules: Iterable[PatternRule[Any]]) -> list[str]:
    """Return a sentence for each rule of metadata that leaves no room for the attributes of files."""
    errors = []
    for rule in rules:
        taken = sorted({name for name, _ in rule.value} & set(RCLONE_NAMES))
        if taken:
            errors.append(
                f"metadata: {', '.join(taken)} is what object_metadata={RCLONE} sets; leave out one of the two"
            )
        size = MOST_BYTES + sum(len(name) + len(text) for name, text in rule.value)
        if size > METADATA_BYTES:
            errors.append(
                f"metadata: with the {MOST_BYTES} bytes of object_metadata={RCLONE} an object has {size:,} bytes, "
                f"and S3 takes {METADATA_BYTES:,}; leave some out"
            )
    return errors


def _split(name: str, text: str, errors: list[str]) -> list[tuple[str, Any]]:
    """Return (pattern or "", value as given) of a setting."""
    text = text.strip()
    if not text:
        return []
    if text.startswith("{"):
        try:
            found = parse_json(text)
        except ValueError as error:
            errors.append(f"{name} is not JSON ({error}); write it like {_example(name)}")
            return []
        plain = _is_pairs(name) and all(isinstance(value, str) for value in found.values())
        return [("", found)] if plain else list(found.items())
    if _is_pairs(name):
        words = [word for word in text.split(",") if word.strip()]
        pairs = [word.partition("=") for word in words]
        wrong = next((word for word, (_, sign, _) in zip(words, pairs) if not sign), None)
        if wrong is not None:
            errors.append(f"{name}: {wrong.strip()!r} has no '='; write it like {_example(name)}")
            return []
        listed = [(key.strip(), value.strip()) for key, _, value in pairs]
        twice = next((key for place, (key, _) in enumerate(listed) if key in dict(listed[:place])), None)
        if twice is not None:
            errors.append(f"{name}: {twice!r} is given twice; leave one out")
        return [("", dict(listed))]
    parts = [part.replace("\\;", ";").strip() for part in re.split(r"(?<!\\);", text)]
    return [_split_rule(name, part) for part in parts if part]


def _split_rule(name: str, part: str) -> tuple[str, str]:
    """Return the pattern and the value of PATTERN=VALUE; of a value alone an empty pattern."""
    pattern, sign, value = part.partition("=")
    # Values of these hold signs of their own: max-age=60, text/plain; charset=utf-8.
    is_value = not sign or (name == "cache_control" and not re.search(r"[*?\[./]", pattern))
    return ("", part) if is_value else (pattern.strip(), value.strip())


def _example(name: str) -> str:
    if name in ("tags", "metadata"):
        return f'{name}=\'project=desi,release=dr1\' or {name}=\'{{"*.fits": {{"project": "desi"}}}}\''
    value = {"storage_class": "GLACIER_IR", "cache_control": "no-cache", "content_type": "application/fits"}[name]
    return f"{name}='*.fits.fz={value}'"


def _read_rule(name: str, pattern: str, value: Any, errors: list[str]) -> PatternRule[Any] | None:
    """Return one rule, or None with a sentence in ``errors``."""
    matches: Callable[[str, str], bool] = _always
    if pattern in ("", "*"):
        pattern = ""
    else:
        try:
            matches = compile_globs([parse_glob(pattern)]) or _always
        except UsageError as error:
            errors.append(f"{name}: {str(error).removeprefix('--exclude ')}")
            return None
    checks: dict[str, Callable[[Any], tuple[Any, str]]] = {
        "storage_class": _check_class,
        "tags": _check_tags,
        "metadata": _check_metadata,
        "cache_control": _check_header,
        "content_type": _check_mime,
    }
    checked, error_text = checks[name](value)
    if error_text:
        errors.append(f"{name}: {error_text}")
        return None
    return PatternRule(pattern, checked, matches)


def _check_class(value: Any) -> tuple[Any, str]:
    if not isinstance(value, str):
        return None, f"{value!r} is not a storage class; write it like {_example('storage_class')}"
    if value.startswith(OTHER) and _OWN_CLASS.fullmatch(value.removeprefix(OTHER)):
        return value.removeprefix(OTHER), ""
    if value in CLASSES:
        return value, ""
    near = get_close_matches(value.upper(), CLASSES, 1)
    advice = f"did you mean {near[0]}" if near else f"one of {', '.join(CLASSES)}"
    return None, f"{value!r} is not a class of Amazon S3; {advice}? (one that only your server knows: {OTHER}NAME)"


def _check_pairs(value: Any, what: str) -> str:
    if not isinstance(value, dict) or not value or not all(isinstance(text, str) for text in value.values()):
        return f"{value!r} is not a {what}; write it like {_example('tags' if what == 'set of tags' else 'metadata')}"
    return ""


def _check_tags(value: Any) -> tuple[Any, str]:
    if error := _check_pairs(value, "set of tags"):
        return None, error
    if len(value) > MOST_TAGS:
        return None, f"{counted(len(value), 'tag')} on one object, and S3 takes {MOST_TAGS}; leave some out"
    for name, text in value.items():
        if not 0 < len(name) <= TAG_NAME:
            return (
                None,
                f"the name {name[:40]!r} has {counted(len(name), 'character')}, and S3 takes 1 to "
                f"{TAG_NAME}; shorten it",
            )
        if len(text) > TAG_VALUE:
            return (
                None,
                f"the value of {name!r} has {counted(len(text), 'character')}, and S3 takes {TAG_VALUE}; shorten it",
            )
        if name.lower().startswith("aws:"):
            return None, f"{name!r} begins with aws:, which is for AWS alone; take another name"
        if not _TAG_SIGNS.fullmatch(name) or not _TAG_SIGNS.fullmatch(text):
            return (
                None,
                f"{name!r}={text!r} has a sign that S3 takes in no tag; letters, digits, spaces and + - = . _ : / @",
            )
    return tuple(value.items()), ""


def _check_metadata(value: Any) -> tuple[Any, str]:
    if error := _check_pairs(value, "metadata"):
        return None, error
    for name, text in value.items():
        if not _HEADER_NAME.fullmatch(name):
            return None, f"{name[:40]!r} is not a header's name; letters, digits, '-' and '_'"
        if not _HEADER_VALUE.fullmatch(text):
            return None, f"the value of {name!r} is not a header's: printable ASCII without spaces at its ends"
    lower = {name.lower() for name in value}
    if len(lower) < len(value):
        return None, "two names differ in capitals only, and S3 keeps neither apart; leave one out"
    size = sum(len(name) + len(text) for name, text in value.items())
    if size > METADATA_BYTES:
        return None, f"{size:,} bytes of metadata on one object, and S3 takes {METADATA_BYTES:,}; leave some out"
    return tuple((name.lower(), text) for name, text in value.items()), ""


def _check_header(value: Any) -> tuple[Any, str]:
    if isinstance(value, str) and value and len(value) <= METADATA_BYTES and _HEADER_VALUE.fullmatch(value):
        return value, ""
    return None, f"{str(value)[:60]!r} is not a header's value; write it like cache_control='public, max-age=3600'"


def _check_mime(value: Any) -> tuple[Any, str]:
    if isinstance(value, str) and _MIME.fullmatch(value):
        return value, ""
    return (
        None,
        f"{str(value)[:60]!r} is not a content type; write it like {_example('content_type')} (a ';' inside: '\\;')",
    )
