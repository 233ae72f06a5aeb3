"""A network of plain Flax layers, defined outside the package: trained on any devices, with all options, resumed."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import Network, data, distributed, losses, train

EXAMPLE = Path(__file__).parent.parent / "experiments" / "own_network.py"
STEPS = 10


pytestmark = pytest.mark.usefixtures("quickly_compiled")


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
    """Ten steps with label smoothing, mixup, a moving average and clipping; devices=0: on all devices of all hosts."""
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
        if devices:
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


@pytest.mark.slow
def test_grey_images_of_another_size_train_as_well():
    result = fit(None, (28, 28, 1), epochs=1)
    assert result.network.image_shape == (28, 28, 1) and np.isfinite(result.test["loss"])


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "mode"), [(2, "pmap"), (2, "mesh"), (8, "pmap"), (8, "mesh")])
def test_devices_and_strategies_agree(alone, devices, mode):
    """The moving average of parameters and of BatchNorm's statistics after ten steps, within 1e-5."""
    result = fit(None, devices=devices, mode=mode)
    close(_plain(result.network), _plain(alone.network))
    assert result.history[-1]["valid_loss"] == pytest.approx(alone.history[-1]["valid_loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_two_hosts_of_two_devices_agree(alone, mode, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parent.parent), "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, __file__, str(tmp_path / "run"), mode, coordinator]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    hosts = [subprocess.Popen([*command, str(index)], **options) for index in range(2)]
    try:
        said = [host.communicate(timeout=300)[0] for host in hosts]
    finally:
        for host in hosts:  # which may wait for each other forever
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], said
    with np.load(tmp_path / "run" / "host.npz") as found:
        close(dict(found), _plain(alone.network))


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys() and len(found) > 60
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
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


def host(folder: str, mode: str, coordinator: str, index: str) -> None:
    """One of two processes that train together."""
    distributed.initialize(coordinator, 2, int(index))
    assert jax.device_count() == 4 and jax.local_device_count() == 2
    result = fit(Path(folder), devices=0, mode=mode)
    if distributed.is_primary():
        np.savez(Path(folder) / "host.npz", **_plain(result.network))


if __name__ == "__main__":
    host(*sys.argv[1:])
