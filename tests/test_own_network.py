"""A network of plain Flax layers, defined outside the package: trained on any devices, with all options, and resumed."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import Network, data, losses, train

EXAMPLE = Path(__file__).parent.parent / "experiments" / "own_network.py"
STEPS = 10


def example():
    spec = importlib.util.spec_from_file_location("own_network", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dataset(shape: tuple[int, int, int] = (32, 32, 3)) -> data.Dataset:
    rng = np.random.default_rng(0)
    labels = (np.arange(72) % 2).astype(np.int32)
    images = rng.integers(0, 200, (72, *shape)) + 50 * labels[:, None, None, None]
    return data.from_arrays(images.astype(np.uint8), labels, class_names=("dark", "light"), valid=16, test=16)


def fit(folder: Path | None, shape=(32, 32, 3), devices: int = 1, mode: str = "jit", **changes) -> train.Result:
    """Ten steps with label smoothing, mixup, a moving average and clipping."""
    arrays = dataset(shape)
    model = example().ResNet18(2, channels=shape[-1], width=4, rngs=nnx.Rngs(0))
    options = {
        "loss": losses.softmax_cross_entropy(label_smoothing=0.1),
        "mix": data.mixup(0.2),
        "ema": 0.9,
        "augment": data.Augment(),
        "epochs": 2,
        "steps_per_epoch": STEPS // 2,
        "batch_size": 16,
        "run_dir": folder,
        "on_progress": lambda *_: None,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:devices])
        tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
        network = Network.create(model, arrays)
        return train.fit(network, arrays, tx, strategy=mode, **options | changes)


@pytest.fixture(scope="module")
def alone():
    return fit(None)


def test_the_file_is_short_and_imports_only_the_public_interface():
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 80
    assert [line for line in lines if "import" in line and "cnnjax" in line] == [
        "from cnnjax import Network, configure, data, losses, train"
    ]


def test_grey_images_of_another_size_train_as_well():
    result = fit(None, (28, 28, 1), epochs=1)
    assert result.network.image_shape == (28, 28, 1) and np.isfinite(result.test["loss"])


@pytest.mark.parametrize(("devices", "mode"), [(2, "pmap"), (2, "mesh"), (8, "pmap"), (8, "mesh")])
def test_devices_and_strategies_agree(alone, devices, mode):
    """The moving average of parameters and of BatchNorm's statistics after ten steps, within 1e-5."""
    result = fit(None, devices=devices, mode=mode)
    for name in ("params", "model_state"):
        found, expected = (jax.device_get(getattr(r.network, name)) for r in (result, alone))
        keys = [
            leaf for leaf in jax.tree.leaves(expected) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        ]
        assert len(keys) > 20
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert result.history[-1]["valid_loss"] == pytest.approx(alone.history[-1]["valid_loss"], abs=1e-5)


def test_stopped_and_resumed_is_the_same_bit_for_bit(alone, tmp_path):
    def stop(done: int, total: int, latest: dict) -> None:
        if done >= 7:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, on_progress=stop, checkpoint_every_steps=1)
    assert json.loads((folder / "config.json").read_text())["batch_size"] == 16
    copy = shutil.copytree(folder, tmp_path / "copy")
    for place in (folder, copy):
        resumed = fit(place, resume=True)
        jax.tree.map(np.testing.assert_array_equal, _plain(resumed.network), _plain(alone.network))
    again = fit(folder, resume=True)  # finished: read from its folder
    assert again.network.digest == resumed.network.digest and again.history == fit(folder, resume=True).history


def _plain(network: Network) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path((network.params, network.model_state))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in leaves
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }
