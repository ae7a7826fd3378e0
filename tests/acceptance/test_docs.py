"""The pages in docs/ say what is true of the code: modules, symbols, links, words, fault cases."""

import importlib
import re
from collections.abc import Iterator

import pytest
from conftest import REPO
from support.source_modules import PACKAGES, source_modules

MODULES = source_modules()
MODULE = rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)*"
LAST_CASE = 81
# These tests count the cases of another list, which the page docs/own-data.md came from.
OTHER_NUMBERS = {
    "db/test_load.py": (9, 10, 11, 13),
    "db/test_sources.py": (12,),
    "unit/test_builtin_data.py": (10, 14),
    "unit/test_local_data.py": (12, 13, 14),
}


def page(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """Give the part of a page below a heading, up to the next heading of the same level."""
    return re.split(r"^## ", text.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_architecture_names_every_module_exactly_once() -> None:
    modules = section(page("docs/architecture.md"), "Modules, in the order of the call path")
    named = re.findall(rf"^(?:### |- )`({MODULE})`:", modules, re.MULTILINE)
    assert sorted(named) == sorted(MODULES)


def test_architecture_says_in_one_line_what_is_in_each_module() -> None:
    modules = section(page("docs/architecture.md"), "Modules, in the order of the call path")
    lines = re.findall(rf"^- `{MODULE}`: (.*(?:\n  .*)*)", modules, re.MULTILINE)
    assert [line for line in lines if len(line) > 120] == []


# Where is ... : the link's text is module:symbol, or file:text for files that are not imported
WHERE_IS = section(page("docs/architecture.md"), "Where is ...")
ANSWERS = re.findall(r"\[`([^`:]+):([^`]+)`\]\(\.\./([^)]+)\)", WHERE_IS)


def test_every_question_has_an_answer() -> None:
    rows = re.findall(r"^\| (.*\?) \| (.*) \|$", WHERE_IS, re.MULTILINE)
    assert len(rows) >= 20
    assert [question for question, answer in rows if not re.search(r"\[`[^`:]+:[^`]+`\]\(", answer)] == []


@pytest.mark.parametrize(("place", "name", "path"), ANSWERS)
def test_an_answer_names_what_exists(place: str, name: str, path: str) -> None:
    if place in MODULES:
        assert MODULES[place] == REPO / path
        resolve(place, name)
    else:
        assert place == path
        assert name in page(path)


def resolve(module: str, name: str) -> None:
    """Import module:name, where name may be a method of a class."""
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)


def markdown() -> list[str]:
    docs, tests = REPO / "docs", REPO / "tests"
    pages = [*REPO.glob("*.md"), *docs.rglob("*.md"), *tests.glob("*.md")]
    return sorted(str(path.relative_to(REPO)) for path in pages)


@pytest.mark.parametrize("name", markdown())
def test_a_page_names_only_symbols_that_exist(name: str) -> None:
    for module, symbol in re.findall(rf"`({MODULE}):([\w.]+)`", page(name)):
        resolve(module, symbol)


@pytest.mark.parametrize("name", markdown())
def test_a_page_names_only_modules_that_exist(name: str) -> None:
    named = re.findall(rf"`({MODULE})[:`]", page(name))
    assert {module for module in named if "." in module} - MODULES.keys() == set()


@pytest.mark.parametrize("name", markdown())
def test_a_link_leads_to_a_file_and_a_heading(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if re.match(r"https?:", target):
            continue
        path, _, heading = target.partition("#")
        linked = (REPO / name).parent / path if path else REPO / name
        assert linked.exists(), target
        if heading:
            assert heading in anchors(linked.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """Give the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_glossary_explains_each_word_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+\. \| [^|]+ \|$", page("docs/glossary.md"), re.MULTILINE)
    assert len(rows) > 40
    assert len(rows) == len(set(rows))
    ours = {"bundle", "manifest", "chunk", "job", "lease", "fence", "promotion", "preparation"}
    assert ours <= set(rows)


# Fault cases: the numbers in the page and the numbers in the names of the tests
FAULTS = {
    int(case): tests
    for case, tests in re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", page("docs/faults.md"), re.MULTILINE)
}


def numbered_tests() -> Iterator[tuple[int, str]]:
    """Give the case and the file of every test whose name has a number: test_46_, test_01_to_04_, test_40_43_."""
    for path in sorted((REPO / "tests").rglob("test_*.py")):
        file = path.relative_to(REPO / "tests").as_posix()
        for first, last, second in re.findall(
            r"^def test_(\d+)(?:_to_(\d+)|_(\d+))?_", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            cases = list(range(int(first), int(last or first) + 1))
            if second:
                cases.append(int(second))
            for case in cases:
                if case not in OTHER_NUMBERS.get(file, ()):
                    yield case, file


def test_the_page_of_faults_has_every_case() -> None:
    assert list(FAULTS) == list(range(1, LAST_CASE + 1))


def test_the_page_of_faults_names_the_tests_of_every_case() -> None:
    named = {(case, file) for case, tests in FAULTS.items() for file in re.findall(r"`(.*?)`", tests.split("also")[0])}
    assert named == set(numbered_tests())


def test_the_page_of_faults_names_files_that_exist() -> None:
    named = {file for tests in FAULTS.values() for file in re.findall(r"`(.*?)`", tests)}
    assert [file for file in sorted(named) if not (REPO / "tests" / file).is_file()] == []
