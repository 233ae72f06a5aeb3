"""The operations for which JAX's own are slow on some platform, one function each."""

from cnnjax.ops.broadcast_bias import broadcast_bias
from cnnjax.ops.conv import conv, conv_max_pool
from cnnjax.ops.dense import dense
from cnnjax.ops.pool import max_pool, overlapping_max_pool
from cnnjax.ops.recompute import recompute

__all__ = ["broadcast_bias", "conv", "conv_max_pool", "dense", "max_pool", "overlapping_max_pool", "recompute"]
