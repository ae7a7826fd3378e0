"""What a picture of README shows: its size, and the visible text. docs/pictures/NAME.json keeps both.

Pixels are not compared, because fonts and charts differ by a hair between machines. Times, durations and hashes differ
in each run, so they are masked. `make pictures` compares the rest and says what has changed. The tests also mask
numbers and drawings, because a model is not the same on every processor.
"""

import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

PICTURES = Path(__file__).resolve().parents[2] / "docs/pictures"
# The texts of the elements that lie within the window, in the order of the document, and the contents of text areas.
VISIBLE = """() => {
    const found = [], range = document.createRange()
    const inside = box => box.width && box.height && box.top >= 0 && box.left >= 0
        && box.bottom <= innerHeight && box.right <= innerWidth
    const shown = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true})
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    let parent = null
    while (walker.nextNode()) {
        const node = walker.currentNode
        range.selectNodeContents(node)
        if (!shown(node.parentElement) || !inside(range.getBoundingClientRect())) continue
        const cell = node.parentElement.closest('td')
        const column = cell && cell.closest('table').rows[0].cells[cell.cellIndex]
        if (column && column.textContent.includes('seconds')) found.push('(duration)')
        else if (node.parentElement === parent) found[found.length - 1] += node.textContent
        else found.push(node.textContent)
        parent = node.parentElement
    }
    for (const area of document.querySelectorAll('textarea'))
        if (shown(area) && inside(area.getBoundingClientRect())) found.push(...area.value.split('\\n'))
    return found.map(text => text.replace(/\\s+/g, ' ').trim()).filter(text => text)
}"""
MASKS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "(time)"),
    (r"\d\d:\d\d:\d\d\.\d+", "(duration)"),
    (r"(?<!\.)\b[0-9a-f]{12,64}\b", "(hash)"),
)


def visible_text(*frames: "Page | Frame") -> list[str]:
    """Return the texts that are visible in a page and in its frames, with masks for what differs in each run."""
    texts = [text for frame in frames for text in frame.evaluate(VISIBLE)]
    for pattern, mask in MASKS:
        texts = [re.sub(pattern, mask, text) for text in texts]
    return texts


def without_numbers(texts: list[str]) -> list[str]:
    """Replace the numbers and the characters of drawings."""
    return [re.sub(r"\d+(\.\d+)?", "#", re.sub("[░▒▓█]+", "█", text)) for text in texts]


def stored(name: str) -> tuple[list[int], list[str]]:
    """Read the size (width, height) and the texts of a stored picture."""
    document = json.loads((PICTURES / f"{name}.json").read_text(encoding="utf-8"))
    return document["size"], document["text"]


def store(name: str, size: tuple[int, int], texts: list[str]) -> list[str]:
    """Write the size and the texts of a picture; return what has changed, as lines of a diff."""
    path = PICTURES / f"{name}.json"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = json.dumps({"size": size, "text": texts}, indent=1, ensure_ascii=False) + "\n"
    path.write_text(after, encoding="utf-8")
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=0, lineterm=""))
