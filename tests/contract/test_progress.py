"""The progress of a training: a bar on a terminal of 80 columns, lines of the log in a pipe."""

import re
import subprocess
import sys

from support.terminal import run_on_terminal

TRAINING = """
import logging
from bundle.terminal import log_to_stderr
from pyml.reports.progress import epoch_progress
log_to_stderr("%(message)s", logging.INFO)
names = ("accuracy", "loss", "val_accuracy", "val_loss", "val_auroc")
with epoch_progress(3) as (callback,):
    for epoch in range(3):
        callback.on_epoch_end(epoch, dict.fromkeys(names, 0.12345678))
"""


def test_training_on_a_terminal_shows_rate_remaining_time_and_all_metrics() -> None:
    _, plain = run_on_terminal([sys.executable, "-c", TRAINING])
    assert re.search(r"epoch .*3/3 [\d,.]+/s 0:00:00", plain)
    bar = plain[plain.index("epoch ━") :]  # without what TensorFlow prints at its start
    assert max(map(len, re.split(r"[\r\n]+", bar))) <= 80
    for name in ("accuracy", "loss", "val_accuracy", "val_loss", "val_auroc"):
        assert re.search(rf"\b{name}\s+0.1235", bar)
    assert "epoch 1/3  " not in plain  # no line of the log


def test_training_in_a_pipe_writes_a_line_for_each_epoch() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "━" not in done.stderr
