"""What `apply` adds to the submodules of any model while it is called: recording, perturbations, keyed dropout.

The submodules' classes are replaced by subclasses for the duration of the call. That works for every `nnx.Module`,
and neither the model nor its class needs to know of it.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cache

import jax
from flax import nnx
from flax.nnx.tracers import TraceState
from jaxtyping import Array, Key

from cnnjax.models.dropout import dropout

_active: ContextVar["Hooks"] = ContextVar("hooks")


class Hooks:
    """A context in which a model's submodules are observed. `activations` has each one's output by its path."""

    def __init__(
        self,
        model: nnx.Module,
        keys: Key[Array, " batch"] | None,
        axis_name: str | None,
        perturbations: Mapping[str, Array],
    ):
        self.activations: dict[str, Array] = {}
        self._keys, self._perturbations = keys, perturbations
        modules = [(path, module) for path, module in nnx.iter_modules(model) if path]
        self._names = {id(module): ".".join(map(str, path)) for path, module in modules}
        dropouts = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.Dropout)]
        self._numbers = {id(module): i for i, module in enumerate(dropouts)}
        self._calls: Counter[int] = Counter()
        self._modules = [module for _, module in modules if callable(module)]
        self._trace = TraceState()
        for module in dropouts:
            module.deterministic = keys is None
        for _, module in modules:
            if isinstance(module, nnx.BatchNorm):
                module.axis_name = axis_name

    def __enter__(self) -> "Hooks":
        self._token = _active.set(self)
        for module in self._modules:
            object.__setattr__(module, "__class__", _hooked(type(module)))
        return self

    def __exit__(self, *_: object) -> None:
        _active.reset(self._token)
        for module in self._modules:
            object.__setattr__(module, "__class__", type(module).__mro__[1])

    def call(
        self, call: Callable[..., object], module: nnx.Module, x: object, *args: object, **kwargs: object
    ) -> object:
        """What the submodule's own `call` returns, after the changes that are made to it."""
        if isinstance(module, nnx.Dropout) and id(module) in self._numbers and isinstance(x, jax.Array):
            out = self._dropout(module, x, **kwargs)
        else:
            out = call(module, x, *args, **kwargs)
        if not isinstance(out, jax.Array):
            return out
        if isinstance(module, nnx.BatchNorm) and module.dtype is None and isinstance(x, jax.Array):
            out = out.astype(x.dtype)  # its statistics are float32, and would make everything after it float32
        # A copy of the module, or a value, that belongs to a transformation inside of the model stays there.
        if id(module) not in self._names or not self._trace.is_valid():
            return out
        self._calls[id(module)] += 1
        name = self._names[id(module)]
        if (count := self._calls[id(module)]) > 1:
            name = f"{name}:{count}"
        if name in self._perturbations:
            out += self._perturbations[name].astype(out.dtype)
        self.activations[name] = out
        return out

    def _dropout(
        self, module: nnx.Dropout, x: Array, *, deterministic: bool | None = None, rngs: object = None
    ) -> Array:
        """`nnx.Dropout`, with a mask for each example that follows from its key and the number of the layer."""
        if self._keys is None or (module.deterministic if deterministic is None else deterministic) or module.rate == 0:
            return x
        layer = self._numbers[id(module)] + len(self._numbers) * self._calls[id(module)]
        shared = {axis % x.ndim for axis in module.broadcast_dims}
        shape = [1 if axis in shared else size for axis, size in enumerate(x.shape)]
        return dropout(x, module.rate, self._keys, layer, tuple(shape[1:]))


@cache
def _hooked(cls: type[nnx.Module]) -> type[nnx.Module]:
    """A subclass whose calls pass through the active hooks."""

    _, *named = inspect.signature(cls.__call__).parameters

    def call(self: nnx.Module, *args: object, **kwargs: object) -> object:
        hooks = _active.get(None)
        if hooks is not None and not args and named and named[0] in kwargs:
            args = (kwargs.pop(named[0]),)
        if hooks is None or not args:
            return cls.__call__(self, *args, **kwargs)
        return hooks.call(cls.__call__, self, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
