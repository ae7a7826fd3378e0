"""The process that uploads one record to Weights & Biases: `python -m pyml.tracking.upload_process [--live] DIRECTORY`.

The upload has its own process, so that no server can delay or break a training: the trainer only writes to its disk.
The SDK's own `wandb beta sync` uploads the record, with `--live` during the training. Then this process checks what
arrived on the server. It writes messages to stdout, one JSON object per line, between the lines of the SDK:

    {"server": "did not answer"}                          the record is closed, and the server is asked now
    {"server": "ok"}  {"server": "cannot be reached"}     every few seconds after that
    {"arrived": "<url>"}  or  {"problem": "<reason>"}     the last message

A line on stdin means that the record is closed. The end of stdin means that the trainer has died: then this process
sends the rest of the record and ends.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from bundle.messages import one_line
from pyml.process import kill_process_tree
from pyml.tracking.local_run import read_local_run

SERVER_OK, SERVER_ASKED, TOKEN_UNKNOWN = "ok", "did not answer", "does not know the token"
ASK_SECONDS = 3  # pause between two checks of the server, and time limit of one check
ORPHAN_SECONDS = 10  # time to send the rest of the record after the trainer was killed


def main(arguments: list[str]) -> None:
    """Upload the record and report the result."""
    live, directory = "--live" in arguments, Path(arguments[-1])
    os.nice(10)  # the training has priority
    closed = threading.Event()
    threading.Thread(target=_listen, args=(closed,), daemon=True).start()
    threading.Thread(target=_report_server, args=(closed,), daemon=True).start()
    if not live:
        closed.set()
    else:
        _sync(directory, live=True)
        if not closed.is_set() and check_server() == TOKEN_UNKNOWN:
            _send("problem", f"the server {TOKEN_UNKNOWN}")  # report it in the first epoch, not after the last
            return
        closed.wait()  # if the server failed, the SDK stops before the record is closed
    problem = "it was not uploaded"
    for attempt in range(2):
        if attempt or not live:
            _sync(directory, live=False)
        try:
            url, missing = _find_missing(directory)
        except Exception as error:  # the SDK raises the errors of its HTTP client, which are of many kinds
            problem = f"it is not known what arrived: {one_line(error)}"
        else:
            if not missing:
                _send("arrived", url)
                return
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            problem = f"{missing[0]} did not arrive{more}"
        if check_server() == TOKEN_UNKNOWN:
            problem = f"the server {TOKEN_UNKNOWN}"
            break
    _send("problem", problem)


def check_server() -> str:
    """Ask the server for the owner of the token, a fast request. Give the server's state in a few words."""
    import requests
    import wandb

    key = os.environ.get("WANDB_API_KEY")
    try:
        answer = requests.post(
            f"{wandb.setup().settings.base_url}/graphql",
            json={"query": "query Viewer { viewer { id } }"},
            auth=("api", key) if key else None,  # None: the key in ~/.netrc is used
            timeout=ASK_SECONDS,
        )
        if answer.status_code == 200:
            return SERVER_OK if answer.json()["data"]["viewer"] else TOKEN_UNKNOWN
    except requests.Timeout:
        return "does not answer"
    except requests.exceptions.SSLError:
        return "has a certificate that is not trusted"
    except requests.ConnectionError:
        return "cannot be reached"
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return "does not answer as W&B does"
    return TOKEN_UNKNOWN if answer.status_code in (401, 403) else f"answers {answer.status_code}"


def _sync(directory: Path, *, live: bool) -> None:
    """Run `wandb beta sync`. Its exit code is unreliable, so it is ignored."""
    from wandb.cli.cli import cli

    arguments = ["beta", "sync", "--no-skip-synced", "--no-skip-online", str(directory)]
    if live:
        arguments.append("--live")
    try:
        cli.main(arguments, standalone_mode=False)
    except (Exception, SystemExit) as error:
        sys.stderr.write(f"{error}\n")


def _find_missing(directory: Path) -> tuple[str, list[str]]:
    from pyml.tracking.verify_upload import find_missing

    return find_missing(read_local_run(directory))


def _listen(closed: threading.Event) -> None:
    """Wait for the line of the parent. Kill this process when the parent has died."""
    for _ in sys.stdin:
        closed.set()
    time.sleep(ORPHAN_SECONDS)
    kill_process_tree(os.getpid())


def _report_server(closed: threading.Event) -> None:
    import wandb  # noqa: F401 - it takes seconds beside a training, which is not the server's fault

    closed.wait()
    _send("server", SERVER_ASKED)
    while True:
        _send("server", check_server())
        time.sleep(ASK_SECONDS)


def _send(what: str, value: str) -> None:
    # One write per line, because the service of the SDK writes to the same pipe.
    os.write(1, (json.dumps({what: value}) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
