"""Control the upload of a record from the trainer: start its process, get the run's URL, wait for it, end it."""

import json
import logging
import math
import os
import queue
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from bundle.whole_file import write_whole
from pyml.config import Settings
from pyml.process import kill_process_tree
from pyml.tracking.local_run import ARRIVED_FILE, sdk_environment
from pyml.tracking.upload_process import SERVER_ASKED, SERVER_OK

log = logging.getLogger(__name__)

SILENT_SECONDS = 12  # the longest wait for a server that does not answer
URL = re.compile(r"View run .* at (https?://\S+)")


class Upload:
    """The uploading process of one record. The caller must end it."""

    def __init__(self, directory: Path, settings: Settings, lock: int | None, *, live: bool) -> None:
        """lock: of the record. The process shares it, so the record stays locked until both processes have ended."""
        self._directory = directory
        self._messages: queue.Queue[dict[str, str]] = queue.Queue()
        self._has_url = threading.Event()
        self.url: str | None = None
        options = ["--live"] if live else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyml.tracking.upload_process", *options, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(settings),
            pass_fds=() if lock is None else (lock,),
            start_new_session=True,  # Ctrl-C must reach only the trainer, which then closes the record
        )
        self._input = cast(IO[bytes], self._process.stdin)
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def wait_for_url(self, seconds: float) -> str | None:
        """Wait until the server has given the run's URL, and give it; None after that many seconds."""
        self._has_url.wait(seconds)
        return self.url

    def failed_early(self) -> str | None:
        """Give the reason if the upload ended during the training; None if it continues."""
        with suppress(queue.Empty):
            return self._messages.get_nowait().get("problem")
        return None

    def close(self) -> None:
        """Tell the process that the record is complete."""
        with suppress(BrokenPipeError):  # the process has ended; wait() notices it
            self._input.write(b"closed\n")
            self._input.flush()

    def wait(self, at_most_seconds: float) -> str | None:
        """Wait until a closed record has arrived. Give None, or the reason why it did not arrive.

        A server that does not answer for SILENT_SECONDS, after it is asked, ends the wait earlier.
        """
        end, alive_until = time.monotonic() + at_most_seconds, math.inf
        server = "was not asked in time"
        while time.monotonic() < min(end, alive_until):
            try:
                message = self._messages.get(timeout=0.1)
            except queue.Empty:
                if self._process.poll() is not None and self._messages.empty():
                    return f"its uploading process ended with exit code {self._process.returncode}"
                continue
            if "arrived" in message:
                self._write_arrival(message["arrived"])
                return None
            if "problem" in message:
                return message["problem"]
            server = message["server"]
            if server in (SERVER_OK, SERVER_ASKED):
                alive_until = time.monotonic() + SILENT_SECONDS
        return f"the server {server}" if server != SERVER_OK else f"the upload took more than {at_most_seconds:.0f} s"

    def end(self) -> None:
        """Kill the process, in any state."""
        kill_process_tree(self._process.pid)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._input.close()

    def _write_arrival(self, url: str) -> None:
        self.url = url
        text = json.dumps({"url": url, "seen_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        path = self._directory / ARRIVED_FILE
        try:
            with write_whole(path) as file:
                file.write(f"{text}\n".encode())
        except OSError as error:  # the run is at the server, and its bundle is published
            log.warning(
                "W&B: the run arrived, but %s cannot be written (%s); the next pyml sync uploads it again",
                path,
                error.strerror,
            )

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            text = line.decode(errors="replace")
            if text.startswith("{"):
                self._messages.put(json.loads(text))
            elif found := URL.search(text):
                self.url = found[1]
                self._has_url.set()


def _environment(settings: Settings) -> dict[str, str]:
    """Give the environment of the process.

    The API key is passed only here, not as an argument. The SDK must write messages, because one has the run's URL.
    """
    root = settings.record.absolute()
    key = {"WANDB_API_KEY": settings.wandb_api_key.get_secret_value()} if settings.wandb_api_key else {}
    own = {"WANDB_DIR": str(root), "WANDB_MODE": "online", "WANDB_SILENT": "false", "PYTHONUNBUFFERED": "1"}
    live = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "5"}  # seconds until W&B shows a new epoch; the default is fifteen
    environment = {**os.environ, **live, **sdk_environment(root), **own, **key}
    environment.pop("WANDB_SERVICE", None)  # the service of the trainer, which ends with the record
    return environment
