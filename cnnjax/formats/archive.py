"""Zip archives whose members are stored without compression, as PyTorch and Keras write them."""

import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnnjax.formats.lazy_tensors import Bytes, Damaged, Refused

HEADER = struct.Struct("<4s22xHH")
BLOCK = 1 << 20
"""Bytes that are read at a time."""


def members(path: Path, bytes_: Bytes, *, checked: bool = True) -> dict[str, tuple[int, int]]:
    """Each member's name, with the offset and the length of its bytes in the file. Nothing is unpacked.

    checked: compare the bytes with the archive's own checksums. Raises Damaged, or Refused for a compressed member,
    which neither library writes.
    """
    found, sums = {}, {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises many kinds
        raise Damaged("its table of contents cannot be read") from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(f"{entry.filename!r} is compressed in it, as no library writes weights: fetch it again")
        mark, name, extra = HEADER.unpack(bytes_.read(entry.header_offset, HEADER.size))
        offset = entry.header_offset + HEADER.size + name + extra
        if mark != b"PK\x03\x04" or offset + entry.file_size > bytes_.size:
            raise Damaged(f"{entry.filename!r} is not where it should be")
        if entry.filename in found:
            raise Damaged(f"{entry.filename!r} occurs twice")
        found[entry.filename] = offset, entry.file_size
        sums[entry.filename] = entry.CRC
    if checked:
        _check(bytes_, found, sums)
    return found


def _check(bytes_: Bytes, found: dict[str, tuple[int, int]], sums: dict[str, int]) -> None:
    if sum(size for _, size in found.values()) > bytes_.size:
        raise Damaged("its members overlap")
    with ThreadPoolExecutor(2) as threads:
        right = list(threads.map(lambda name: _holds(bytes_, *found[name], sums[name]), found))
    if wrong := [name for name, holds in zip(found, right, strict=True) if not holds]:
        raise Damaged(f"the checksum of {wrong[0]!r} does not hold")


def _holds(bytes_: Bytes, offset: int, size: int, expected: int) -> bool:
    """Whether a checksum is right; PyTorch can be told to write 0 instead."""
    found, buffer = 0, bytearray(min(size, BLOCK))
    for start in range(0, size if expected else 0, BLOCK):
        block = memoryview(buffer)[: min(BLOCK, size - start)]
        bytes_.into(block, offset + start)
        found = zlib.crc32(block, found)
    return found == expected
