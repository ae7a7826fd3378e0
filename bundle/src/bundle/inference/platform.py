"""Names of the interpreter and the processor: a model gives the same bits if both are the same."""

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def runtime() -> str:
    """Return the name and the version of the interpreter."""
    return f"litert {metadata.version('ai-edge-litert')}"


@cache
def processor() -> str:
    """Return the name of the processor, as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return models[0].strip() if models else platform.machine()
