"""Which format a file has, detected from its contents, never from its name."""

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flax import nnx

from cnnjax.data.normalize import Normalizer
from cnnjax.errors import UserError, missing
from cnnjax.formats import keras_reader, native, run_folder, torch_reader
from cnnjax.formats.build import build, check_inflation
from cnnjax.formats.lazy_tensors import Contents, Damaged, Refused
from cnnjax.formats.options import Options
from cnnjax.network import Network
from cnnjax.printable import printable, shortened

READABLE = (
    "Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors with torchvision's, timm's or this package's "
    "names, and the folder of a run can be read"
)
NO_WEIGHTS = {
    b"version https://": "a pointer of Git LFS to one: fetch the file itself with git lfs pull",
    b"<!doctype": "a web page, which a download left in its place: download it again",
    b"<html": "a web page, which a download left in its place: download it again",
    b"\x1f\x8b": "something compressed with gzip: unpack it first",
}
"""What is often there instead of weights, by how it begins."""


def load(
    path: str | Path,
    *,
    include_top: bool | None = True,
    image_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] = (),
    new_head: Sequence[str] = (),
    normalizer: Normalizer | None = None,
    model: nnx.Module | None = None,
    seed: int = 0,
    dense_units: int | None = None,
    keep_head: bool = False,
) -> Network:
    """Read a network from a file or folder. The format is detected from the contents; nothing in them is executed.

    include_top: False leaves out a VGG's dense layers, and must be passed for a file that has none: the network then
    ends at block5_pool and has no class names. None takes the file as it is. image_size: an int, or (height, width), of
    the images; by default that of the file, or the smallest that its dense layers allow, or 224. class_names: of the
    file's logits. new_head: names of other classes, for which the last layer is created anew (from `seed`), and all
    dense layers where the file has others or none, or they do not take images of this size; these then have
    `dense_units` outputs. keep_head: not if these are the file's own classes already. normalizer: replaces the file's
    own. model: for a file that was saved with a model of another package, an instance of its class with the same
    layers. Its arrays are not used, so `nnx.eval_shape(lambda: MyModel(...))` suffices.

    Every array is checked: its name, shape and type, and that it is finite. float16, bfloat16 and float64 become
    float32. Raises UserError, which names what is missing or left over, for a file that does not exist, is damaged or
    of another kind, or does not fit a network.
    """
    path = Path(path)
    options = Options.of(
        include_top=include_top,
        image_size=image_size,
        class_names=class_names,
        new_head=new_head,
        normalizer=normalizer,
        model=model,
        seed=seed,
        dense_units=dense_units,
        keep_head=keep_head,
    )
    with reported(path), _reader(path)(path) as contents:
        check_inflation(path, contents)
        return build(path, contents, options)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Whatever is wrong with this file becomes a UserError that names it."""
    try:
        yield
    except Damaged as error:
        raise UserError(f"{path} is damaged or incomplete ({_one_line(error)}): train or fetch it again") from error
    except Refused as error:
        raise UserError(f"{path} is not read: {_one_line(error)}") from error
    except UserError as error:
        if str(error).isprintable():
            raise
        raise UserError(_one_line(error)) from error
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror or error}") from error


def _one_line(error: Exception) -> str:
    """What files call things may be anything: a short, printable line of it."""
    return shortened(printable(str(error)))


def _reader(path: Path) -> Callable[[Path], AbstractContextManager[Contents]]:
    if path.is_dir():
        return run_folder.read
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, and a device may never end
            raise UserError(f"{path} is not a regular file: give a file of weights, or the folder of a run")
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise missing("there is no weights file", path, "train one, or give the path of another") from None
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror}") from error
    if len(start) < 9:
        raise UserError(f"{path} is damaged or incomplete: train or fetch it again")
    # A safetensors file starts with the length of its header, which is followed by "{".
    if start[8:9] == b"{":
        return native.read
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return keras_reader.read
    if start.startswith(b"PK\x03\x04"):
        return keras_reader.read_archive if keras_reader.is_archive(path) else torch_reader.read_archive
    if start.startswith(b"\x80"):
        return torch_reader.read_legacy
    for beginning, found in NO_WEIGHTS.items():
        if start.lower().startswith(beginning):
            raise UserError(f"{path} is not a file of weights, but {found}")
    raise UserError(f"{path} is not a file of weights: {READABLE}")
