"""Files that are no files, that are larger than they look, or that another program would open: one sentence each.

Each test reads in a process of its own, so that a reader without a limit costs only that process.
"""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.bundles import write_image
from support.limited import run_limited

from bundle.inputs.arrays import ArraysError, read_npy, read_npz
from bundle.inputs.files import IMAGE_FORMATS, FilesError, read_texts
from bundle.inputs.preprocessing import MAX_SCANS, ImagePreprocessing, PreprocessingError, prepare_image

IMAGE_MIB = 512  # the promise for one image
SMALL = ImagePreprocessing(height=64, width=64)
READ_ALL = """
import sys
from pathlib import Path
from bundle import BundleError
from bundle.inputs.arrays import read_npy, read_npz
from bundle.inputs.files import read_texts
from bundle.inputs.preprocessing import ImagePreprocessing, prepare_image
from pypredict import PypredictError
from pypredict.labels import read_label_map
readers = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".csv": lambda path: list(read_texts(path, "text", None)),
    ".png": lambda path: prepare_image(path, ImagePreprocessing(height=64, width=64)),
    ".txt": read_label_map,
}
for name in sys.argv[1:]:
    try:
        readers[Path(name).suffix](Path(name))
        print("read")
    except (BundleError, PypredictError) as error:
        print(error)
"""
SUFFIXES = (".npy", ".npz", ".csv", ".png", ".txt")


def refused_by_all(folder: Path, name: str) -> None:
    paths = [str(folder / f"{name}{suffix}") for suffix in SUFFIXES]
    ended = run_limited(READ_ALL, *paths, seconds=30)
    assert len(ended.lines) == len(paths)
    for path, said in zip(paths, ended.lines, strict=True):
        assert path in said
        assert "not a regular file" in said
    assert ended.peak_mib < 300


def test_fifo_is_refused_by_every_reader(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        os.mkfifo(tmp_path / f"fifo{suffix}")
    refused_by_all(tmp_path, "fifo")


def test_link_to_an_endless_device_is_refused_by_every_reader(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    refused_by_all(tmp_path, "zero")


def test_link_to_a_file_is_followed(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", 7)
    (tmp_path / "link.png").symlink_to("x.png")
    assert prepare_image(tmp_path / "link.png", SMALL).shape == (64, 64, 3)


# Texts


def test_csv_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("wb") as file:
        file.write(b"text\n")
        file.truncate(8 * 2**30)  # a hole: it takes no space on the disk
    ended = run_limited(READ_ALL, str(path))
    assert ended.lines == [
        f"{path}, line 2: the row has over 16777216 characters; is it a CSV file, and is each quote closed?"
    ]
    assert ended.peak_mib < 400


def test_csv_row_of_very_many_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\n" + '"x\n",' * 3_400_000)
    with pytest.raises(FilesError, match=r"x\.csv, line \d+: the row has over 16777216 characters"):
        list(read_texts(path, "text", None))


def test_csv_with_a_stray_quote_mark_in_each_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\n" + f'a nail of 5" length {"x" * 1000}\n' * 17_000)
    assert sum(1 for _ in read_texts(path, "text", None)) == 17_000


# Arrays


def npy_header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("(1000000000000,)", "its header declares uint8 .*, 1000000000000 bytes; it holds 4"),
        ("(5,)", "its header declares uint8 .*, 5 bytes; it holds 4"),
        ("(-1,)", "its header declares uint8 .*; it holds 4"),
    ],
)
def test_npy_header_that_differs_from_its_file_is_refused(tmp_path: Path, shape: str, said: str) -> None:
    content = npy_header(shape) + b"1234"
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ArraysError, match=said):
        read_npy(tmp_path / "x.npy")
    with pytest.raises(ArraysError, match=said):
        read_npz(tmp_path / "x.npz")


def test_npy_over_one_gibibyte_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(npy_header(f"({2**30 + 1},)"))
        file.truncate(2**30 + 4096)
    with pytest.raises(ArraysError, match="need 1073741825 bytes of memory, at most 1073741824 are read: split it"):
        read_npy(tmp_path / "x.npy")


def write_zeros(path: Path, n_bytes: int) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(npy_header(f"({n_bytes},)"))
        for _ in range(0, n_bytes, 2**24):
            file.write(bytes(2**24))


def test_npz_that_inflates_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    write_zeros(path, 2**30 + 2**24)
    assert path.stat().st_size < 10 * 2**20
    ended = run_limited(READ_ALL, str(path))
    assert "bytes of memory, at most 1073741824 are read: split it" in ended.lines[0]
    assert ended.peak_mib < 300


def test_arrays_of_an_npz_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.inputs.arrays.MAX_ARRAY_BYTES", 1000)
    np.savez(tmp_path / "x.npz", x=np.zeros(400, np.uint8), y=np.zeros(400, np.uint8), z=np.zeros(1))
    assert len(read_npz(tmp_path / "x.npz", ("x",))["x"]) == 400
    with pytest.raises(ArraysError, match=r"its arrays need \d+ bytes of memory, at most 1000 are read"):
        read_npz(tmp_path / "x.npz", ("x", "y"))


def test_npz_that_says_less_than_it_inflates_to_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    write_zeros(path, 2**26)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)  # the size in the archive's list
    path.write_bytes(content)
    with pytest.raises(ArraysError, match=r"bomb\.npz is not a \.npz file .*Bad CRC-32"):
        read_npz(path)


def test_npz_members_that_numpy_does_not_write_are_refused(tmp_path: Path) -> None:
    """The header of LZMA data names the memory that its reader takes, up to 4 GiB."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy_header("(4,)") + b"1234")
    with pytest.raises(ArraysError, match="its member x is not compressed by numpy"):
        read_npz(tmp_path / "x.npz")


def test_npz_with_very_many_members_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(ArraysError, match=r"its list of members has \d+ bytes, at most 1048576 are read"):
        read_npz(tmp_path / "x.npz", ("x",))


# Images


def test_image_formats_and_suffixes_agree_with_pillow() -> None:
    registered = Image.registered_extensions()
    assert {suffix: registered[suffix] for suffixes in IMAGE_FORMATS.values() for suffix in suffixes} == {
        suffix: name for name, suffixes in IMAGE_FORMATS.items() for suffix in suffixes
    }


def test_eps_named_png_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = tmp_path / "x.png"
    Image.new("RGB", (10, 10)).save(path, "EPS")
    with pytest.raises(PreprocessingError, match=r"x\.png is not a readable image: it is none of JPEG, PNG, BMP"):
        prepare_image(path, SMALL)
    assert not (tmp_path / "started").exists()


def big(width: int, height: int, mode: str) -> Image.Image:
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    if mode == "RGBA":
        image.putalpha(128)
    return image


@pytest.mark.parametrize(
    ("name", "mode", "size", "options"),
    [
        ("x.png", "RGBA", (10_000, 5_000), {"compress_level": 1}),
        ("x.jpg", "RGB", (10_800, 6_100), {"progressive": True, "subsampling": 0}),
        ("x.jpg", "CMYK", (6_000, 4_000), {"progressive": True}),
        ("x.tif", "RGBA", (6_000, 5_000), {}),
    ],
)
def test_largest_image_of_a_format_stays_within_its_memory(
    tmp_path: Path, name: str, mode: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    big(*size, mode).save(tmp_path / name, exif=turned, **options)
    ended = run_limited(READ_ALL.replace('".png"', f"{Path(name).suffix!r}"), str(tmp_path / name))
    assert ended.lines == ["read"]
    assert ended.peak_mib < IMAGE_MIB


def png_of(width: int, height: int) -> bytes:
    """A valid grayscale PNG of zeros: about 1/1000 of its pixels in bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(width + 1)) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_png_of_88_megapixels_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_of(11_000, 8_000))
    ended = run_limited(READ_ALL, str(path))
    assert ended.lines == [
        f"{path} is not a readable image: it has 11000 x 8000 pixels, at most 50000000 are read; make it smaller"
    ]
    assert ended.peak_mib < 100


def test_tiff_with_a_tile_larger_than_itself_is_refused(tmp_path: Path) -> None:
    side = 40_000
    tile = zlib.compress(bytes(1000))
    entries = [(256, 3, 10), (257, 3, 10), (258, 3, 8), (259, 3, 8), (262, 3, 1), (322, 4, side), (323, 4, side)]
    entries += [(324, 4, 8), (325, 4, len(tile))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    content = struct.pack("<2sHI", b"II", 42, 8 + len(tile)) + tile
    content += struct.pack("<H", len(entries)) + directory + bytes(4)
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(PreprocessingError, match=r"it has 40000 x 40000 pixels, at most 30000000 are read"):
        prepare_image(tmp_path / "x.tif", SMALL)


def test_jpeg_with_very_many_scans_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    big(64, 64, "L").save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    (tmp_path / "x.jpg").write_bytes(content[:-2] + scan * MAX_SCANS + content[-2:])
    with pytest.raises(PreprocessingError, match=r"x\.jpg is not a readable image: it has 10\d scans, at most 100"):
        prepare_image(tmp_path / "x.jpg", SMALL)


def test_file_over_the_size_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name, start in (("x.png", b"\x89PNG\r\n\x1a\n"), ("x.webp", b"RIFF")):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(2**31)
        with pytest.raises(PreprocessingError, match=r"it has 2147483648 bytes, at most \d+ are read"):
            prepare_image(tmp_path / name, SMALL)


def test_photograph_of_fifty_megapixels_is_prepared_like_a_smaller_one(tmp_path: Path) -> None:
    photograph = big(8160, 6120, "RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph.save(tmp_path / "large.jpg", exif=turned, quality=95)
    photograph.resize((2040, 1530)).save(tmp_path / "small.jpg", exif=turned, quality=95)
    large, small = (prepare_image(tmp_path / f"{name}.jpg", SMALL).astype(int) for name in ("large", "small"))
    assert np.abs(large - small).max() <= 3
