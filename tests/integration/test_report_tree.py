"""The size-tree browser in a real browser, from ``file://``."""

import json
import re
from pathlib import Path

import pytest

from lading.report.tree_page import PIECE_BYTES, Site, assign_pieces, encode_pieces, write_tree_page
from tests import oracle
from tests.browser import open_page

DIGEST = "ab" * 32


def lab(files: int = 3000) -> list:
    flat = ["flat", 0, 10 * files, *([f"chunk-{i:06d}", 1, 10] for i in range(files))]
    odd = ["<script>alert(1)</script>", 0, 12, ["</script>", 1, 7], ["latin-\udce9\n.bin", 1, 5]]
    nights = [[f"night-{n}", 0, 60, *([f"tile-{t}", 0, 20, ["spec.fits", 1, 20]] for t in range(3))] for n in range(4)]
    children = sorted([flat, odd, *nights], key=lambda node: node[0])
    return ["dr1", 0, sum(child[2] for child in children), *children, ["link", 2, 0]]


def parse(text: str) -> dict:
    match = re.fullmatch(r"lading\((\d+),(.*)\)\n", text, re.DOTALL)
    assert match
    return json.loads(match[2])


def test_pieces_hold_every_listing_once_and_parents_first() -> None:
    tree = oracle.flat_tree(lab(60_000))
    pieces = assign_pieces(tree)
    seen: dict[int, list] = {}
    for piece, text in encode_pieces(tree, pieces):
        for number, entries in parse(text).items():
            assert int(number) not in seen
            assert pieces.piece_of[int(number)] == piece
            seen[int(number)] = entries
    assert pieces.count > 2

    def rebuild(name: str, number: int) -> list:
        children = []
        for entry in seen[number]:
            if len(entry) == 5:
                assert entry[4] >= pieces.piece_of[number]
                children.append(rebuild(entry[0], entry[3]))
            else:
                children.append([entry[0], 1 if entry[1] >= 0 else 2, max(0, entry[1])])
        return [name, 0, sum(child[2] for child in children), *children]

    assert rebuild("dr1", 0) == lab(60_000)


def test_no_piece_is_much_larger_than_its_bound_without_need() -> None:
    tree = oracle.flat_tree(
        ["r", 0, 0, *([f"d{i:04d}", 0, 0, *([f"file-{j}", 1, 0] for j in range(50))] for i in range(2000))]
    )
    texts = [text for _, text in encode_pieces(tree, assign_pieces(tree))]
    assert max(map(len, texts)) < 3 * PIECE_BYTES
    assert len(texts) > 5


@pytest.fixture
def page_path(tmp_path: Path) -> Path:
    site = Site("dr1", "https://example.org/bucket/", "dr1/", (("flat", "raw/flat"),))
    return write_tree_page(oracle.flat_tree(lab()), tmp_path / "a b#c", site, DIGEST)


def test_a_person_walks_the_tree(page_path) -> None:
    with open_page() as page:
        page.goto(page_path.as_uri())
        page.get_by_role("option", name="night-2").click()
        page.get_by_role("option", name="tile-1").wait_for()
        for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
            page.wait_for_timeout(100)
        assert page.inner_text("#path") == "dr1/night-2/tile-1/spec.fits"
        assert page.evaluate("linkOf(currentPath())") == "https://example.org/bucket/dr1/night-2/tile-1/spec.fits"
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#path") == "dr1/night-2/tile-1"


def test_a_flat_directory_draws_only_what_is_in_sight(page_path) -> None:
    with open_page() as page:
        page.goto(page_path.as_uri())
        page.get_by_role("option", name="flat").click()
        page.get_by_role("option", name="chunk-000003").wait_for()
        assert page.locator(".row").count() < 200
        page.locator(".column").nth(1).focus()
        page.keyboard.press("End")
        page.get_by_role("option", name="chunk-002999").wait_for()
        assert page.evaluate("linkOf(currentPath())") == "https://example.org/bucket/raw/flat/chunk-002999"


def test_search_finds_and_opens(page_path) -> None:
    with open_page() as page:
        page.goto(page_path.as_uri())
        page.keyboard.press("/")
        page.keyboard.type("CHUNK-00012")
        page.keyboard.press("Enter")
        page.wait_for_function("document.getElementById('path').textContent === '10 hits'")
        assert page.locator("#map .cell").count() == 10
        page.get_by_role("option", name="flat/chunk-000125").click()
        page.wait_for_function("document.getElementById('path').textContent === 'dr1/flat/chunk-000125'")


def test_a_file_is_marked_in_the_map_and_its_path_copied(page_path) -> None:
    with open_page(480, 700) as page:
        page.goto(page_path.as_uri())
        page.get_by_role("option", name="night-2").click()
        page.get_by_role("option", name="tile-1").click()
        page.get_by_role("option", name="spec.fits").click()
        page.locator("#map .cell.on").wait_for()
        assert page.locator("#map .cell.on").get_attribute("title").startswith("spec.fits")
        page.get_by_role("button", name="Copy path").click()
        page.get_by_role("button", name="Copied").wait_for()
        # A narrow window scrolls its columns, not the page.
        assert page.evaluate("document.documentElement.scrollWidth") == 480


def test_hostile_names_are_shown_as_text(page_path) -> None:
    with open_page() as page:
        page.on("dialog", lambda _: pytest.fail("a name ran as a script"))
        page.goto(page_path.as_uri())
        page.get_by_role("option", name="<script>alert(1)</script>/").click()
        page.get_by_role("option", name=r"latin-\xe9\u000a.bin").click()
        page.wait_for_function("document.getElementById('path').textContent.includes('latin')")
        assert page.evaluate("linkOf(currentPath())").endswith("/latin-%E9%0A.bin")


def test_a_second_report_replaces_the_first(page_path) -> None:
    folder = page_path.parent
    write_tree_page(oracle.flat_tree(lab(5)), folder, Site("dr1"), "cd" * 32)
    assert [path.name for path in folder.glob("tree-*")] == ["tree-" + "cd" * 6]


def test_a_report_removes_what_is_its_own_and_nothing_else(page_path) -> None:
    folder = page_path.parent
    others = ["tree-house", "tree-" + "ab" * 7, "tree-ABABABABABAB", ".tree"]
    for name in (*others, "tree-" + "01" * 6):
        (folder / name).mkdir()
        (folder / name / "f").touch()
    write_tree_page(oracle.flat_tree(lab(5)), folder, Site("dr1"), "cd" * 32)
    kept = {path.name for path in folder.iterdir()}
    assert kept == {*others, "tree.html", "tree-" + "cd" * 6}


def test_a_release_whose_name_is_no_utf8_has_a_page(tmp_path: Path) -> None:
    tree = oracle.flat_tree(["latin-\udce9", 0, 1, ["f", 1, 1]])
    site = Site("latin-\udce9", "https://example.org/", "latin-\udce9/", (("\udce9", "to-\udce9"),))
    page = write_tree_page(tree, tmp_path, site, DIGEST)
    with open_page() as browser:
        browser.goto(page.as_uri())
        browser.get_by_role("option", name="f").click()
        assert browser.evaluate("linkOf(currentPath())") == "https://example.org/latin-%E9/f"
        assert browser.title().startswith("latin-")
