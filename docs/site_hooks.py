"""Put files from outside docs/ into the site: README.md as its first page, and what pages link to.

Input: the pages as mkdocs reads them. Output: the same pages with links that stay inside the site.
Invariant: a link that works in the checkout works in the site; one that leads nowhere fails the build.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Pages of the checkout's top, by the names that they have in the site.
TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
COPIED = "repository"  # the folder of the site with other files that pages link to
_LINK = re.compile(r"(\]\()([^)\s#]+)([^)]*\))")
_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """List the page of every command under its heading."""
    pages = sorted((ROOT / "docs/reference/commands").glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    for section in config.nav:
        for entry in section.get("Reference", ()) if isinstance(section, dict) else ():
            if isinstance(entry, dict) and "Commands" in entry:
                entry["Commands"] = [f"reference/commands/{path.name}" for path in pages]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the top pages, and every file of the checkout that a page links to."""
    for source, name in TOP.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    linked: set[str] = set()
    for file in files.documentation_pages():
        text = _FENCE.sub("", file.content_string)
        linked |= {path for _, target, _ in _LINK.findall(text) if (path := _outside(file.src_uri, target))}
    for path in sorted(linked):
        if not (ROOT / path).is_file():
            raise PluginError(f"a page links to {path}, which is no file of the checkout")
        files.append(File.generated(config, f"{COPIED}/{path}.txt", content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave docs/ into links within the site."""
    here = posixpath.dirname(page.file.src_uri)
    pieces = _FENCE.split(markdown)
    for number in range(0, len(pieces), 2):
        pieces[number] = _LINK.sub(lambda match: _rewrite(match, page.file.src_uri, here), pieces[number])
    return "".join(pieces)


def _rewrite(match: "re.Match[str]", page: str, here: str) -> str:
    """Return a link of a page as the site needs it."""
    before, target, rest = match.groups()
    place = _place(page, target)
    if place is None:
        return match[0]
    inside = place.removeprefix("docs/") if place.startswith("docs/") else TOP.get(place, f"{COPIED}/{place}.txt")
    return f"{before}{posixpath.relpath(inside, here or '.')}{rest}"


def _place(page: str, target: str) -> str | None:
    """Return where a relative link of a page leads in the checkout."""
    if "://" in target or target.startswith(("/", "mailto:")):
        return None
    tops = {name: source for source, name in TOP.items()}
    source = tops.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _outside(page: str, target: str) -> str | None:
    """Return the path of a file that has to be copied into the site for a link."""
    place = _place(page, target)
    return None if place is None or place.startswith("docs/") or place in TOP else place
