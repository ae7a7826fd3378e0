"""Each command that README and docs/ name exists, with all its options, and a test runs each one of a block.

Those with docker run in tests/compose (test_pages.py, test_backup.py), pyml and pypredict in tests/training, targets of
make in .ci/run.
"""

import re
from collections.abc import Iterator

import pytest
from conftest import REPO
from support.page_commands import PageCommand, all_commands
from typer.main import get_command

from pyml.cli import app as pyml_app
from pypredict.cli import app as pypredict_app

PROGRAMS = {"pyml": get_command(pyml_app), "pypredict": get_command(pypredict_app)}
TARGETS = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PAGES = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")])
WORDS = r"((?: +[^ `|;&#<>']+)*)"  # what follows, up to the end of the code or of the shell command


def named(program: str) -> Iterator[tuple[str, list[str]]]:
    """Give the page and the words of each command in code: in backticks, indented, or in a block for the shell."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (.+)$", text, re.MULTILINE)
        code += [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        for line in code:
            for words in re.findall(rf"(?:^|[ /]){program}{WORDS}", line):
                yield page.name, words.split()


def test_each_make_target_that_is_named_exists() -> None:
    targets = [(page, words[0]) for page, words in named("make") if words and re.fullmatch(r"[a-z-]+", words[0])]
    assert len(targets) > 20
    assert [target for target in targets if target[1] not in TARGETS] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_command_that_is_named_has_its_options(program: str) -> None:
    found = 0
    for page, words in named(program):
        command, rest = PROGRAMS[program], words
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = [word.split("=")[0].rstrip(",.:)") for word in rest if word.startswith("--")]
        assert set(options) <= known | {"--help"}, f"{page}: {program} {' '.join(words)}"
        found += 1
    assert found > 20


# The pages whose commands a test runs, by program. `export` is the shell's own.
RUN_BY = {
    "docker": ("README.md", "docs/stack.md", "docs/passwords.md", "docs/upgrade.md"),
    "pyml": ("docs/tutorial.md",),
    "pypredict": ("docs/tutorial.md", "docs/own-data.md", "docs/inspecting.md", "docs/retention.md"),
    "cp": ("README.md",),
    "export": ("docs/tutorial.md",),
}
# The words that follow a target of make in a page stand for a file or a value; CI has its own.
MAKE_VARIABLES = {"DIR", "STACK", "MODULE", "MOST"}
CI = re.findall(
    r"^ *(?:[A-Z_]+=\S+ )*make ([a-z -]+[a-z])", (REPO / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE
)
CI_TARGETS = {target for targets in CI for target in targets.split()}


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: f"{command.page}: {command.text}")
def test_a_command_of_a_page_is_run_by_a_test_or_says_why_not(command: PageCommand) -> None:
    if command.program == "make":
        target, *words = command.text.split("make ")[1].split()
        run = target in CI_TARGETS and {word.split("=")[0] for word in words} <= MAKE_VARIABLES
    else:
        run = command.page in RUN_BY.get(command.program, ())
    assert run or command.not_run, command
