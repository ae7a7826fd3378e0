"""Break the code, one small change at a time, and run the tests that should fail: `make mutants`.

cosmic-ray changes operators, numbers and conditions of a module. mutants.toml lists the tests of each module, and has
mutants by hand: changes of SQL and removed statements, which cosmic-ray cannot make. All runs in a copy of the
repository, with one PostgreSQL server.
"""

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

import embedded

REPO = Path(__file__).resolve().parents[2]
TABLE = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text(encoding="utf-8"))
SOURCES = ("bundle/src", "pypredict/src")
TIMEOUT_SECONDS = 180  # of all tests of one mutant; pytest ends each test after 60 s

Result = tuple[str, bool]  # the description of a mutant, and whether it survived


def copy_repository(copy: Path) -> None:
    """Copy the files that git tracks or would add, as they are now."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=REPO, text=True)
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, copy / name)


def command(path: str) -> str:
    """Return the command that runs the tests of a file and stops at the first failure."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "timeout=60", "-p", "no:cacheprovider"]
    return shlex.join([*pytest, *TABLE["tests"][path]])


def try_by_hand(path: str) -> Iterator[Result]:
    """Run the tests with each mutant by hand of a file."""
    file = Path(path)
    text = file.read_text(encoding="utf-8")
    for mutant in TABLE["by_hand"]:
        if mutant["path"] != path:
            continue
        if text.count(mutant["old"]) != 1:
            sys.exit(f"mutants.toml: {mutant['name']}: {path} must contain this text once: {mutant['old']}")
        file.write_text(text.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        outcome, _ = run_tests(command(path), TIMEOUT_SECONDS)
        file.write_text(text, encoding="utf-8")
        yield f"by hand: {mutant['name']}", outcome is TestOutcome.SURVIVED


def try_cosmic_ray(path: str, most: int) -> Iterator[Result]:
    """Run the tests with each chosen mutant of cosmic-ray."""
    for mutation in choose(path, most):
        result = mutate_and_test([mutation], command(path), TIMEOUT_SECONDS)
        changed = [line for line in (result.diff or "").splitlines() if line[:1] in "+-" and line[:3] not in "---+++"]
        yield f"line {mutation.start_pos[0]}: " + " ".join(changed), result.test_outcome is TestOutcome.SURVIVED


def choose(path: str, most: int) -> list[MutationSpec]:
    """Choose one mutant of each kind at each place of a module, and at most `most`: the same ones in each run."""
    with tempfile.TemporaryDirectory() as directory, use_db(Path(directory) / "session.sqlite") as session:
        init([path], session, {})
        found = [mutation for item in session.work_items for mutation in item.mutations]
    random.Random(path).shuffle(found)
    places = {
        (mutation.start_pos, mutation.operator_name.split("_")[0]): mutation
        for mutation in found
        if "BinaryOperator_BitOr" not in mutation.operator_name  # mostly in types: they fail at the import
    }
    print(f"{path}: cosmic-ray finds {len(found)} mutants at {len(places)} places; at most {most} run", flush=True)
    return sorted(list(places.values())[:most], key=lambda mutation: mutation.start_pos)


def try_file(path: str, most: int) -> None:
    """Run all mutants of a file; print those that survive, and their number. Exit if the tests fail without one."""
    began = time.monotonic()
    outcome, said = run_tests(command(path), TIMEOUT_SECONDS)
    if outcome is not TestOutcome.SURVIVED:
        sys.exit(f"the tests of {path} fail without a mutant:\n{said}")
    n = n_survived = 0
    for description, survived in chain(try_by_hand(path), try_cosmic_ray(path, most) if path.endswith(".py") else ()):
        n, n_survived = n + 1, n_survived + survived
        if survived:
            print(f"survived  {description}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{path}: {n} mutants, {n_survived} survived, {minutes:.1f} minutes", flush=True)


def main() -> None:
    """Read the options, start a server, and try each file in a copy of the repository."""
    parser = argparse.ArgumentParser(description="Break the code, one small change at a time, and run its tests.")
    parser.add_argument("--module", default="", help="only the files whose path contains this text")
    parser.add_argument("--most", type=int, default=25, help="run at most so many mutants of cosmic-ray for a file")
    options = parser.parse_args()
    paths = [path for path in TABLE["tests"] if options.module in path]
    with tempfile.TemporaryDirectory() as directory:
        copy, state = Path(directory) / "copy", Path(directory) / "server"
        copy_repository(copy)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = os.pathsep.join(str(copy / source) for source in SOURCES)
        server = embedded.start(state, settings={"fsync": "off", "max_connections": "100"})
        os.environ["TEST_DATABASE_URL"] = server.url()
        try:
            for path in paths:
                try_file(path, options.most)
        finally:
            embedded.destroy(state)
            os.chdir(REPO)


if __name__ == "__main__":
    main()
