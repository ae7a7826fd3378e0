"""The generator of docs/benchmarks.md: a part's run replaces its own goals and section, and keeps all others."""

import re

import page
from page import Goal, Part

OLD, NEW = "PostgreSQL 12.3", "PostgreSQL 18.4"


def part(title: str = "1. Write", measured: float = 2.5) -> Part:
    goal = Goal("beside psql", 2, measured, limit="psql does not hash.")
    table = (["way", "rows/s"], [["this", str(measured)]])
    return Part(title, f"{title} stores arrays.", goals=[goal], tables=[table], remarks=["A remark."])


def write(content: str, part: Part, server: str = NEW) -> str:
    return page.update(content, part, server, "a machine, Python 3.11.7", f"make bench BENCH={part.title[3:].lower()}")


def goals(content: str) -> list[str]:
    (table,) = re.findall(r"^## Goals\n(.*?)^## ", content, re.MULTILINE | re.DOTALL)
    return [line for line in table.splitlines() if line.startswith("| ")][2:]


def test_the_page_begins_with_one_table_of_all_goals() -> None:
    content = write(write(write("", part("2. Read")), part(), NEW), part(measured=1.5), OLD)
    assert re.findall(r"^#+ .*", content, re.MULTILINE) == [
        "# Speed",
        "## Goals",
        "## 1. Write",
        "### Write on PostgreSQL 12.3",
        "### Write on PostgreSQL 18.4",
        "## 2. Read",
        "### Read on PostgreSQL 18.4",
    ]
    assert goals(content) == [
        "| 1. Write | PostgreSQL 12.3 | beside psql | ≥ 2 × | 1.50 × | **no** |",
        "| 1. Write | PostgreSQL 18.4 | beside psql | ≥ 2 × | 2.50 × | yes |",
        "| 2. Read | PostgreSQL 18.4 | beside psql | ≥ 2 × | 2.50 × | yes |",
    ]
    assert "2 of 3 goals are met." in content
    assert "Not met: beside psql, 1.50 × (goal: ≥ 2 ×). psql does not hash." in content


def test_a_run_replaces_its_own_part_and_server_only() -> None:
    before = write(write(write("", part()), part(), OLD), part("2. Read"))
    after = write(before, part(measured=7))
    changed = set(before.splitlines()) ^ set(after.splitlines())
    assert changed == {
        "| 1. Write | PostgreSQL 18.4 | beside psql | ≥ 2 × | 7.00 × | yes |",
        "| 1. Write | PostgreSQL 18.4 | beside psql | ≥ 2 × | 2.50 × | yes |",
        "| this | 7 |",
    }


def test_the_same_run_again_changes_nothing() -> None:
    content = write(write("", part()), part("2. Read"))
    assert write(content, part()) == content


def test_a_new_minor_version_replaces_the_former_one() -> None:
    content = write(write("", part(), "PostgreSQL 18.4"), part(measured=3), "PostgreSQL 18.5")
    assert "18.4" not in content
    assert goals(content) == ["| 1. Write | PostgreSQL 18.5 | beside psql | ≥ 2 × | 3.00 × | yes |"]


def test_the_committed_page_is_what_the_generator_writes() -> None:
    content = page.PAGE.read_text(encoding="utf-8")
    head, table = content.split(f"## {page.GOALS}\n")
    assert head == f"{page.HEAD}\n"
    met, total = re.findall(r"^(\d+) of (\d+) goals are met\.$", table, re.MULTILINE)[0]
    assert [len(goals(content)), sum(line.endswith("| yes |") for line in goals(content))] == [int(total), int(met)]


def test_the_committed_page_has_no_paragraph_twice() -> None:
    paragraphs = page.PAGE.read_text(encoding="utf-8").split("\n\n")
    assert [paragraph for paragraph in paragraphs if paragraphs.count(paragraph) > 1] == []


def test_a_goal_compares_the_number_that_the_page_shows() -> None:
    assert Goal("", 1.1, 1.104, at_most=True).met
    assert not Goal("", 0.85, 0.844).met
