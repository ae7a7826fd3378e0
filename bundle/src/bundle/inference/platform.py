"""What a prediction was computed with: the same model on the same kind of processor gives the same bits."""

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def runtime() -> str:
    """Name the interpreter and its version."""
    return f"litert {metadata.version('ai-edge-litert')}"


@cache
def processor() -> str:
    """Name the kind of processor, as the operating system does."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return models[0].strip() if models else platform.machine()
