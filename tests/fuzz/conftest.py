"""Fuzzing runs long and needs atheris: `make fuzz` runs it, `make test` runs only the kept inputs."""

import os

collect_ignore_glob = [] if os.environ.get("FUZZ_SECONDS") else ["test_fuzz.py"]
