"""Open DICOM files, whatever size they unpack to."""

import zlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from poscon.volumes.formats.base import check_memory

_BLOCK = 2**16


def read_file(path: Path, **how: Any) -> Dataset:
    """Read a DICOM file, also one without a preamble.

    Args:
        path: the file.
        how: further arguments of ``pydicom.dcmread``.

    Raises:
        PosconError: its content is packed, and needs more memory than the process may use. Other
            errors are those of pydicom.
    """
    with path.open("rb") as file:
        read_preamble(file, True)
        syntax = _read_file_meta_info(file).get("TransferSyntaxUID")
        if syntax == DeflatedExplicitVRLittleEndian:  # pydicom unpacks it as a whole, and copies it
            packed, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
            while block := file.read(_BLOCK):
                size += len(packed.decompress(block))
            check_memory(2 * size, path)
    return pydicom.dcmread(path, force=True, **how)
