"""Bundles that a reader refuses before it uses them. Each error is one sentence that names the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.bundles import publish_bundle

from bundle import BundleError
from bundle.manifest import MAX_MANIFEST_BYTES
from bundle.verify import Bundle, open_bundle, open_current

FILES = ("model.h5", "test_set.npz", "predictions.csv")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return publish_bundle(tmp_path)


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as raised:
        open_bundle(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit_manifest(bundle: Bundle, **changes: Any) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_valid_bundle_is_opened(bundle: Bundle) -> None:
    assert open_bundle(bundle.path) == bundle


def test_a_bundle_under_another_name_is_refused(bundle: Bundle) -> None:
    renamed = bundle.path.rename(bundle.path.with_name("other"))
    assert f"holds bundle {bundle.manifest.bundle_id}" in refusal(renamed)


@pytest.mark.parametrize("name", FILES)
def test_23_one_flipped_byte_is_refused(bundle: Bundle, name: str) -> None:
    data = bytearray((bundle.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / name).write_bytes(data)
    assert f"{name} has sha256" in refusal(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_22_a_truncated_file_is_refused(bundle: Bundle, name: str) -> None:
    data = (bundle.path / name).read_bytes()
    (bundle.path / name).write_bytes(data[:-1])
    assert f"{name} has {len(data) - 1} bytes, the manifest says {len(data)}" in refusal(bundle.path)


def test_a_file_over_4_gib_is_refused_before_it_is_read(bundle: Bundle) -> None:
    size = 2**40  # a file with a hole: it needs no room on the disk, and hashing it would take an hour
    with (bundle.path / "model.h5").open("r+b") as file:
        file.truncate(size)
    files = json.loads((bundle.path / "manifest.json").read_text())["files"]
    edit_manifest(bundle, files=files | {"model.h5": files["model.h5"] | {"size": size}})
    assert f"model.h5 has {size} bytes" in refusal(bundle.path)


def test_22_an_empty_model_is_refused(bundle: Bundle) -> None:
    (bundle.path / "model.h5").write_bytes(b"")
    assert "model.h5 has 0 bytes" in refusal(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    assert f"{name} cannot be read (No such file or directory)" in refusal(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_without_a_required_file_is_refused(bundle: Bundle, name: str) -> None:
    files = json.loads((bundle.path / "manifest.json").read_text())["files"]
    edit_manifest(bundle, files={key: entry for key, entry in files.items() if key != name})
    assert f"does not list {name}" in refusal(bundle.path)


def test_a_symbolic_link_instead_of_a_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "test_set.npz").rename(tmp_path / "elsewhere.npz")
    (bundle.path / "test_set.npz").symlink_to(tmp_path / "elsewhere.npz")
    assert "test_set.npz cannot be read (not a regular file)" in refusal(bundle.path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file", "..", ""])
def test_a_listed_file_outside_the_bundle_is_refused(bundle: Bundle, name: str) -> None:
    files = json.loads((bundle.path / "manifest.json").read_text())["files"]
    edit_manifest(bundle, files={**files, name: {"sha256": "0" * 64, "size": 0}})
    assert refusal(bundle.path)


def test_24_a_missing_manifest_is_refused(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").unlink()
    assert "manifest.json cannot be read (No such file or directory)" in refusal(bundle.path)


def test_24_a_manifest_that_is_not_json_is_refused(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_text("{")
    assert "manifest.json is not a valid manifest: the document: invalid JSON" in refusal(bundle.path)


def test_24_a_manifest_of_another_format_version_is_refused(bundle: Bundle) -> None:
    edit_manifest(bundle, format_version=1)
    assert "format_version: input should be 2" in refusal(bundle.path)


def test_24_a_manifest_with_an_unknown_key_is_refused(bundle: Bundle) -> None:
    edit_manifest(bundle, extra=1)
    assert "extra: extra inputs are not permitted" in refusal(bundle.path)


def test_24_a_manifest_without_a_key_is_refused(bundle: Bundle) -> None:
    document = json.loads((bundle.path / "manifest.json").read_text())
    del document["classes"]
    (bundle.path / "manifest.json").write_text(json.dumps(document))
    assert "classes: field required" in refusal(bundle.path)


def test_24_a_refusal_does_not_repeat_a_long_value(bundle: Bundle) -> None:
    edit_manifest(bundle, preprocessing={"kind": "x" * 100_000})
    assert "preprocessing: input tag 'xxx" in refusal(bundle.path)
    assert len(refusal(bundle.path)) < 1_000


def test_24_a_manifest_beyond_its_size_limit_is_refused(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    assert "is larger than" in refusal(bundle.path)


def test_24_the_manifest_of_another_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = publish_bundle(tmp_path, "other", seed=1)
    (bundle.path / "manifest.json").write_bytes((other.path / "manifest.json").read_bytes())
    assert refusal(bundle.path)


def test_the_pointer_leads_to_its_bundle(bundle: Bundle, tmp_path: Path) -> None:
    assert open_current(tmp_path, tmp_path / "current/toys.json") == bundle


def pointer(bundle_id: str) -> str:
    """The text of a pointer, with a hash that belongs to no model."""
    return json.dumps({"bundle_id": bundle_id, "sha256": "0" * 64, "proposed_at": "2026-01-01T00:00:00Z"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a valid pointer: the document: invalid JSON"),
        ('{"bundle_id": "toy"}', "sha256: field required"),
        (pointer("../toy"), "bundle_id: a name has 1 to 100 characters"),
        (pointer("absent"), "absent/manifest.json cannot be read"),
        (pointer("toy"), "name different models"),
    ],
)
def test_an_invalid_pointer_is_refused(bundle: Bundle, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "current/toys.json").write_text(text)
    with pytest.raises(BundleError, match=said):
        open_current(tmp_path, tmp_path / "current/toys.json")


def test_the_error_for_a_missing_pointer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="train a model first: pyml train"):
        open_current(tmp_path, tmp_path / "current/toys.json")


def test_a_pointer_of_another_dataset_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "current/toys.json").rename(tmp_path / "current/games.json")
    with pytest.raises(BundleError, match="name different models"):
        open_current(tmp_path, tmp_path / "current/games.json")
