"""A network as a StableHLO program, which any JAX runs on a CPU, GPU or TPU without this package."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array

from cnnjax.errors import UserError
from cnnjax.files import atomic_write
from cnnjax.formats.native import arrays, save, with_arrays
from cnnjax.network import Network

PLATFORMS = ("cpu", "cuda", "tpu")


def save_stablehlo(path: str | Path, network: Network) -> None:
    """Write a program and, beside it as `PATH.safetensors`, all its numbers, those of the preprocessing too:

        tensors = safetensors.numpy.load_file(f"{path}.safetensors")
        program = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
        logits = program.call(tensors, images)

    images: in [0, 1], of shape (batch, height, width, channels) with any batch. Gradients can be taken. The numbers are
    not in the program: it would hold them twice, for its gradient, and its compilers would need minutes and gigabytes.
    Raises UserError if a file cannot be written, or a model of another package cannot be exported.
    """
    path = Path(path)

    def forward(tensors: dict[str, Array], images: Array) -> Array:
        return with_arrays(network, tensors)(images)[0]

    tensors = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays(network).items()}
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *network.image_shape), jnp.float32)
    try:
        program = export.export(jax.jit(forward), platforms=PLATFORMS)(tensors, images).serialize(vjp_order=1)
    except Exception as error:
        if network.config:
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the model cannot be exported for batches of any size ({reason}): in the model, use x.shape[0] instead of "
            "len(x), and no Python numbers that depend on the batch"
        ) from error
    save(path.with_name(f"{path.name}.safetensors"), network)
    atomic_write(path, lambda temporary: temporary.write_bytes(program))
