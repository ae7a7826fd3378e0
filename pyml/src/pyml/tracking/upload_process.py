"""The process that uploads one record to Weights & Biases: `python -m pyml.tracking.upload_process [--live] DIRECTORY`.

A process of its own, so that no server can hold up or break a training: the trainer only ever writes to its disk. The
SDK's own `wandb beta sync` does the work, `--live` while the record still grows; then the server is asked what arrived.
On stdout, among the SDK's lines, goes one JSON object a line:

    {"server": "ok"}  {"server": "cannot be reached"}     every few seconds once the record is closed
    {"arrived": "<url>"}  or  {"problem": "<why>"}        the last one

On stdin a line says that the record is closed; its end, that the trainer is dead: what was recorded is still sent, then
the process ends itself.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from bundle.messages import one_line
from pyml.process import end_family
from pyml.tracking.local_run import read_record

SERVER_OK, TOKEN_UNKNOWN = "ok", "does not know the token"
ASK_SECONDS = 3  # between two questions whether the server answers; also how long one may take
ORPHAN_SECONDS = 10  # what a killed trainer left has so long to be sent


def main(arguments: list[str]) -> None:
    """Upload the record and say what came of it."""
    live, directory = "--live" in arguments, Path(arguments[-1])
    os.nice(10)  # the training goes first
    closed = threading.Event()
    threading.Thread(target=_listen, args=(closed,), daemon=True).start()
    threading.Thread(target=_report_server, args=(closed,), daemon=True).start()
    if not live:
        closed.set()
    else:
        _sync(directory, live=True)
        if not closed.is_set() and ask_server() == TOKEN_UNKNOWN:
            _say("problem", f"the server {TOKEN_UNKNOWN}")  # better said in the first epoch than in the last
            return
        closed.wait()  # where the server failed, the SDK gives up long before
    problem = "it was not uploaded"
    for attempt in range(2):
        if attempt or not live:
            _sync(directory, live=False)
        try:
            url, missing = _look_up(directory)
        except Exception as error:  # the SDK raises what its network raises
            problem = f"what arrived cannot be looked up: {one_line(error)}"
        else:
            if not missing:
                _say("arrived", url)
                return
            problem = f"{missing[0]} did not arrive" + f" (and {len(missing) - 1} more)" * (len(missing) > 1)
        if ask_server() == TOKEN_UNKNOWN:
            problem = f"the server {TOKEN_UNKNOWN}"
            break
    _say("problem", problem)


def ask_server() -> str:
    """Ask the server for the token's owner, a question that it answers at once; say how it went in a few words."""
    import requests
    import wandb

    key = os.environ.get("WANDB_API_KEY")
    try:
        answer = requests.post(
            f"{wandb.setup().settings.base_url}/graphql",
            json={"query": "query Viewer { viewer { id } }"},
            auth=("api", key) if key else None,  # None: the one in ~/.netrc
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
        return "gives an answer that is none of W&B's"
    return TOKEN_UNKNOWN if answer.status_code in (401, 403) else f"answers {answer.status_code}"


def _sync(directory: Path, *, live: bool) -> None:
    """Run `wandb beta sync`. What it says of its success is worth nothing, so nothing is made of it."""
    from wandb.cli.cli import cli

    options = ["--no-skip-synced", "--no-skip-online", *["--live"] * live]
    try:
        cli.main(["beta", "sync", *options, str(directory)], standalone_mode=False)
    except (Exception, SystemExit) as error:
        sys.stderr.write(f"{error}\n")


def _look_up(directory: Path) -> tuple[str, list[str]]:
    from pyml.tracking.verify_upload import look_up

    return look_up(read_record(directory))


def _listen(closed: threading.Event) -> None:
    """Wait for the parent's line; end the process when the parent is gone."""
    for _ in sys.stdin:
        closed.set()
    time.sleep(ORPHAN_SECONDS)
    end_family(os.getpid())


def _report_server(closed: threading.Event) -> None:
    closed.wait()
    while True:
        _say("server", ask_server())
        time.sleep(ASK_SECONDS)


def _say(what: str, value: str) -> None:
    # One write: the SDK's service writes to the same pipe.
    os.write(1, (json.dumps({what: value}) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
