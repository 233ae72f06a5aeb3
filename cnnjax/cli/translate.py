"""Messages of the library, which name arguments, in terms of the flags of the command that runs.

The library writes `batch_size=20`, `resume=True` or a bare name such as run_dir or `count`; on the command line these
are `--train.batch-size 20`, `--resume`, `--run` and `--distributed.count`.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence

from cnnjax.cli.config import Config

ALIASES: dict[str, tuple[str, ...]] = {
    "run_dir": ("--run", "--out"),
    "out_dir": ("--out",),
    "path": ("--out",),
    "valid": ("--data.eval-per-class", "--eval-per-class"),
    "test": ("--data.eval-per-class", "--eval-per-class"),
    "normalizer": ("--data.normalization",),
    "profile_steps": ("--train.profile",),
    "label_smoothing": ("--loss.label-smoothing",),
    "class_names": ("--data.classes", "--names"),
}
"""Arguments that have a flag of another name: argument -> candidates, of which the first that a command has is used."""

_SECTIONS = ("train", "model", "optimizer", "loss", "data", "augment", "mix", "distributed")
"""Where a name that several sections have is meant, in this order: seed is --train.seed."""

_VALUE = r"'[^']*'|\"[^\"]*\"|\([^()]*\)|\[[^\[\]]*\]|[^\s,;)'\"]*[^\s,;:.)'\"]|\.\.\.|…"
_MENTION = re.compile(rf"(?<!--over )(?<![\w/.'\"=-])(`?)([a-z][\w.]*)(?:=({_VALUE}))?\1(?![\w/'\"=(-]|\.\w)")


_OWN_MODEL = (
    "pass model=, an instance of that class or what nnx.eval_shape makes of its constructor",
    "commands know only these, so load it in Python with formats.load(path, model=...)",
)
"""What a library's error advises about a model of one's own, and what can be done about it after a command."""


def arguments_to_flags(flags: Sequence[str]) -> dict[str, str]:
    """By argument of the library, also in the form section.argument, its flag among those of a command."""
    found: dict[str, str] = {}
    names = {flag: flag.removeprefix("--").replace("-", "_") for flag in flags}
    dotted = {name: flag for flag, name in names.items() if not re.search(r"(^|\.)no_", name) or f"--{flag}" in flags}
    for section in reversed(_SECTIONS):
        for name, flag in dotted.items():
            if name.startswith(f"{section}."):
                found[name.removeprefix(f"{section}.")] = flag
    found |= dotted
    for argument, candidates in ALIASES.items():
        chosen = next((flag for flag in candidates if flag in flags), None)
        if chosen and argument not in dotted:
            found[argument] = chosen
    return found


def translate(message: str, flags: Sequence[str]) -> str:
    """The message with flags in place of the arguments that the command has; all else stays as it is."""
    known = arguments_to_flags(flags)
    text = _MENTION.sub(lambda match: _replacement(match, known, flags), message)
    text = text.replace(*_OWN_MODEL)
    # Two arguments may have one flag.
    return re.sub(r"(, )?(--[\w.-]+) or \2(?![\w.-])", lambda twice: (" or " if twice[1] else "") + twice[2], text)


def _replacement(match: re.Match[str], known: Mapping[str, str], flags: Sequence[str]) -> str:
    quote, name, value = match.groups()
    flag = known.get(name)
    # A bare word is an argument only if it cannot be anything else: run_dir, `count`, train.seed, but not "seed".
    if flag is None or (value is None and not quote and "_" not in name and not _is_dotted(name, known)):
        return match[0]
    if value is None:
        return flag
    if value in ("True", "False"):
        section, dot, last = flag.rpartition(".")
        off = f"{section}{dot}no-{last}" if dot else f"--no-{flag.removeprefix('--')}"
        return flag if value == "True" else off
    return f"{flag} {value if value == 'None' and _accepts_none(flag) else _plain(value)}"


def _accepts_none(flag: str) -> bool:
    """Whether a field of the config can be None, which then differs from 0."""
    section, _, name = flag.removeprefix("--").replace("-", "_").rpartition(".")
    part = typing.get_type_hints(Config).get(section)
    return dataclasses.is_dataclass(part) and type(None) in typing.get_args(typing.get_type_hints(part).get(name))


def _is_dotted(name: str, known: Mapping[str, str]) -> bool:
    return "." in name and name in known


def _plain(value: str) -> str:
    """A value as it is written on a command line."""
    if value == "None":
        return "0"
    if value == "...":
        return "…"
    if value[0] in "([":
        return " ".join(part.strip().strip("'\"") for part in value[1:-1].split(",") if part.strip())
    return value.strip("'\"")
