"""The modules of the three packages, by name."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bundle", "pyml", "pypredict")


def source_modules() -> dict[str, Path]:
    """Map the name of every module and package in the three src folders to its file."""
    found = {}
    for package in PACKAGES:
        root = REPO / package / "src"
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found
