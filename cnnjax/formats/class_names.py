"""What the outputs of a published network are called."""

from cnnjax.data import imagenet


def default_names(outputs: int) -> tuple[str, ...]:
    """Names for the classes of a file that has none: a thousand logits are ImageNet's; one logit is for two classes."""
    if outputs == len(imagenet.class_names()):
        return imagenet.class_names()
    return tuple(f"class {i}" for i in range(2 if outputs == 1 else outputs))
