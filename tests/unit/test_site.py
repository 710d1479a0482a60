"""The site of the documents as mkdocs builds it: whole, linked, and without a request to anywhere."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import open_page
from tests.conftest import REPOSITORY, need
from tests.reading import blocks

# Tags by which a browser fetches without being asked.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """The anchors, links and fetches of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        # A link to another form of the page, such as rel=canonical, fetches nothing.
        wanted = tag != "link" or {"stylesheet", "icon", "preload"} & set(found.get("rel", "").split())
        if wanted and FETCHED.get(tag, "") in found:
            self.fetched.append(found[FETCHED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link or a page that nothing lists fails the build."""
    built = subprocess.run([sys.executable, "-c", "import mkdocs, material"], capture_output=True, check=False)
    need("not installed: mkdocs-material (make setup extras=docs)" if built.returncode else None)
    directory = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(directory)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return directory


def test_every_link_leads_to_a_page_and_a_heading(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 40
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute, for it is shown anywhere
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            wanted = unquote(parts.fragment)
            if not target.exists() or (wanted and target in pages and wanted not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_a_page_asks_no_other_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = Page(path)
        assert not [link for link in page.fetched if urlsplit(link).netloc], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_search_works_from_a_disk(site: Path) -> None:
    """The index is a script, which a page on file:// may load; it has every page."""
    script = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(script[script.index("{") : script.rindex("}") + 1])
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"index.html", "howto/nightly.html", "reference/commands/upload.html", "changelog.html"} <= found
    assert any("scrontab" in entry["text"] for entry in index["docs"])


def test_a_reader_finds_by_search_what_a_page_says(site: Path) -> None:
    with open_page() as page:
        page.goto((site / "howto" / "index.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type("scrontab")
        found = page.locator(".md-search-result__link").first
        found.wait_for()
        assert "nightly.html" in (found.get_attribute("href") or "")


def test_a_file_that_a_page_names_is_in_the_site(site: Path) -> None:
    copy = site / "repository" / "deploy" / "cron" / "nightly.sh.txt"
    assert copy.read_bytes() == (REPOSITORY / "deploy" / "cron" / "nightly.sh").read_bytes()


def test_no_block_of_a_page_is_lost(site: Path) -> None:
    """Markdown that mkdocs reads otherwise than code forges do: a block that is no block here."""
    for path in (REPOSITORY / "docs").rglob("*.md"):
        built = site / path.relative_to(REPOSITORY / "docs").with_suffix(".html")
        shown = built.read_text(encoding="utf-8").count('<div class="language-sh highlight')
        assert shown == len(list(blocks(path.read_text(encoding="utf-8")))), path
