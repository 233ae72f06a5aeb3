"""A config as the JSON of a run's `config.json`, and back; the first edition's files are understood, too."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from cnnjax.cli import renamed
from cnnjax.cli.config import Config
from cnnjax.errors import UserError, missing, unknown

T = TypeVar("T")


def read(path: Path) -> Config:
    """The settings of an earlier run, from its `config.json`; without the folder of that run.

    Raises UserError for a file that cannot be read, or that `cnnjax train` did not write.
    """
    if not path.is_file():
        raise missing("there are no settings", path, "give a preset, or the config.json of a run")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): choose another run") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds no settings: choose another run")
    try:
        return dataclasses.replace(from_dict(Config, values), run="")
    except UserError as error:
        raise UserError(f"{path}: {error}; only the settings of cnnjax train and cnnjax sweep can be used") from error


def as_dict(config: Any) -> dict[str, Any]:
    """A config, or a part of one, as JSON-able data."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `as_dict` for `Config` and its parts. Field names of the first edition are understood, too.

    Raises UserError for a field that `kind` does not have, or a value that it does not accept.
    """
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, value in renamed.upgrade(kind.__name__, values).items():
        if name not in hints:
            raise unknown(f"field of {kind.__name__}", name, hints)
        arguments[name] = _value(f"{kind.__name__}.{name}", hints[name], value)
    return kind(**arguments)


def _value(name: str, hint: Any, value: Any) -> Any:
    """A value from JSON as the type that a field is annotated with."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be an object of settings, not {value!r}")
        return from_dict(hint, value)
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(hint, value):
        raise UserError(f"{name} does not accept {value!r}")
    return value


def _fits(hint: Any, value: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (types.UnionType, typing.Union):
        return any(_fits(part, value) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = (parts[0],) * len(value) if parts[1:] == (...,) else parts
        return len(kinds) == len(value) and all(map(_fits, kinds, value))
    if hint is types.NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
