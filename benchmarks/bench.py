"""Measure the speed goals, each part on a fresh embedded server, and write docs/benchmarks.md: `make bench`.

    bench.py [--bin DIR] [--rounds N] [write read walk latency growth workers ready]

--bin (or POSTGRES_BIN) takes another PostgreSQL's programs; a part's section stands once for each major version.
"""

import argparse
import importlib
import logging
import os
import shlex
from pathlib import Path

import page
import scene
import timing

PARTS = ("write", "read", "walk", "latency", "growth", "workers", "ready")


def main() -> None:
    """Run the parts that were asked for; say how many goals were missed, which is a figure and no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument(
        "--bin", type=Path, default=os.environ.get("POSTGRES_BIN") or None, help="PostgreSQL's programs"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each way; the page wants 5")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    missed = 0
    for name in options.parts or PARTS:
        with scene.server(options.bin) as version:
            print(f"== {name}, PostgreSQL {version}", flush=True)
            part = importlib.import_module(f"part_{name}").measure(options.rounds)
        print(part.text(), end="\n\n", flush=True)
        rounds = f"--rounds {options.rounds} " if options.rounds != parser.get_default("rounds") else ""
        command = shlex.join(["make", "bench", f"BENCH={rounds}{name}", *(["POSTGRES_BIN=DIR"] if options.bin else [])])
        page.write(part, f"PostgreSQL {version}", timing.machine(), command)
        missed += sum(not goal.reached for goal in part.goals)
    print(f"{missed} goals were missed; docs/benchmarks.md says which" if missed else "every goal was reached")


if __name__ == "__main__":
    main()
