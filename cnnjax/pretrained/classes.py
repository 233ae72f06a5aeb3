"""What a published network's outputs are called."""


def default_names(outputs: int) -> tuple[str, ...]:
    """Names of the classes of a file that does not tell them; one output is a choice of two."""
    return tuple(f"class {i}" for i in range(2 if outputs == 1 else outputs))
