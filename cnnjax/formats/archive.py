"""Zip archives whose members are stored without compression, as PyTorch and Keras write them."""

import struct
import zipfile
from pathlib import Path

from cnnjax.formats.lazy_tensors import Bytes, Damaged, Refused

HEADER = struct.Struct("<4s22xHH")


def members(path: Path, bytes_: Bytes) -> dict[str, tuple[int, int]]:
    """Each member's name, with the offset and the length of its bytes in the file. Nothing is unpacked.

    Raises Damaged, or Refused for a compressed member, which neither library writes.
    """
    found = {}
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
    return found
