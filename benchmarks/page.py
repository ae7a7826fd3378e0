"""docs/benchmarks.md: a table of all goals, then one section for each part. A run of a part replaces what it measured.

The page itself is the store: each run reads it, replaces the goals and the numbers of its part and server, and keeps
the rest. Nobody types a number.
"""

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
WIDTH = 120
HEAD = """# Speed

`make bench` (`benchmarks/bench.py`) writes this page; no number is typed. Each part has a fresh server with the
settings that we ship: `fsync` and `synchronous_commit` are on. The ways to do the same work run in turns in one
process, and each round begins with another way. A ratio is the median of the ratios of all rounds. A rate is the rate
of the median round.
"""
GOALS = "Goals"
GOALS_HEADER = ["part", "server", "what", "goal", "measured", "met"]


@dataclass(frozen=True)
class Goal:
    """A number that is measured, and its goal: at least `goal`, or at most."""

    what: str
    goal: float
    measured: float
    unit: str = "×"
    at_most: bool = False
    limit: str = ""  # why it is not met; shown only then

    @property
    def met(self) -> bool:
        """Compare the rounded number, because the page shows that one."""
        shown = round(self.measured, 2)
        return shown <= self.goal if self.at_most else shown >= self.goal

    def row(self) -> list[str]:
        """Return the cells of the table of goals, after part and server."""
        bound = f"{'≤' if self.at_most else '≥'} {self.goal:g} {self.unit}"
        return [self.what, bound, f"{self.measured:,.2f} {self.unit}", "yes" if self.met else "**no**"]


@dataclass
class Part:
    """The result of one part: goals, tables of (header, rows), and remarks. `about` is the same for every server."""

    title: str
    about: str
    goals: list[Goal] = field(default_factory=list)
    tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Return the goals and the measurements, for the terminal."""
        return "\n\n".join([_table(GOALS_HEADER[2:], [goal.row() for goal in self.goals]), self.text()])

    def text(self) -> str:
        """Return the Markdown of the measurements on one server, without the goals."""
        missed = []
        for goal in self.goals:
            what, bound, measured, _ = goal.row()
            if not goal.met:
                missed.append(f"Not met: {what}, {measured} (goal: {bound}). {goal.limit}".rstrip())
        paragraphs = [_wrap(paragraph) for paragraph in [*missed, *self.remarks]]
        return "\n\n".join([_table(header, rows) for header, rows in self.tables] + paragraphs)


def write(part: Part, server: str, machine: str, command: str) -> None:
    """Update the page in place; `server` is a name and a version, such as PostgreSQL 18.4."""
    content = PAGE.read_text() if PAGE.exists() else ""
    PAGE.write_text(update(content, part, server, machine, command))


def update(content: str, part: Part, server: str, machine: str, command: str) -> str:
    """Return the page with the part's new goals and measurements; those of the same major version are replaced."""
    sections = _split(content, "## ")
    goals = [cells for cells in _read_table(sections.pop(GOALS, "")) if not _same(cells, part, server)]
    goals += [[part.title, server, *goal.row()] for goal in part.goals]
    goals.sort(key=lambda cells: (cells[0], cells[1]))  # stable: the goals of a part keep their order

    measured = {
        heading: text
        for heading, text in _split(sections.get(part.title, ""), "### ").items()
        if _major(heading) != _major(server)
    }
    measured[f"{_name(part.title)} on {server}"] = f"{part.text()}\n\n`{command}` on {machine}."
    sections[part.title] = "\n\n".join([_wrap(part.about), _join(measured, "### ")])

    missed = sum(cells[-1] != "yes" for cells in goals)
    summary = f"{len(goals) - missed} of {len(goals)} goals are met."
    table = _table(GOALS_HEADER, goals)
    return "\n".join([HEAD, f"## {GOALS}\n\n{summary}\n\n{table}\n", _join(sections, "## ")]) + "\n"


def _name(title: str) -> str:
    return title.split(". ", 1)[-1]


def _major(server: str) -> str:
    """Return a server's name and its major version; PostgreSQL 12.3 and 12.4 replace each other."""
    return server.rsplit(" on ", 1)[-1].split(".", maxsplit=1)[0]


def _same(cells: list[str], part: Part, server: str) -> bool:
    return cells[0] == part.title and _major(cells[1]) == _major(server)


def _split(text: str, mark: str) -> dict[str, str]:
    """Map each heading of this level to the text below it."""
    found = re.findall(rf"^{mark}(.+?)\n(.*?)(?=^{mark}|\Z)", text, re.MULTILINE | re.DOTALL)
    return {heading: below.strip() for heading, below in found}


def _join(sections: dict[str, str], mark: str) -> str:
    return "\n\n".join(f"{mark}{heading}\n\n{sections[heading]}" for heading in sorted(sections))


def _wrap(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _read_table(text: str) -> list[list[str]]:
    """Return the rows of a section's table, without its two header lines."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]
