"""A network as a StableHLO program, which any JAX runs on a CPU, GPU or TPU without this package.

It is written with plain convolutions, which every compiler knows how to make fast, instead of `cnnjax.ops`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Float

from cnnjax.data.normalize import Cleaning, clean
from cnnjax.formats import atomic_write
from cnnjax.formats.native import CLEANING, arrays, save
from cnnjax.formats.network import Network

PLATFORMS = ("cpu", "cuda", "tpu")


def save_stablehlo(path: str | Path, network: Network) -> None:
    """Write a program, and beside it, as `PATH.safetensors`, all its numbers, the preprocessing's too:

        tensors = safetensors.numpy.load_file(f"{path}.safetensors")
        program = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
        logits = program.call(tensors, images)

    images: display pictures, RGB in [0, 1], (batch, side, side, 3), of any batch size. Gradients can be taken. Numbers
    within the program would be in it twice, for its gradient, and take its compilers minutes and gigabytes.
    Raises UserError where a file can't be written.
    """
    path = Path(path)

    def forward(tensors: dict[str, Array], images: Array) -> Array:
        parts = (tensors[f"cleaning/{name}"] for name in CLEANING)
        params = {
            f"{layer}/{kind}": tensors[f"params/{layer}/{kind}"] for layer in layers for kind in ("kernel", "bias")
        }
        return logits(layers, params, clean(Cleaning(network.cleaning.kind, *parts), images))

    layers = list(network.params)
    tensors = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays(network).items()}
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, network.side, network.side, 3), jnp.float32)
    program = export.export(jax.jit(forward), platforms=PLATFORMS)(tensors, images).serialize(vjp_order=1)
    save(path.with_name(f"{path.name}.safetensors"), network)
    atomic_write.whole(path, lambda partial: partial.write_bytes(program))


def logits(
    layers: list[str], params: dict[str, Array], images: Float[Array, "batch height width 3"]
) -> Float[Array, "batch ..."]:
    """What either network gives for cleaned pictures, in plain operations; without a top, the last pooled maps."""
    x, convolutions = images, [name for name in layers if "conv" in name]
    for name, following in zip(convolutions, [*convolutions[1:], ""], strict=True):
        kernel, bias = params[f"{name}/kernel"], params[f"{name}/bias"]
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + bias[None, None, None, :])
        # A VGG pools after each block, the small network after each convolution.
        if name.partition("_")[0] != following.partition("_")[0] or name.startswith("conv_"):
            x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    dense = [name for name in layers if name not in convolutions]
    for name in dense:
        x = x.reshape(x.shape[0], -1) @ params[f"{name}/kernel"] + params[f"{name}/bias"][None, :]
        x = x if name == dense[-1] else jax.nn.relu(x)
    return x
