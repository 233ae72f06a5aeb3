"""Which format a file has, by what is in it, never by its name."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cnnjax.data.normalize import Cleaning
from cnnjax.errors import UserError
from cnnjax.formats import keras_reader, orbax, safetensors_reader, torch_reader
from cnnjax.formats.build import assemble
from cnnjax.formats.lazy_tensors import Contents, Damaged, Refused
from cnnjax.formats.network import Network

READABLE = (
    "Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors of torchvision's, timm's or our own names, "
    "and the folder of a run can be read"
)


def load(
    path: str | Path,
    *,
    top: bool = True,
    side: int = 0,
    class_names: Sequence[str] = (),
    new_head: Sequence[str] = (),
    cleaning: Cleaning | None = None,
    seed: int = 0,
) -> Network:
    """Read a network from any file or folder that holds one: what it is, is told by its contents.

    top: False leaves out a VGG's dense layers, and must be said of a file that has none: the network then ends at
    block5_pool and has no class names. side: of the pictures, where the dense layers leave a choice; 0 takes the least,
    and 224 without them. class_names: what the file's outputs are called. new_head: names of other classes, for which
    the last layer is made anew (from `seed`). cleaning: in place of the weights' own.

    Every array is checked: name, shape, type, finite. float16 and bfloat16 become float32. Nothing is executed.
    Raises UserError, which names what is missing or left over, for a file that is not there, damaged, of another kind,
    or does not fit a network.
    """
    path = Path(path)
    try:
        with _reader(path)(path) as contents:
            return assemble(
                path,
                contents,
                top=top,
                side=side,
                class_names=class_names,
                new_head=new_head,
                cleaning=cleaning,
                seed=seed,
            )
    except Damaged as error:
        raise UserError(f"{path} is damaged or incomplete ({error}): train or fetch it again") from error
    except Refused as error:
        raise UserError(f"{path} is not read: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror or error}") from error


def _reader(path: Path) -> Callable[[Path], AbstractContextManager[Contents]]:
    if path.is_dir():
        return orbax.read
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}: train one, or give the path of another") from None
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror}") from error
    if len(start) < 9:
        raise UserError(f"{path} is damaged or incomplete: train or fetch it again")
    # A safetensors file starts with the length of its header, and "{" follows.
    if start[8:9] == b"{":
        return safetensors_reader.read
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return keras_reader.read
    if start.startswith(b"PK\x03\x04"):
        return keras_reader.read_archive if keras_reader.is_archive(path) else torch_reader.read_archive
    if start.startswith(b"\x80"):
        return torch_reader.read_legacy
    raise UserError(f"{path} is not a file of weights: {READABLE}")
