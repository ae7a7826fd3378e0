"""Ask the advisory service (OSV) about every pin of every lock. The client is pip-audit.

Exit codes: 0 nothing is known; 1 an advisory was found, or an exception is not valid; 3 the service did not answer, so
nothing was checked. pip-audit's own variables work, such as PIP_AUDIT_OSV_URL for another service.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from lock_files import REPO, AuditError, Pin, find_locks, read_locks

PIP_AUDIT = Path(sys.executable).parent / "pip-audit"
EXCEPTIONS = REPO / "audit/advisories.toml"
NO_ANSWER = 3


class NoAnswerError(AuditError):
    """The advisory service did not answer, so nothing is known."""


@dataclass(frozen=True)
class Advisory:
    """What the service knows about one version: all its ids, a summary, the versions that mend it."""

    name: str
    version: str
    ids: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class AcceptedAdvisory:
    """One exception: this advisory of this package is accepted for a reason, until the end of a day."""

    id: str
    package: str
    reason: str
    until: date


def split_versions(pins: list[Pin]) -> Iterator[list[tuple[str, str]]]:
    """Split the pins into lists that name each package once, as pip-audit wants it. No marker leaves a pin out."""
    versions: dict[str, set[str]] = defaultdict(set)
    for pin in pins:
        versions[pin.name].add(pin.version)
    for n in range(max(len(each) for each in versions.values())):
        yield [(name, sorted(each)[n]) for name, each in sorted(versions.items()) if len(each) > n]


def ask_service(pinned: list[tuple[str, str]]) -> list[Advisory]:
    """Ask about (name, version) pairs; raise NoAnswerError unless the service answered for each of them."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in pinned)
        file.flush()
        options = ["--disable-pip", "--no-deps", "--strict", "--progress-spinner=off", "--format=json", "-s", "osv"]
        command = [str(PIP_AUDIT), *options, "--output=-", "--requirement", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        answers = []
    if len(answers) != len(pinned):
        reason = (done.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1]
        raise NoAnswerError(
            f"The advisory service did not answer, so NOTHING WAS CHECKED ({reason[:300]}): run `make advisories` "
            "where the service can be reached."
        )
    return [read_advisory(answer, found) for answer in answers for found in answer["vulns"]]


def read_advisory(answer: dict[str, Any], found: dict[str, Any]) -> Advisory:
    """Make an Advisory of pip-audit's JSON."""
    ids = tuple(sorted({found["id"], *found["aliases"]}))
    return Advisory(answer["name"], answer["version"], ids, found["description"], tuple(found["fix_versions"]))


def read_exceptions(path: Path) -> list[AcceptedAdvisory]:
    """Read the exceptions; raise AuditError if one is not complete or has ended."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    exceptions = [read_exception(entry, path.name) for entry in table.pop("exception", [])]
    if table:
        raise AuditError(f"{path.name} has {', '.join(table)}: it may only have entries [[exception]].")
    return exceptions


def read_exception(entry: dict[str, Any], file: str) -> AcceptedAdvisory:
    """Check one entry: all four keys, a reason that is not empty, and an end that is today or later."""
    texts = [entry.get(key) for key in ("id", "package", "reason")]
    until = entry.get("until")
    if len(entry) != 4 or not all(isinstance(text, str) and text.strip() for text in texts) or type(until) is not date:
        given = ", ".join(f"{key} = {value!r}" for key, value in entry.items()) or "nothing"
        raise AuditError(
            f"{file}: an exception needs id, package, reason and until (a date such as 2027-01-31). One has {given}."
        )
    if until < date.today():
        raise AuditError(
            f"{file}: the exception for {entry['id']} of {entry['package']} ended on {until}: "
            "take a version without the advisory (`make lock`), or decide again."
        )
    return AcceptedAdvisory(**entry)


def judge(advisories: list[Advisory], pins: list[Pin], exceptions: list[AcceptedAdvisory]) -> list[str]:
    """Give a sentence for each advisory without an exception, and for each exception without an advisory."""
    problems, used = [], set()
    for advisory in advisories:
        accepting = {each for each in exceptions if each.package == advisory.name and each.id in advisory.ids}
        used |= accepting
        if accepting:
            continue
        locks = ", ".join(sorted({p.lock for p in pins if (p.name, p.version) == (advisory.name, advisory.version)}))
        fixed = f"mended in {' or '.join(advisory.fixed)}" if advisory.fixed else "no version mends it"
        problems.append(
            f"{advisory.name} {advisory.version} ({locks}) has the advisory {' = '.join(advisory.ids)}: "
            f"{advisory.summary} ({fixed}). Run `make lock`, or accept it in audit/advisories.toml."
        )
    return problems + [
        f"advisories.toml: no lock needs the exception for {each.id} of {each.package} any more: remove it."
        for each in exceptions
        if each not in used
    ]


def main() -> int:
    """Check the locks, print what was found, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exceptions", type=Path, default=EXCEPTIONS)
    parser.add_argument("locks", nargs="*", type=Path, help="default: every lock of the repository")
    options = parser.parse_args()
    locks = [path.resolve() for path in options.locks] or find_locks()
    try:
        exceptions = read_exceptions(options.exceptions)
        pins = read_locks(locks)
        advisories = [advisory for pinned in split_versions(pins) for advisory in ask_service(pinned)]
    except NoAnswerError as error:
        print(error, file=sys.stderr)
        return NO_ANSWER
    except AuditError as error:
        print(error, file=sys.stderr)
        return 1
    problems = judge(advisories, pins, exceptions)
    print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
    if not problems:
        versions = len({(pin.name, pin.version) for pin in pins})
        print(f"advisories: none for {versions} versions in {len(locks)} locks; {len(exceptions)} accepted")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
