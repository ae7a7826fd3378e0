"""The long trainings on real data: `make test-training` runs them, `make test` does not.

The data lie in PYML_DATA_DIR, else beside the repository in shared/data; without them these tests skip, and say so.
"""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("PYML_DATA_DIR") or REPO.parent / "shared/data")

collect_ignore_glob = [] if os.environ.get("TEST_TRAINING") else ["test_*.py"]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if not (DATA / "mnist/mnist.npz").is_file():
        pytest.skip(f"NO REAL DATA in {DATA}: name their directory with PYML_DATA_DIR; nothing was tested")
    return DATA
