"""Long trainings on real data: `make test-training` runs them, `make test` does not.

The data are in PYML_DATA_DIR, or else beside the repository in shared/data. Without the data the tests are skipped.
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
        pytest.skip(f"NO REAL DATA in {DATA}: name the directory with PYML_DATA_DIR; nothing was tested")
    return DATA
