"""The files that GitHub reads have the form of GitHub's schemas."""

import subprocess

import pytest
from audit.conftest import AUDIT_BIN
from conftest import REPO

FILES = [(".github/dependabot.yml", "vendor.dependabot")] + [
    (path.relative_to(REPO).as_posix(), "vendor.github-workflows")
    for path in sorted((REPO / ".github/workflows").glob("*.yml"))
]


@pytest.mark.parametrize(("path", "schema"), FILES)
def test_file_of_github_has_the_form_of_its_schema(path: str, schema: str) -> None:
    command = [str(AUDIT_BIN / "check-jsonschema"), "--builtin-schema", schema, path]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
