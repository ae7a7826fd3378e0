"""An upload as its parent sees it: started, asked for the run's address, waited for within bounds, or ended."""

import json
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
from pyml.process import end_family
from pyml.tracking.local_run import ARRIVED_FILE, sdk_environment
from pyml.tracking.upload_process import SERVER_OK

SILENT_SECONDS = 12  # a server that has not answered for so long is given up
URL = re.compile(r"View run .* at (https?://\S+)")


class Upload:
    """The uploading process of one record; whoever starts it ends it."""

    def __init__(self, directory: Path, settings: Settings, lock: int | None, *, live: bool) -> None:
        """lock: the record's, shared with the process, so that it is held until both have ended."""
        self._directory = directory
        self._said: queue.Queue[dict[str, str]] = queue.Queue()
        self._has_url = threading.Event()
        self.url: str | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyml.tracking.upload_process", *["--live"] * live, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(settings),
            pass_fds=() if lock is None else (lock,),
            start_new_session=True,  # Ctrl-C is for the trainer, which then closes the record
        )
        self._orders = cast(IO[bytes], self._process.stdin)
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def wait_for_url(self, seconds: float) -> str | None:
        """Give the run's address as soon as the server has told it; None after that many seconds."""
        self._has_url.wait(seconds)
        return self.url

    def failed_early(self) -> str | None:
        """Say why the upload has ended while the record still grows; None while it goes on."""
        with suppress(queue.Empty):
            return self._said.get_nowait().get("problem")
        return None

    def close(self) -> None:
        """Tell the process that the record is complete."""
        with suppress(BrokenPipeError):  # it has ended; wait() sees that
            self._orders.write(b"closed\n")
            self._orders.flush()

    def wait(self, at_most_seconds: float) -> str | None:
        """Wait for a closed record to arrive; give None, or why it did not.

        A server that answers is waited for, one that does not for SILENT_SECONDS.
        """
        end, alive_until = time.monotonic() + at_most_seconds, time.monotonic() + SILENT_SECONDS
        server = "did not answer"
        while time.monotonic() < min(end, alive_until):
            try:
                said = self._said.get(timeout=0.1)
            except queue.Empty:
                if self._process.poll() is not None and self._said.empty():
                    return f"its uploading process ended with exit code {self._process.returncode}"
                continue
            if "arrived" in said:
                self._note_arrival(said["arrived"])
                return None
            if "problem" in said:
                return said["problem"]
            server = said["server"]
            if server == SERVER_OK:
                alive_until = time.monotonic() + SILENT_SECONDS
        return f"the server {server}" if server != SERVER_OK else f"the upload took more than {at_most_seconds:.0f} s"

    def end(self) -> None:
        """End the process, at whatever it is."""
        end_family(self._process.pid)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._orders.close()

    def _note_arrival(self, url: str) -> None:
        self.url = url
        text = json.dumps({"url": url, "seen_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        with write_whole(self._directory / ARRIVED_FILE) as file:
            file.write(f"{text}\n".encode())

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            text = line.decode(errors="replace")
            if text.startswith("{"):
                self._said.put(json.loads(text))
            elif found := URL.search(text):
                self.url = found[1]
                self._has_url.set()


def _environment(settings: Settings) -> dict[str, str]:
    """Give the process the key, by the environment alone, and let it speak, which is how it tells the run's address."""
    root = settings.record.absolute()
    key = {"WANDB_API_KEY": settings.wandb_api_key.get_secret_value()} if settings.wandb_api_key else {}
    own = {"WANDB_DIR": str(root), "WANDB_MODE": "online", "WANDB_SILENT": "false", "PYTHONUNBUFFERED": "1"}
    live = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "5"}  # seconds until a new epoch is seen, instead of fifteen
    environment = {**os.environ, **live, **sdk_environment(root), **own, **key}
    environment.pop("WANDB_SERVICE", None)  # the trainer's own service, which ends with the record
    return environment
