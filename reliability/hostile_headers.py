"""Absurd headers: each is refused in one line, and takes no memory.

Each file is read in a process of its own, whose address space is limited (``RLIMIT_AS``) and whose
peak of memory is measured. Headers state billions of voxels, sizes that are no numbers, places
beyond the end, and other files as the place of their voxels; packed files unpack to gigabytes.
"""

import argparse
import gzip
import json
import multiprocessing
import resource
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from examples import write_slice
from outcomes import Promise, finish
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from poscon.errors import PosconError
from poscon.networks.checkpoints import read_checkpoint
from poscon.networks.weights import read_weights
from poscon.store.local import LocalFolder
from poscon.volumes.layouts.dicom import only_series
from poscon.volumes.scan import read_scan

LIMIT = 3 * 2**30
"""Bytes of a process beyond those that it begins with."""
MOST = 300 * 2**20
"""Bytes that a refusal may take at its peak."""

Read = Callable[[Path], object]


def hostile_files(folder: Path, gigabytes: int) -> list[tuple[str, Path, Read]]:
    """Write the files.

    Args:
        folder: an empty folder.
        gigabytes: what packed files unpack to; 0: there are no such files.

    Returns:
        What is absurd, the file or folder, and the function that reads it.
    """
    found: list[tuple[str, Path, Read]] = []

    def put(what: str, name: str, content: bytes, read: Read = read_scan) -> Path:
        path = folder / f"{len(found)}-{name}"
        path.write_bytes(content)
        found.append((what, path, read))
        return path

    _nifti(put, folder, gigabytes)
    _nrrd(put, gigabytes)
    for name, rest in (
        ("sizes of 2^40 voxels", "DimSize = 16384 16384 4096\nElementDataFile = LOCAL\n"),
        ("negative sizes", "DimSize = -1 4 4\nElementDataFile = LOCAL\n"),
        ("voxels in /etc/passwd", "DimSize = 8 8 8\nElementDataFile = /etc/passwd\n"),
        ("voxels above", "DimSize = 8 8 8\nElementDataFile = ../../etc/passwd\n"),
        ("a list of files", "DimSize = 8 8 2\nElementDataFile = LIST\n/etc/passwd\n/etc/group\n"),
        ("a pattern", "DimSize = 8 8 2\nElementDataFile = /etc/%s 1 2 1\n"),
        ("a long line", f"DimSize = 8 8 8\nComment = {'x' * 10**6}\nElementDataFile = LOCAL\n"),
    ):
        head = "ObjectType = Image\nNDims = 3\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
        for suffix in (".mha", ".mhd"):
            put(f"{suffix}: {name}", f"a{suffix}", (head + rest).encode() + b"\0" * 8)
    _dicom(found, folder, gigabytes)
    npy = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
    _weights(put)
    for name, header in (
        ("2^62 numbers", npy.format("<f2", "(1073741824, 1073741824, 4)")),
        ("a negative shape", npy.format("<f2", "(-1, 4, 4)")),
        ("deep nesting", "{'descr': " + "(" * 9000),
        ("objects", npy.format("|O", "(1,)")),
    ):
        text = header.encode() + b" " * 8 + b"\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 65536) + text
        put(f"npy: {name}", "image.npy", content, _array)
    return found


def _array(path: Path) -> object:
    return LocalFolder(path.parent).array(path.name, "")


def _nifti(put: Callable[..., Path], folder: Path, gigabytes: int) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), folder / "valid.nii")
    valid = (folder / "valid.nii").read_bytes()
    (folder / "valid.nii").unlink()

    def changed(at: int, form: str, *values: Any) -> bytes:
        return valid[:at] + struct.pack(form, *values) + valid[at + struct.calcsize(form) :]

    for name, content in (
        ("32767^3 voxels", changed(40, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)),
        ("32767^7 voxels", changed(40, "<8h", 7, *[32767] * 7)),
        ("a size of 0", changed(40, "<8h", 3, 0, 4, 4, 1, 1, 1, 1)),
        ("a negative size", changed(40, "<8h", 3, -4, 4, 4, 1, 1, 1, 1)),
        ("a number of sizes that is none", changed(40, "<h", -7)),
        ("voxels of NaN mm", changed(76, "<4f", 1, float("nan"), 1, 1)),
        ("voxels of infinite mm", changed(76, "<4f", 1, float("inf"), 1, 1)),
        ("voxels beyond the end", changed(108, "<f", 1e9)),
        ("voxels at infinity", changed(108, "<f", float("inf"))),
        ("voxels at NaN", changed(108, "<f", float("nan"))),
        ("a type of voxels that is none", changed(70, "<h", 12345)),
    ):
        affine = name.startswith("voxels of")  # of the sform and of the qform: neither counts
        content = content[:252] + b"\0\0\0\0" + content[256:] if affine else content
        put(f"NIfTI: {name}", "a.nii", content)
        put(f"packed NIfTI: {name}", "a.nii.gz", gzip.compress(content, 1))
    if not gigabytes:
        return
    side = round((gigabytes * 2**30) ** (1 / 3))
    large = changed(40, "<8h", 3, side, side, side, 1, 1, 1, 1)
    put(f"packed NIfTI: {gigabytes} GiB of zeros", "a.nii.gz", _packed(large, gigabytes))
    put("packed NIfTI: a bomb with a small header", "a.nii.gz", _packed(valid, gigabytes), _small)


def _small(path: Path) -> object:
    """A valid scan with gigabytes behind it: only the scan is unpacked."""
    read_scan(path)
    raise PosconError(f"{path.name}: was read as the scan that it is")


def _packed(start: bytes, gigabytes: int) -> bytes:
    """A gzip file of some bytes and then zeros. Its check sum at the end is wrong."""
    return gzip.compress(b"")[:10] + _deflated(start, gigabytes) + bytes(8)


def _deflated(start: bytes, gigabytes: int) -> bytes:
    """Some bytes and then zeros, packed. Nothing is remembered from block to block of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * (gigabytes * 64) + packer.flush()


def _nrrd(put: Callable[..., Path], gigabytes: int) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    raw = "encoding: raw\n"
    for name, rest in (
        ("2^40 voxels", f"sizes: 16384 16384 4096\n{raw}\n"),
        ("2^93 voxels", f"sizes: 2147483647 2147483647 2147483647\n{raw}\n"),
        ("negative sizes", f"sizes: -4 4 4\n{raw}\n"),
        ("voxels in /etc/passwd", f"sizes: 8 8 8\n{raw}data file: /etc/passwd\n\n"),
        ("voxels above", f"sizes: 8 8 8\n{raw}data file: ../../../../etc/passwd\n\n"),
        ("a list of files", f"sizes: 8 8 2\n{raw}data file: LIST\n/etc/passwd\n/etc/group\n"),
        ("a pattern", f"sizes: 8 8 2\n{raw}data file: /etc/%d 1 2 1\n\n"),
        ("a long line", f"sizes: 4 4 {'4' * 10**6}\n{raw}\n"),
        ("a long line of no field", f"sizes: 4 4 4\n{'[' * 10**5}\n{raw}\n"),
    ):
        put(f"NRRD: {name}", "a.nrrd", (head + rest).encode() + b"\0" * 8)
    if not gigabytes:
        return
    side = round((gigabytes * 2**30) ** (1 / 3))
    large = f"{head}sizes: {side} {side} {side}\nencoding: gzip\n\n".encode()
    put(f"packed NRRD: {gigabytes} GiB of zeros", "a.nrrd", large + _packed(b"", gigabytes))


def _dicom(found: list[tuple[str, Path, Read]], folder: Path, gigabytes: int) -> None:
    pixels = np.zeros((4, 4), np.int16)
    for number, (name, tags) in enumerate(
        (
            ("65535 x 65535 pixels", {"Rows": 65535, "Columns": 65535}),
            ("10^9 frames", {"NumberOfFrames": 10**9}),
            ("no rows", {"Rows": 0}),
            ("32 bits of 16", {"BitsAllocated": 32}),
        )
    ):
        series = folder / f"series{number}"
        for n in range(3):
            write_slice(series / f"{n}.dcm", pixels, n, **tags)
        found.append((f"DICOM: {name}", series, lambda path: read_scan(only_series(path))))
    series = folder / "packed"
    for n in range(3):
        path = series / f"{n}.dcm"
        write_slice(path, pixels, n, Rows=65535, Columns=65535, NumberOfFrames=1000)
        file = dcmread(path)
        file.file_meta.TransferSyntaxUID = RLELossless
        file.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x08\0\0\0\x01\0\0\0\x40\0\0\0"
        file["PixelData"].is_undefined_length = True
        file.save_as(path)
    found.append(("DICOM: 10^12 pixels in RLE", series, lambda p: read_scan(only_series(p))))
    if not gigabytes:
        return
    bomb = folder / "bomb"
    write_slice(bomb / "0.dcm", pixels, 0)
    file = dcmread(bomb / "0.dcm")
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.save_as(bomb / "0.dcm")
    content = (bomb / "0.dcm").read_bytes()
    end = 144 + struct.unpack("<I", content[140:144])[0]
    inner = zlib.decompress(content[end:], -15)
    (bomb / "0.dcm").write_bytes(content[:end] + _deflated(inner, gigabytes))
    found.append((f"DICOM: {gigabytes} GiB, deflated", bomb, only_series))


def _weights(put: Callable[..., Path]) -> None:
    for name, length, shape, places in (
        ("a header of 2^63 bytes", 2**63, [2], [0, 8]),
        ("2^62 numbers", None, [2**31, 2**31], [0, 8]),
        ("a shape that overflows", None, [2**33, 2**33], [0, 0]),
        ("places beyond the end", None, [2], [2**40, 2**40 + 8]),
    ):
        text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": places}}).encode()
        start = struct.pack("<Q", length or len(text))
        put(f"safetensors: {name}", "a.safetensors", start + text + b"\0" * 8, read_weights)
    path = put("torch: a packed archive", "a.pth", b"", read_checkpoint)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("a/data/0", bytes(2**26))
        archive.writestr("a/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("a/version", "3\n")


def _read(send: Connection, read: Read, path: Path) -> None:
    """Read a file in this process; send what came of it, and the peak of memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(path)
        came = "it was read"
    except PosconError as error:
        came = "" if path.name in str(error) or ".dcm" in str(error) else f"unnamed: {error}"
    except BaseException as error:
        came = f"{type(error).__name__}: {error}"
    send.send((came, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


def trial(folder: Path, gigabytes: int) -> list[Promise]:
    """Read every file, each in a process of its own."""
    refused = Promise("an absurd header is refused in one line that names the file")
    small = Promise(f"the refusal takes less than {MOST >> 20} MiB of memory")
    context = multiprocessing.get_context("fork")
    for what, path, read in hostile_files(folder, gigabytes):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_read, args=(send, read, path))
        child.start()
        send.close()
        try:
            came, peak = receive.recv()
        except EOFError:
            came, peak = "the process ended by itself", 0
        child.join()
        refused.note(came == "", f"{what}: {came}")
        small.note(peak < MOST, f"{what}: {peak >> 20} MiB")
    return [refused, small]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=int, default=10, help="what packed files unpack to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        finish(trial(Path(scratch), options.gigabytes))


if __name__ == "__main__":
    main()
