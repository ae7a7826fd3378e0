"""Write a CycloneDX SBOM for each image, from the lock that its Dockerfile installs. The writer is cyclonedx-py.

The locks are complete, so no engine is needed. A lock is for many machines; the SBOM has the pins that the image gets:
Linux, the Python of BASE_IMAGE, and --machine. The same lock gives the same bytes.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from lock_files import REPO, AuditError, Pin, read_lock

CYCLONEDX_PY = Path(sys.executable).parent / "cyclonedx-py"
IMAGES = {
    "pyml": "pyml/requirements.txt",
    "pyml-gpu": "pyml/requirements-gpu.txt",
    "pypredict": "pypredict/requirements.txt",
}


def image_python(part: str) -> str:
    """Give the Python of an image, such as 3.11, from the default of BASE_IMAGE in its Dockerfile."""
    text = (REPO / part / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^ARG BASE_IMAGE=python:(\d+\.\d+)", text, re.MULTILINE)
    if found is None:
        raise AuditError(f"{part}/Dockerfile has no line ARG BASE_IMAGE=python:VERSION, which says the image's Python.")
    return found[1]


def image_markers(python: str, machine: str) -> dict[str, str]:
    """Give the values of a lock's markers inside an image."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
    }


def pins_of_image(image: str, machine: str) -> list[Pin]:
    """Give the pins of a lock that pip installs into the image."""
    lock = IMAGES[image]
    inside = image_markers(image_python(Path(lock).parts[0]), machine)
    markers = [(pin, pin.requirement.marker) for pin in read_lock(REPO / lock)]
    return [pin for pin, marker in markers if marker is None or marker.evaluate(dict(inside))]


def write_sbom(image: str, machine: str, path: Path) -> int:
    """Write the SBOM of an image, checked against the schema of CycloneDX; return the number of its packages."""
    pins = pins_of_image(image, machine)
    hashes = {pin: " ".join(f"--hash=sha256:{each}" for each in pin.hashes) for pin in pins}
    lines = [f"{pin.name}=={pin.version} {hashes[pin]}" for pin in pins]
    project = REPO / Path(IMAGES[image]).parts[0] / "pyproject.toml"
    options = ["--pyproject", str(project), "--output-reproducible", "--validate", "--of", "JSON", "-o", str(path)]
    command = [str(CYCLONEDX_PY), "requirements", *options, "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AuditError(f"{path} cannot be written: {done.stderr.strip()[-300:]}")
    return len(pins)


def main() -> int:
    """Write all SBOMs, print where they are, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", choices=["x86_64", "aarch64"], default="x86_64")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    try:
        for image in IMAGES:
            path = options.directory / f"{image}.cdx.json"
            print(f"{path}: {write_sbom(image, options.machine, path)} packages, Linux on {options.machine}")
    except AuditError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
