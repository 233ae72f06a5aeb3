"""What a published network's outputs are called."""

from cnnjax.data import imagenet


def default_names(outputs: int) -> tuple[str, ...]:
    """Names of the classes of a file that does not tell them: a thousand are ImageNet's; one is a choice of two."""
    if outputs == len(imagenet.class_names()):
        return imagenet.class_names()
    return tuple(f"class {i}" for i in range(2 if outputs == 1 else outputs))
