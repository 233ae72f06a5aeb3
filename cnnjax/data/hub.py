"""Image classification sets in the format of Hugging Face's `datasets` (the extra `hub`)."""

from collections.abc import Sequence

from cnnjax.data.dataset import Dataset
from cnnjax.data.load_images import Loading


def from_hub(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    image_size: int | tuple[int, int] = 150,
    classes: Sequence[str] = (),
    per_class: int | None = None,
    valid: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
    loading: Loading = "auto",
    cache: bool = True,
) -> Dataset:
    raise NotImplementedError
