"""docs/benchmarks.md: one section for each part and server, which its run writes anew and nobody types."""

import re
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = """# Speed

Written by `benchmarks/bench.py` (`make bench`); nothing here is typed. Ways are run in turns in one process tree, each
round from another one on; a ratio is the median over the rounds of the ratios within a round, a rate that of the median
round. Durability is as shipped: `fsync` and `synchronous_commit` are on, every part has a fresh server of its own.
"""


@dataclass(frozen=True)
class Goal:
    """A figure and what it should be: at least `goal`, or at most."""

    what: str
    goal: float
    measured: float
    unit: str = "×"
    at_most: bool = False
    limit: str = ""  # what stands in the way; shown only where the goal is not reached

    @property
    def reached(self) -> bool:
        """Compare what is shown."""
        shown = round(self.measured, 2)
        return shown <= self.goal if self.at_most else shown >= self.goal

    def row(self) -> list[str]:
        """Give the cells of the goals' table."""
        bound = f"{'≤' if self.at_most else '≥'} {self.goal:g} {self.unit}"
        return [self.what, bound, f"{self.measured:,.2f} {self.unit}", "yes" if self.reached else "**no**"]


@dataclass
class Part:
    """What one part found: goals, tables of (header, rows), and remarks."""

    title: str
    about: str
    goals: list[Goal] = field(default_factory=list)
    tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Give the section's Markdown, without its heading."""
        goals = (["what", "goal", "measured", "reached"], [goal.row() for goal in self.goals])
        limits = [f"Not reached: {goal.what}. {goal.limit}" for goal in self.goals if not goal.reached]
        tables = [_table(*table) for table in [goals, *self.tables]]
        return "\n\n".join([self.about, *tables, *self.remarks, *limits])


def write(part: Part, server: str, machine: str, command: str) -> None:
    """Put this part's section in place of its last one, or at its place by title."""
    content = PAGE.read_text() if PAGE.exists() else HEAD
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", content, re.MULTILINE | re.DOTALL))
    sections[f"{part.title}, {server}"] = f"\n{part.text()}\n\n`{command}` on {machine}.\n\n"
    PAGE.write_text(HEAD + "\n" + "\n\n".join(f"## {key}\n{sections[key].rstrip()}" for key in sorted(sections)) + "\n")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
