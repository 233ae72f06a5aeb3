"""Two processes with two CPU devices each train like one with four devices and like one device; they stop together, a
dead one ends the other, and the run is resumed.
"""

import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cnnjax import distributed
from cnnjax.errors import UserError

ROOT = Path(__file__).parent.parent
TRAIN = [sys.executable, str(ROOT / "experiments" / "train.py"), "debug", "--data.source", "folder:pictures",
         "--data.image-size", "32", "--model.width-multiplier", "0.25", "--train.epochs", "2",
         "--train.steps-per-epoch", "10", "--train.dispatches-per-epoch", "10", "--train.checkpoint-every-steps",
         "1"]  # fmt: skip

# Compiled as users have it: without LLVM's optimizations other roundings, which RMSProp's first step enlarges where a
# gradient is almost zero, lead one device and four to parameters that differ by 0.006 after 20 steps.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the runs, with a data set of noise images, one class slightly redder."""
    root, noise = tmp_path_factory.mktemp("hosts"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "pictures" / name).mkdir(parents=True)
        for i in range(80):
            pixels = noise.integers(0, 200, (32, 32, 3))
            pixels[..., 0] += 40 * (name == "cat")
            Image.fromarray(pixels.astype(np.uint8)).save(root / "pictures" / name / f"{i}.png")
    return root


def start(place: Path, run: str, devices: int, *flags: str) -> subprocess.Popen:
    count = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    resume = ["--resume"] if (place / run / "config.json").exists() else []
    command = [*TRAIN, "--run", run, *resume, *flags]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)


def start_both(place: Path, run: str, *flags: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = ["--distributed.coordinator", f"127.0.0.1:{port}", "--distributed.count", "2", *flags]
    return [start(place, run, 2, *named, "--distributed.index", str(index)) for index in range(2)]


def ends(processes: list[subprocess.Popen], seconds: float = 240) -> tuple[list[str], list[int]]:
    said = [process.communicate(timeout=seconds)[0] for process in processes]
    return said, [process.returncode for process in processes]


def steps_kept(place: Path, run: str) -> int:
    return max((int(p.name.split("-")[0]) for p in (place / run / "checkpoints").glob("[0-9]*")), default=0)


def child(process: subprocess.Popen) -> int:
    """The process that a supervising process started."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def weights(place: Path, run: str) -> dict[str, np.ndarray]:
    return load_file(place / run / "weights.safetensors")


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(np.abs(a[name] - b[name]).max(initial=0) for name in a)


@pytest.fixture(scope="module")
def together(place):
    """What two undisturbed hosts printed, and their final weights."""
    said, codes = ends(start_both(place, "together"))
    assert codes == [0, 0], said
    return said, weights(place, "together")


@pytest.mark.slow
def test_two_hosts_train_as_one_process_and_as_one_device(place, together):
    said, both = together
    one = [start(place, f"alone-{n}", n) for n in (4, 1)]
    assert ends(one)[1] == [0, 0]
    assert distance(both, weights(place, "alone-4")) <= 1e-5
    assert distance(both, weights(place, "alone-1")) <= 1e-5
    tests = [json.loads((place / run / "test.json").read_text()) for run in ("together", "alone-4", "alone-1")]
    assert [test["count"] for test in tests] == [40] * 3
    assert "wrote together/weights.safetensors" in said[0] and "wrote" not in said[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finding a child process needs Linux' /proc")
def test_hosts_stop_together_and_a_dead_one_ends_the_other_and_all_go_on(place, together):
    """SIGTERM to one host, then SIGKILL of one, streamed; the final parameters are the undisturbed run's, bit for bit.

    The run can be continued on one device, too.
    """

    def wait_for(step: int, processes: list[subprocess.Popen]) -> None:
        while steps_kept(place, "troubled") < step and all(p.poll() is None for p in processes):
            time.sleep(0.01)

    processes = start_both(place, "troubled")
    wait_for(2, processes)
    processes[1].terminate()
    said, codes = ends(processes)
    assert codes == [0, 0] and all("stopped by SIGTERM" in text for text in said), said
    stopped = steps_kept(place, "troubled")
    assert 2 <= stopped < 20
    shutil.copytree(place / "troubled", place / "moved")

    processes = start_both(place, "troubled", "--data.loading", "stream")
    wait_for(stopped + 2, processes)
    os.kill(child(processes[1]), signal.SIGKILL)
    killed = time.monotonic()
    said, codes = ends(processes, 30)
    assert time.monotonic() - killed < 30
    assert codes == [distributed.EXIT_HOST_LOST] * 2, said
    assert "another host died or cannot be reached: start all hosts again and resume" in said[0]
    assert "(SIGKILL): it was killed" in said[1]
    assert stopped + 2 <= steps_kept(place, "troubled") < 20

    said, codes = ends([*start_both(place, "troubled"), start(place, "moved", 1)])
    assert codes == [0, 0, 0], said
    assert distance(weights(place, "troubled"), together[1]) == 0
    assert distance(weights(place, "moved"), together[1]) <= 1e-5


def test_hosts_with_other_pictures_or_none_are_told(place):
    """What one host lacks ends all of them with one sentence."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        named = ["--distributed.coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--distributed.count", "2"]
    lacking = start(place, "odd", 2, *named, "--distributed.index", "0", "--data.source", "folder:pictures")
    there = start(place, "odd", 2, *named, "--distributed.index", "1", "--data.source", "folder:missing")
    said, codes = ends([lacking, there])
    assert codes == [2, 2] and all("error: host 1: " in text and "missing" in text for text in said), said
    assert not any("Traceback" in text for text in said)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"count": 2}, "need `coordinator`"),
        ({"index": 0}, "need `coordinator`"),
        ({"coordinator": "10.0.0.1"}, "coordinator='10.0.0.1' must be ADDRESS:PORT"),
        ({"coordinator": "a:1"}, "needs `count`"),
        ({"coordinator": "a:1", "count": 2}, "from 0 to 1, not -1"),
        ({"coordinator": "a:1", "count": 2, "index": 2}, "from 0 to 1, not 2"),
        ({"connect_timeout": 0}, "connect_timeout=0 must be at least 1 second"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(values, sentence):
    with pytest.raises(UserError, match=sentence):
        distributed.initialize(**values)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, ""),
        (SLURM | {"SLURM_NTASKS": "2"}, "SLURM"),
        (SLURM | {"SLURM_NTASKS": "1"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, ""),  # in the shell of an allocation, not in a step of it
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://a:1", "OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
    ],
)
def test_schedulers_are_found_by_what_they_set(monkeypatch, environment, found):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed._environment() == found


def test_one_host_alone_returns_at_once_and_hears_itself():
    distributed.initialize(count=1)
    assert distributed.is_primary() and not distributed.is_multi_process()
    assert (
        distributed.allgather_str("ä") == ["ä"] and distributed.any_process(True) and not distributed.any_process(False)
    )
    assert distributed.run_all_or_raise(max, 1, 2) == 2 and distributed.run_on_primary(str, 3) == "3"
    distributed.assert_equal("weather", "fine")


@pytest.mark.parametrize(
    ("code", "exits", "sentence"),
    [
        ("0", 0, ""),
        ("2", 2, ""),
        ("signal.SIGABRT", distributed.EXIT_HOST_LOST, "another host died or cannot be reached"),
        ("signal.SIGKILL", distributed.EXIT_HOST_LOST, "it was killed"),
        ("signal.SIGTERM", 143, ""),
        ("1", distributed.EXIT_HOST_LOST, "it failed"),
        ("'alone'", distributed.EXIT_HOST_LOST, "not all hosts connected within 300 seconds"),
    ],
)
def test_what_the_end_of_a_child_is_called(monkeypatch, capfd, code, exits, sentence):
    script = (
        "import os, signal, socket\n"
        f"code = {code}\n"
        "if code != 'alone': socket.socket(fileno=int(os.environ['CNNJAX_SUPERVISOR'])).sendall(b'joined')\n"
        "os.kill(os.getpid(), code) if isinstance(code, signal.Signals) else os._exit(1 if code == 'alone' else code)\n"
    )
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", script])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as stop:
            distributed.initialize(coordinator="a:1", count=2, index=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capfd.readouterr().err
    assert stop.value.code == exits and said.count("\n") == bool(sentence) and sentence in said


def test_devices_that_hosts_cannot_share_are_one_sentence():
    from cnnjax.train import strategy

    def device(process: int, number: int) -> SimpleNamespace:
        return SimpleNamespace(process_index=process, id=number)

    choose = inspect.unwrap(strategy.make_strategy)
    with pytest.raises(UserError, match="different numbers of devices"):
        choose("mesh", 3, [device(0, 0), device(1, 1), device(1, 2)])
    with pytest.raises(UserError, match="there are 2 hosts: use 'mesh'"):
        choose("jit", 2, [device(0, 0), device(1, 1)])


@pytest.mark.parametrize(("found", "alone"), [(distributed.TPU, True), ("SLURM", False)])
def test_a_tpu_without_a_slice_works_alone_and_other_environments_must_be_understood(monkeypatch, found, alone):
    def fail(*_, **__) -> None:
        raise ValueError("coordinator_address should be defined.")

    (ours, theirs), kept = socket.socketpair(), []
    monkeypatch.setenv("CNNJAX_SUPERVISOR", str(theirs.detach()))
    monkeypatch.setattr(distributed, "_end_with_parent", kept.append)
    monkeypatch.setattr(distributed, "_environment", lambda: found)
    monkeypatch.setattr(jax.distributed, "initialize", fail)
    service = jax.config.jax_enable_preemption_service
    try:
        with ours:
            if alone:
                distributed.initialize()
                assert ours.recv(6) == b"joined"
            else:
                with pytest.raises(UserError, match="could not be connected .*should be defined.*count=1"):
                    distributed.initialize()
    finally:
        jax.config.update("jax_enable_preemption_service", service)
        while not kept:
            time.sleep(0.01)
        kept[0].close()
