"""The valid examples and the former findings of each target, without the fuzzer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuzz import targets
from fuzz.examples import EXAMPLES
from fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"
FINDINGS = sorted(SEEDS.glob("*/*"))


@pytest.mark.parametrize("path", FINDINGS, ids=[f"{path.parent.name}-{path.name}" for path in FINDINGS])
def test_a_former_finding_is_handled(path: Path, tmp_path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes(), tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_a_valid_example_is_accepted(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the fuzzer starts from contents that the reader refuses at once, and tests little."""
    accepted: list[bool] = []
    refusal = targets.refusal

    @contextmanager
    def noted(*errors: type[Exception]) -> Iterator[None]:
        with refusal(*errors):
            yield
            accepted.append(True)  # not reached after an error

    monkeypatch.setattr(targets, "refusal", noted)
    for content in EXAMPLES[target]():
        accepted.clear()
        TARGETS[target](content, tmp_path)
        assert accepted
