"""Fuzz one target in this process with atheris, Google's fuzzer for Python: fuzzer.py TARGET [option or FILE...].

The options are libFuzzer's; FILE is tried alone. Without FILE, it starts from the valid examples, the former findings
in seeds/TARGET and the inputs of earlier runs in .local/fuzz/TARGET. A finding ends the process with another exit code
than 0; its input is written to the same folder.
"""

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parent.parent
sys.path[0] = str(TESTS)
with atheris.instrument_imports(include=["bundle", "pypredict", "pyml", "PIL", "numpy.lib", "zipfile", "fuzz"]):
    from fuzz.examples import EXAMPLES
    from fuzz.mutators import MUTATORS, mutate_bytes
    from fuzz.targets import TARGETS

MEMORY_BYTES = 1 << 30  # of the process, with the fuzzer itself
SECONDS = 10  # of processor time for one input; the limit of the wall-clock time is twelve times as much
MAX_BYTES = 16_384  # of one input
LIMITS = [
    f"-max_len={MAX_BYTES}",
    "-len_control=0",
    f"-timeout={12 * SECONDS}",
    f"-rss_limit_mb={2 * MEMORY_BYTES >> 20}",
]


def main() -> None:
    """Fuzz the target that the first argument names."""
    name = sys.argv[1]
    corpus = TESTS.parent / ".local/fuzz" / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    examples = EXAMPLES[name]()
    for number, content in enumerate(examples):
        (corpus / f"example_{number}").write_bytes(content)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:

        def check(content: bytes) -> None:
            began = time.process_time()
            TARGETS[name](content, Path(folder))
            if time.process_time() - began > SECONDS:
                raise TimeoutError(f"this input needs more than {SECONDS} s of processor time")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if peak > MEMORY_BYTES:
                raise MemoryError(f"the process needed {peak} bytes, at most {MEMORY_BYTES} are allowed")

        def mutate(content: bytes, max_size: int, seed: int) -> bytes:
            """Change a valid example in one of three cases: libFuzzer forgets those whose parser it cannot see."""
            rng = random.Random(seed)
            mutator = MUTATORS.get(name, mutate_bytes)
            return mutator(rng.choice(examples) if rng.random() < 1 / 3 else content, max_size, seed)

        given = sys.argv[2:]
        if all(option.startswith("-") for option in given):  # no single file
            given += [str(place) for place in (corpus, TESTS / "fuzz/seeds" / name) if place.is_dir()]
        options = [*LIMITS, f"-artifact_prefix={corpus.parent}/"]
        atheris.Setup([sys.argv[0], *options, *given], check, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
