"""The lines of C++ libraries are dropped, other lines stay, and file descriptor 2 is itself again."""

import subprocess
import sys

THREADS = """
import os, threading
from bundle.quiet import without_stderr
before = os.fstat(2)
first_inside, second_inside, first_done = threading.Event(), threading.Event(), threading.Event()
def first():
    with without_stderr():
        first_inside.set()
        second_inside.wait(0.5)  # in vain, if the second thread has to wait
    first_done.set()
def second():
    first_inside.wait()
    with without_stderr():
        second_inside.set()
        first_done.wait()
threads = [threading.Thread(target=first), threading.Thread(target=second)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert os.path.samestat(os.fstat(2), before)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_only_lines_with_the_given_parts_are_dropped() -> None:
    program = (
        "import os; from bundle.quiet import without_stderr\n"
        "with without_stderr((b'XNNPACK',)): os.write(2, b'INFO: XNNPACK delegate\\nan error\\n')\n"
        "os.write(2, b'later\\n')"
    )
    assert run(program).stderr == "an error\nlater\n"


def test_two_threads_at_once_leave_stderr_as_it_was() -> None:
    """The second thread must wait: else it restores the first one's file, and all later lines of the log are lost."""
    run(THREADS)
