"""``python -m benchmarks.report``: the tree browser over a million entries, in a real browser.

Input: nothing (a made-up find.json of ``--entries`` entries, one directory of
them with ``--flat`` files). Output: a table of seconds on stdout.

Measured in headless Chromium, over ``file://``: from the start of the
navigation to the first contentful paint (as the browser tells it) and to the
first row; from a click on the large directory to its first row in the
document and painted; End to its last row; a search for the one name that the
last directory holds, until all names are searched.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.figures import note
from lading.report.tree_page import Site, write_tree_page
from lading.tree.json_reader import read_tree

if TYPE_CHECKING:
    from playwright.sync_api import Page

FILES_EACH = 99
# A file of the last directory, found only when everything was searched.
LAST = "the-last-one.fits"
# The click and the paint of what it brought, timed inside the page: no driver's round trip in it.
CLICK = """
([folder, file]) => new Promise(resolve => {
  const rows = () => [...document.querySelectorAll('[role=option]')];
  const row = rows().find(row => row.textContent.includes(folder));
  const began = performance.now();
  const look = () => rows().some(row => row.textContent.includes(file))
    ? requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - began) / 1000)))
    : requestAnimationFrame(look);
  row.click();
  look();
})
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
ROW = "document.querySelector('[role=option]') ? performance.now() / 1000 : 0"


SEARCHED = "document.getElementById('path').textContent === '1 hit'"


def write_tree_file(path: Path, entries: int, flat: int) -> None:
    """Write a find.json: ``dr1/flat`` with ``flat`` files, and directories of 99 files in two levels."""
    groups = max(1, (entries - flat - 2) // (FILES_EACH + 1))
    size = 1_000_000
    with path.open("w", encoding="ascii") as stream:
        stream.write(f'["dr1",0,{size * (flat + groups * FILES_EACH)},["flat",0,{size * flat}')
        stream.writelines(f',["chunk-{number:06d}.zarr",1,{size}]' for number in range(flat))
        stream.write("]")
        top = -(-groups // 100)
        for night in range(top):
            inner = range(night * 100, min(groups, (night + 1) * 100))
            stream.write(f',["night-{night:04d}",0,{size * FILES_EACH * len(inner)}')
            for tile in inner:
                stream.write(f',["tile-{tile:06d}",0,{size * FILES_EACH}')
                last = tile == groups - 1
                stream.writelines(f',["spectrum-{number:04d}.fits",1,{size}]' for number in range(FILES_EACH - last))
                stream.write(f',["{LAST}",1,{size}]' if last else "")
                stream.write("]")
            stream.write("]")
        stream.write("]\n")


def timed(action: Callable[[], object]) -> float:
    """Return the seconds of an action."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def visit(page: "Page", url: str) -> dict[str, float]:
    """Return the seconds of one visit."""
    page.goto(url)
    page.wait_for_function(ROW)
    seconds = {"first paint": page.evaluate(PAINT), "first rows (at most)": page.evaluate(ROW)}
    seconds["click to rows of the large directory"] = page.evaluate(CLICK, ["flat", "chunk-000000"])
    page.locator(".column").nth(1).focus()

    def end() -> None:
        page.keyboard.press("End")
        page.locator("[role=option]", has_text="chunk-").last.wait_for()

    seconds["End: its last row"] = timed(end)

    def search() -> None:
        page.get_by_role("searchbox").fill(LAST)
        page.keyboard.press("Enter")
        page.wait_for_function(SEARCHED)

    seconds["search through all names"] = timed(search)
    return seconds


def main() -> None:
    """Write, visit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--flat", type=int, default=100_000)
    parser.add_argument("--visits", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "find.json"
        write_tree_file(source, options.entries, options.flat)
        began = time.perf_counter()
        found = read_tree(source)
        read = time.perf_counter() - began
        page_path = write_tree_page(found.tree, Path(scratch) / "report", Site("dr1"), found.sha256)
        written = time.perf_counter() - began - read
        pieces = list((Path(scratch) / "report").rglob("p*.js"))
        print(f"{len(found.tree):,} entries, {options.flat:,} in one directory; load {os.getloadavg()[0]:.0f}")
        print(f"read find.json {read:.2f} s, write {len(pieces)} pieces {written:.2f} s, ", end="")
        print(f"page {page_path.stat().st_size:,} bytes, largest piece {max(p.stat().st_size for p in pieces):,} bytes")
        try:
            from tests.browser import open_page  # with what make test brings
        except ImportError as error:
            peers.tell("a browser", f"{error.name} is not installed; make test brings it")
            return
        if not peers.find("chromium"):
            peers.tell("chromium")
            return
        visits = []
        for _ in range(options.visits):
            with open_page() as page:  # a new browser each time: nothing is warm but the files
                visits.append(visit(page, page_path.as_uri()))
        print(f"{'seconds in headless Chromium':<40}{'median':>9}{'worst':>9}")
        for name in visits[0]:
            values = [seconds[name] for seconds in visits]
            print(f"{name:<40}{statistics.median(values):9.2f}{max(values):9.2f}")
            note(name, statistics.median(values), "s")


if __name__ == "__main__":
    main()
