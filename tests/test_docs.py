"""The pages lead to files and sections that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entropy_ext.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings, and the anchors that the page sets itself."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Catches a renamed file or heading that a page still links to."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    """Catches a page that no reader would find."""
    linked = set(re.findall(r"\]\(docs/(\w+\.md)", (ROOT / "README.md").read_text("utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_number_of_recipes(page: str) -> None:
    """Catches a new recipe that the pages do not count."""
    counts = re.findall(r"\b(\d+) (?:recipes|methods)\b", (ROOT / page).read_text("utf-8"))
    assert counts
    assert set(counts) == {str(len(RECIPES))}
