"""Model files that a reader refuses before Keras opens them. The tests make the files with h5py, without Keras."""

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bundle import BundleError
from bundle.verify import check_h5

DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}, "registered_name": None}


def config_of(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def layer(class_name: Any, module: str | None = "keras.layers", **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": class_name, "config": {}, "registered_name": None, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A valid file with Keras's layout. One layer has no weights."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config_of(DENSE))
        file.create_dataset("model_weights/dense/kernel", data=np.ones((8, 3), np.float32))
        file["model_weights/dense"].attrs["weight_names"] = [b"kernel"]
        file.create_group("model_weights/flatten").attrs["weight_names"] = np.empty(0, "S1")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as raised:
        check_h5(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_valid_model_file_passes(path: Path) -> None:
    check_h5(path)


@pytest.mark.parametrize("size", [0, 1, 7, 100, 1000])
def test_22_a_truncated_file_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    assert "not a readable HDF5 model" in refusal(path)


def test_22_a_file_that_is_not_hdf5_is_refused(path: Path) -> None:
    path.write_bytes(b"GIF89a" + bytes(10_000))
    assert "not a readable HDF5 model" in refusal(path)


@pytest.mark.parametrize(
    "added",
    [
        layer("Lambda"),
        layer("Lambda", module=None),
        layer("Bidirectional", config={"layer": layer("Lambda")}),
        layer("Dense", config={"activation": {"class_name": "Lambda", "config": {}}}),
        {"class_name": "Functional", "config": {"layers": [layer("Lambda")]}},
    ],
    ids=["plain", "without a module", "wrapped", "as an activation", "in an inner model"],
)
def test_28_a_lambda_layer_is_refused_in_every_place(path: Path, added: dict[str, Any]) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(config_of(DENSE, added))
    assert "Lambda, which is not on the allow-list" in refusal(path)


@pytest.mark.parametrize(
    "added",
    [
        layer("system", module="os"),
        layer("Dense", module="attacker"),
        layer("TFSMLayer"),
        layer("function", module="builtins"),
        layer("Dense", registered_name="package>Dense"),
        layer("TextVectorization"),
        layer(["Dense"]),
        layer({"class_name": "Dense"}),
    ],
    ids=lambda added: str(added["class_name"]),
)
def test_28_a_class_beyond_the_allow_list_is_refused(path: Path, added: dict[str, Any]) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(config_of(DENSE, added))
    assert refusal(path)


@pytest.mark.parametrize(
    "config",
    ["{", "[" * 100_000, np.arange(3), np.bytes_(b"\xff"), h5py.Empty("f")],
    ids=["incomplete", "deep", "numbers", "not text", "empty"],
)
def test_a_model_config_that_is_not_json_is_refused(path: Path, config: Any) -> None:
    with h5py.File(path, "a", libver="latest") as file:
        del file.attrs["model_config"]
        file.attrs["model_config"] = config
    assert refusal(path)


def test_a_file_without_a_model_config_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    assert "holds no model_config" in refusal(path)


def soft_link(file: h5py.File, _outside: Path) -> None:
    file["model_weights/link"] = h5py.SoftLink("/model_weights/dense/kernel")


def external_link(file: h5py.File, outside: Path) -> None:
    file["model_weights/link"] = h5py.ExternalLink(str(outside), "/secret")


def external_dataset(file: h5py.File, outside: Path) -> None:
    file.create_dataset("model_weights/link", (64,), "u1", external=[(str(outside), 0, 64)])


def virtual_dataset(file: h5py.File, outside: Path) -> None:
    layout = h5py.VirtualLayout((1,), "f4")
    layout[:] = h5py.VirtualSource(str(outside), "secret", (1,))
    file.create_virtual_dataset("model_weights/link", layout)


def dangling_link(file: h5py.File, _outside: Path) -> None:
    file["model_weights/link"] = h5py.SoftLink("/nowhere")


def named_datatype(file: h5py.File, _outside: Path) -> None:
    file["model_weights/link"] = np.dtype("f4")


def cycle(file: h5py.File, _outside: Path) -> None:
    file["model_weights/link"] = file["model_weights"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (soft_link, "holds a SoftLink at /model_weights/link"),
        (dangling_link, "holds a SoftLink at /model_weights/link"),
        (external_link, "holds a ExternalLink at /model_weights/link"),
        (external_dataset, "reads /model_weights/link from another file"),
        (virtual_dataset, "reads /model_weights/link from another file"),
        (named_datatype, "holds a Datatype at /model_weights/link"),
        (cycle, "not a readable HDF5 model"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_29_links_and_objects_that_are_not_plain_data_are_refused(
    path: Path, tmp_path: Path, change: Callable[[h5py.File, Path], None], said: str
) -> None:
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = np.zeros(1, np.float32)
    with h5py.File(path, "a") as file:
        change(file, outside)
    assert said in refusal(path)


def test_30_a_shape_bomb_is_refused_before_allocation(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/bomb", (2**40,), "f4", chunks=(2**20,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert re.search(r"declares 4398046\d{6} bytes of data in a file of \d{4,5};", refusal(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_30_many_datasets_that_declare_too_much_are_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for number in range(100):
            file.create_dataset(f"model_weights/part{number}", (10_000,), "f4", chunks=(100,))
    assert "bytes of data in a file of" in refusal(path)


def test_30_a_compression_bomb_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/zeros", data=np.zeros(10**6, np.float32), compression="gzip")
    assert "bytes of data in a file of" in refusal(path)
