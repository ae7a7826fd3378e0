"""Measure the speed goals, each part on a fresh embedded server, and write docs/benchmarks.md: `make bench`.

    bench.py [--bin DIR] [--rounds N] [PART ...]      PART: write, read, pipeline, latency, growth, workers,
                                                  ready, peers, costs

--bin (or POSTGRES_BIN) is a directory with the programs of another PostgreSQL. The page keeps one result of each part
for each major version.
"""

import argparse
import importlib
import logging
import os
import shlex
from pathlib import Path

import environment
import page
import timing

PARTS = ("write", "read", "pipeline", "latency", "growth", "workers", "ready", "peers", "costs")


def main() -> None:
    """Run the named parts and print how many goals were missed. A missed goal is a result: the exit code stays 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default: all")
    parser.add_argument(
        "--bin",
        type=Path,
        default=os.environ.get("POSTGRES_BIN") or None,
        help="directory of PostgreSQL's programs",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each way; docs/benchmarks.md needs 5")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    missed = 0
    for name in options.parts or PARTS:
        with environment.server(options.bin) as version:
            print(f"== {name}, PostgreSQL {version}", flush=True)
            part = importlib.import_module(f"part_{name}").measure(options.rounds)
        print(part.report(), end="\n\n", flush=True)
        rounds = f"--rounds {options.rounds} " if options.rounds != parser.get_default("rounds") else ""
        command = ["make", "bench", f"BENCH={rounds}{name}"]
        if options.bin:
            command.append("POSTGRES_BIN=DIR")
        page.write(part, f"PostgreSQL {version}", timing.machine(), shlex.join(command))
        missed += sum(not goal.met for goal in part.goals)
    print(f"{missed} goals were missed, see docs/benchmarks.md" if missed else "all goals were met")


if __name__ == "__main__":
    main()
