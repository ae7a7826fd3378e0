"""Commands that backup.py runs: what a person reads when one of two fails."""

import sys

import pytest

from installation import BackupError, Command, pipe

FAILS_LOUDLY = "import sys; sys.stderr.write('x' * 200_000 + '\\nthe disk is broken\\n'); sys.exit(3)"
READS = "import sys; sys.stdin.read()"
REFUSES = "import sys; sys.exit('the input ended early' if not sys.stdin.read() else 0)"


@pytest.mark.timeout(30)
def test_a_source_that_fails_with_a_long_message_is_named() -> None:
    with pytest.raises(BackupError, match=r"failed: x+ [|] the disk is broken$"):
        pipe(Command([sys.executable, "-c", FAILS_LOUDLY]), Command([sys.executable, "-c", READS]))


def test_the_source_is_named_before_the_target_that_it_let_fail() -> None:
    source = Command([sys.executable, "-c", "import sys; sys.exit('the disk is broken')"])
    with pytest.raises(BackupError, match=r"the disk is broken; .* the input ended early$"):
        pipe(source, Command([sys.executable, "-c", REFUSES]))


def test_a_target_that_fails_alone_is_named() -> None:
    with pytest.raises(BackupError, match=r"failed: the input ended early$"):
        pipe(Command([sys.executable, "-c", ""]), Command([sys.executable, "-c", REFUSES]))
