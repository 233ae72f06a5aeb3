"""An extension of griffe, which reads docstrings for mkdocstrings: "name: what it is" lines become a list.

The docstrings of this package explain parameters in plain text, one after another. Markdown would join their lines.
"""

import re
from collections.abc import Collection

import griffe

ENTRY = re.compile(r"(\w+(?:, \w+)*)((?: \([^)]*\))?): (?=\S)")


def listed(text: str, names: Collection[str]) -> str:
    """The text with a list entry for each paragraph or sentence that begins with some of the names and a colon."""
    lines, inside = [], False
    for line in text.splitlines():
        match = ENTRY.match(line)
        if match and set(match[1].split(", ")) <= set(names):
            entry = ", ".join(f"`{name}`" for name in match[1].split(", "))
            lines += ([] if inside else [""]) + [f"- {entry}{match[2]}: {line[match.end() :]}"]
            inside = True
        elif inside and line.strip() and not line.startswith("Raises "):
            lines.append("    " + line.strip())
        else:
            lines += ["", line] if inside and line.strip() else [line]
            inside = False
    return "\n".join(lines)


class DocstringLists(griffe.Extension):
    """Applies `listed` to functions, with their parameters, and to classes, with their attributes too."""

    def on_function(self, *, func: griffe.Function, **_) -> None:
        if func.docstring:
            func.docstring.value = listed(func.docstring.value, [parameter.name for parameter in func.parameters])

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        if cls.docstring:
            start = cls.members.get("__init__")
            names = [parameter.name for parameter in getattr(start, "parameters", ())]
            cls.docstring.value = listed(cls.docstring.value, [*cls.members, *names])
