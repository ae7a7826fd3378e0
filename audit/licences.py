"""Check the licences of the runtime packages against audit/licences.toml. pip-licenses reads the metadata.

Each licence that a package names must be allowed, also when the package offers a choice. Exit code 1: one is denied or
unknown, a package is not installed as the locks say, or an entry of the file is not needed any more.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from lock_files import REPO, AuditError, read_locks

PIP_LICENSES = Path(sys.executable).parent / "pip-licenses"
POLICY = REPO / "audit/licences.toml"

Entry = dict[str, Any]


def installed_licences(python: Path) -> dict[str, tuple[str, str]]:
    """Map each package of an environment to its version and its licences, as its metadata names them."""
    options = ["--with-system", "--from=all", "--format=json"]
    command = [str(PIP_LICENSES), f"--python={python}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AuditError(f"{python}: its packages cannot be read, {done.stderr.strip()[-300:]}: run `make install`.")
    return {canonicalize_name(row["Name"]): (row["Version"], join_licences(row)) for row in json.loads(done.stdout)}


def join_licences(row: dict[str, str]) -> str:
    """Join the classifiers with the license field, which may say something else; a whole text there has no name."""
    classifiers, field = row["License-Classifier"], row["License-Metadata"]
    if classifiers == "UNKNOWN":
        return field
    return classifiers if field == "UNKNOWN" or "\n" in field else f"{classifiers}; {field}"


def split_licences(licences: str) -> list[str]:
    """Split an SPDX expression, or classifiers that pip-licenses joined; a parenthesis of a name stays."""
    parts = re.split(r" AND | OR |; ", licences)
    return [part if part.count("(") == part.count(")") else part.strip("()") for part in parts]


class LicencePolicy:
    """The lists of audit/licences.toml; it remembers which exceptions were used."""

    def __init__(self, path: Path) -> None:
        policy = tomllib.loads(path.read_text(encoding="utf-8"))
        self.name = path.name
        self.allowed: list[str] = policy["allowed"]
        self.denied: list[Entry] = policy["denied"]
        self.exceptions: list[Entry] = policy.get("exception", [])
        self.stated: list[Entry] = policy.get("stated", [])
        self.used: list[Entry] = []  # exceptions

    def check_entries(self) -> None:
        """Raise AuditError if an exception is not for one licence, has no reason, or no date."""
        for entry in self.exceptions:
            texts = [entry.get(key) for key in ("package", "licence", "reason")]
            if not all(isinstance(text, str) and text.strip() for text in texts) or type(entry.get("date")) is not date:
                raise AuditError(
                    f"{self.name}: the exception for {entry.get('package')} needs package, licence, reason and date."
                )

    def judge(self, name: str, licences: str) -> Iterator[str]:
        """Give a sentence for each licence of a package that is denied or unknown."""
        stated = find_entry(self.stated, name)
        if licences == "UNKNOWN" and stated is not None:
            licences = stated["licence"]
        for licence in split_licences(licences):
            denied = next((each for each in self.denied if re.search(each["licence"], licence, re.IGNORECASE)), None)
            if denied is not None:
                suitable = [each for each in self.exceptions if re.search(each["licence"], licence)]
                exception = find_entry(suitable, name)
                if exception is not None:
                    self.used.append(exception)
                else:
                    yield f"{name} has the denied licence {licence!r}: {denied['reason']}. Take another package."
            elif licence not in self.allowed:
                yield f"{name} has the licence {licence[:80]!r}, which {self.name} does not know: add it to a list."

    def find_unneeded(self, names: Iterable[str]) -> Iterator[str]:
        """Give a sentence for each exception that was not used, and each stated licence of a package in no lock."""
        for entry in self.exceptions:
            if entry not in self.used:
                yield f"{self.name}: {entry['package']} needs no exception for {entry['licence']!r}: remove it."
        for entry in self.stated:
            if not any(fnmatchcase(name, entry["package"]) for name in names):
                yield f"{self.name}: no lock has {entry['package']}, whose licence is stated: remove it."


def find_entry(entries: list[Entry], name: str) -> Entry | None:
    """Find the first entry for a package."""
    return next((each for each in entries if fnmatchcase(name, each["package"])), None)


def check(python: Path, policy: LicencePolicy, locks: list[Path]) -> Iterator[str]:
    """Give a sentence for each problem with a package of the locks."""
    policy.check_entries()
    installed = installed_licences(python)
    versions: dict[str, set[str]] = defaultdict(set)
    for pin in read_locks(locks):
        versions[pin.name].add(pin.version)
    for name, pinned in sorted(versions.items()):
        version, licences = installed.get(name, ("", "UNKNOWN"))
        if version and version not in pinned:
            yield f"{name} {version} is installed, and the locks say {' or '.join(sorted(pinned))}: run `make install`."
        elif not version and find_entry(policy.stated, name) is None:
            yield f"{name} is not installed: run `make install`, or state its licence in {policy.name}."
        else:
            yield from policy.judge(name, licences)
    yield from policy.find_unneeded(versions)


def main() -> int:
    """Check the locks, print what was found, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of the environment with the packages")
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("locks", nargs="+", type=Path)
    options = parser.parse_args()
    try:
        problems = list(check(options.python, LicencePolicy(options.policy), options.locks))
    except AuditError as error:
        problems = [str(error)]
    print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
    if not problems:
        print(f"licences: all allowed in {len(options.locks)} locks")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
