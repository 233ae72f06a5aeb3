"""Names of files and classes, which may hold any bytes, and settings as text for a terminal, a figure or a log."""

import re
from typing import Any

_MIDDLE = 200
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object) -> str:
    """The text in one line, with escapes for control characters and for bytes that are not UTF-8."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", _escape, str(text))


def shortened(text: str) -> str:
    """The text, with the middle of every word of more than 200 characters left out."""
    return re.sub(rf"\S{{{_MIDDLE + 1},}}", lambda match: f"{match[0][:120]}…{match[0][-60:]}", text)


def format_value(value: Any) -> str:
    """The value of a setting as it is written on a command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
