"""Where in a file of PyTorch the parameters are: on their own, or below what a training script saves with them."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from cnnjax.formats.lazy_tensors import Refused, listed
from cnnjax.formats.torch_pickle import Holder, Record, Strided

KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict", "module", "weights",
    "params", "model_weights", "backbone",
)  # fmt: skip
"""Where scripts put the parameters, the usual places first."""
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state_dict", "swa_model")
"""Where they put averaged parameters, which are taken only where there are no others."""
NUMPY = (
    "its arrays are NumPy's, which are within its pickle and are not read: save tensors, as in torch.save({name: "
    "torch.from_numpy(array) for name, array in ….items()}, …), or a safetensors file"
)
DEPTH = 3
"""Levels of dicts below which parameters are looked for."""


def state_dict(saved: Any) -> tuple[dict[str, Strided], list[str], dict[str, Any]]:
    """The tensors of a network by their names, the names of others that may be layers of it, and notes on all else.

    Raises Refused where there are none, or several that might be meant.
    """
    if type(saved) in (list, tuple) and any(isinstance(value, dict) for value in saved):  # [network, optimizer]
        saved = {str(number): value for number, value in enumerate(saved)}
    if not isinstance(saved, dict):
        what = "one tensor" if isinstance(saved, Strided | Holder) else "an object that is no dict"
        raise Refused(f"it holds no state dict, but {what}: save model.state_dict()")
    found = {".".join(path): tensors for path, tensors in _states(saved)}
    if not found and (tensors := _tensors(saved)):
        found = {"": tensors}
    if not found:
        if any(isinstance(value, Record) and value.is_array for value in _values(saved)):
            raise Refused(NUMPY)
        there = listed([str(key)[:40] for key in saved]) or "nothing"
        raise Refused(f"it holds no state dict, but {there}: save model.state_dict()")
    place = _chosen(found)
    others = [name for name in found if name != place]
    own = {place.partition(".")[0]} if place else found[place].keys()
    beside = {str(key): value for key, value in saved.items() if key not in own}
    once = {id(value): (key, value) for key, value in reversed(beside.items()) if key not in found}
    heads = [f"{key}.{name}" for key, value in reversed(once.values()) for name in _layers_in(key, value)]
    notes: dict[str, Any] = {"in": place} if place else {}
    if others:
        notes["other state dicts"] = others
    if unread := sorted(beside.keys() - set(others)):
        notes["not read"] = unread
    return found[place], heads, notes


def _values(saved: dict[Any, Any]) -> Iterator[Any]:
    """What is in a dict and in those within it, each of which is followed once: a dict may contain itself."""
    waiting, seen = deque([(saved, 0)]), {id(saved)}
    while waiting:
        here, depth = waiting.popleft()
        for value in here.values():
            yield value
            if isinstance(value, dict) and depth < DEPTH and id(value) not in seen:
                seen.add(id(value))
                waiting.append((value, depth + 1))


def _layers_in(key: str, value: Any) -> list[str]:
    """The names in a dict of nothing but tensors that is no optimizer's: a head that was saved apart."""
    if not isinstance(value, dict) or key.startswith(("opt", "sched")) or key in AVERAGES:
        return []
    tensors = {str(name): _as_tensor(one) for name, one in value.items()}
    if any(tensor is None for tensor in tensors.values()):
        return []
    return list(tensors) if any(len(tensor.shape) == 2 for tensor in tensors.values() if tensor) else []


def _states(saved: dict[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Strided]]]:
    """Every dict that has a convolution, with the keys that lead to it. Each is followed once, outer ones first."""
    waiting: deque[tuple[tuple[str, ...], dict[Any, Any]]] = deque([((), saved)])
    known: dict[int, dict[str, Strided] | None] = {}
    while waiting:
        path, here = waiting.popleft()
        new = id(here) not in known
        if new:
            tensors = _tensors(here)
            known[id(here)] = tensors if any(len(tensor.shape) == 4 for tensor in tensors.values()) else None
        if state := known[id(here)]:
            yield path, state
        elif new and len(path) < DEPTH:
            inner = ((key, value) for key, value in here.items() if isinstance(key, str) and isinstance(value, dict))
            waiting += (((*path, key), value) for key, value in inner if not key.startswith("opt"))


def _tensors(saved: dict[Any, Any]) -> dict[str, Strided]:
    found = {name: _as_tensor(value) for name, value in saved.items() if isinstance(name, str)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _chosen(found: dict[str, dict[str, Strided]]) -> str:
    if len(found) == 1:
        return next(iter(found))
    for key in KEYS:
        if key in found:
            return key
    others = [name for name in found if not set(name.split(".")) & set(AVERAGES)]
    if len(others) == 1:
        return others[0]
    names = others or list(found)
    raise Refused(f"it holds {len(names)} state dicts, {listed(names)}: save the one that is meant alone")


def _as_tensor(value: Any) -> Strided | None:
    value = value.data if isinstance(value, Holder) else value
    return value if isinstance(value, Strided) else None
