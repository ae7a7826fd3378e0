"""The shell commands in the blocks of README and docs/, as a reader would type them.

A block is fenced with ```sh, or indented by four spaces. `<!-- not run: REASON -->` before a block says why no test
runs its commands, `<!-- this page is not run: REASON -->` says it for a page. What follows a command after two spaces,
or after #, is a remark for the reader.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([REPO / "README.md", REPO / "secrets/README.md", *(REPO / "docs").glob("*.md")])
PROGRAMS = (
    r"make|docker|curl|openssl|python3|\(umask|pyml|pypredict|wandb|psql|kubectl|ray|git|cp|chmod|export|pip"
    "|[./a-z]*/bin/[a-z]+"
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS}) .*|(?:{PROGRAMS})$")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
PAGE_NOT_RUN = re.compile(r"^<!-- this page is not run: (.+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class PageCommand:
    """A command: its page, its text, why no test runs it ("" if one does), and the lines below it on the page."""

    page: str
    text: str
    not_run: str
    shown: str

    @property
    def program(self) -> str:
        """The first word that is no variable, without its directory."""
        return next(word for word in self.text.split() if "=" not in word).rpartition("/")[2]


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Give each block of a page: the reason not to run it, and its lines."""
    reason, lines, fence = "", [], ""
    for line in [*text.splitlines(), "end"]:
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence == "```sh" or (not fence and line.startswith("    ")):
            lines.append(line.strip())
            continue
        elif fence:
            continue
        if lines and (line or fence):
            yield reason, lines
            reason, lines = "", []
        if found := NOT_RUN.fullmatch(line):
            reason = found[1]


def commands(page: Path) -> list[PageCommand]:
    """List the commands of a page in their order."""
    found: list[PageCommand] = []
    text = page.read_text(encoding="utf-8")
    whole = PAGE_NOT_RUN.search(text)
    for reason, lines in blocks(text):
        shown: list[list[str]] = []
        for line in "\n".join(lines).replace("\\\n", "").splitlines():
            typed = line.removeprefix("$ ")
            if COMMAND.fullmatch(typed):
                shown.append([re.split(r" {2,}|\s#\s", typed)[0].strip()])
            elif shown:
                shown[-1].append(line)
        name = str(page.relative_to(REPO))
        why = whole[1] if whole else reason
        found += [PageCommand(name, typed, why, " ".join(below).strip()) for typed, *below in shown]
    return found


def all_commands() -> list[PageCommand]:
    """List the commands of all pages."""
    return [command for page in PAGES for command in commands(page)]
