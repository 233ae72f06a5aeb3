"""The operations that plain JAX is slow at, one function each."""

from cnnjax.ops.bias import spread
from cnnjax.ops.conv import conv, conv_max_pool
from cnnjax.ops.dense import dense
from cnnjax.ops.pool import max_pool
from cnnjax.ops.recompute import recompute

__all__ = ["conv", "conv_max_pool", "dense", "max_pool", "recompute", "spread"]
