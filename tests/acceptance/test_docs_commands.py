"""Each command that README and docs/ name exists, with all its options. docs/tutorial.md is run in tests/training."""

import re
from collections.abc import Iterator

import pytest
from conftest import REPO
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
