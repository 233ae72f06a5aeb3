"""Several machines at one run: joining them, and what they tell each other outside of training's own sums.

JAX ends a process that has lost another (SIGABRT, which Python cannot catch), so on several hosts the command runs in
a child process, and this one waits for it, passes SIGTERM on and says what happened. Everything here is for the main
thread: hosts must call it in the same order, and not while a step is under way.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnnjax.cli.config import HostsConfig
from cnnjax.errors import UserError

HEARTBEAT = 10  # seconds without a sign of life until a host counts as dead
LOST = 75  # the exit code when another host was lost: EX_TEMPFAIL, "try again"
TPU = "Cloud TPU"
_SUPERVISOR = "CNNJAX_SUPERVISOR"  # in a child's environment: the socket to its parent

T = TypeVar("T")


def join(config: HostsConfig) -> None:
    """Join the hosts that `config` names or the surroundings tell of (SLURM, GKE, Cloud TPU, Open MPI); none: return.

    With several hosts the process that calls this never comes back: the same command line runs in a child, in which
    this returns once all hosts are there, and its exit code is passed on. Call it before anything touches a device.

    Raises UserError when the port is taken, or the surroundings cannot be understood.
    """
    if config.count == 1 or not (config.coordinator or _surroundings()):
        return
    if _SUPERVISOR not in os.environ:
        raise SystemExit(_supervise(config))
    parent = socket.socket(fileno=int(os.environ[_SUPERVISOR]))
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    jax.config.update("jax_enable_preemption_service", False)  # `preemption` listens to SIGTERM, and hosts agree
    named = (config.coordinator, config.count, config.index) if config.coordinator else (None, None, None)
    limits = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": HEARTBEAT}
    try:
        jax.distributed.initialize(*named, initialization_timeout=config.patience, **limits)
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not config.coordinator and _surroundings() == TPU:
            # A machine with a TPU of its own, whose metadata tell of no slice.
            logging.getLogger(__name__).warning(f"no other hosts were found ({reason}): this one works alone")
            parent.sendall(b"joined")
            return
        raise UserError(
            f"the hosts could not be joined ({reason}): give --hosts.coordinator a free port of host 0, or use "
            "--hosts.count 1 for this host alone"
        ) from error
    parent.sendall(b"joined")


def several() -> bool:
    """Whether other hosts take part."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this is the host that writes files and talks to people."""
    return jax.process_index() == 0


def say(sentence: str) -> None:
    """Print, once for all hosts."""
    if first():
        print(sentence)


def gather(text: str) -> list[str]:
    """Every host's text, in the order of the hosts."""
    if not several():
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(mine)], np.int32)).reshape(-1)
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def any_of(flag: bool) -> bool:
    """Whether it is true on any host."""
    return "yes" in gather("yes" if flag else "no")


def all_well(work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)`, done by each host, which must not talk to the others in it; all raise what one raises.

    What is raised is a UserError; other errors than that, ValueError and OSError are that host's own.
    """
    result, error = _tried(work, arguments)
    _raise(gather(error))
    return result


def by_first(work: Callable[..., str | None], *arguments: Any) -> str:
    """`work(*arguments)`, done by the first host alone; all get its text ("" for None), or raise its UserError."""
    result, error = _tried(work, arguments) if first() else ("", "")
    _raise(gather(error)[:1])
    return gather(result or "")[0]


def agree(what: str, value: str) -> None:
    """Raises UserError on every host unless `value` is the same on all; `what` names it for people."""
    values = gather(value)
    for index, other in enumerate(values):
        if other != values[0]:
            raise UserError(f"host {index} and host 0 differ in {what}: start every host with the same")


def _tried(work: Callable[..., T], arguments: tuple[Any, ...]) -> tuple[T | None, str]:
    if not several():
        return work(*arguments), ""
    try:
        return work(*arguments), ""
    except (ValueError, OSError) as error:
        return None, str(error) or type(error).__name__


def _raise(errors: list[str]) -> None:
    for index, error in enumerate(errors):
        if error:
            raise UserError(f"host {index}: {error}")


def _surroundings() -> str:
    """What tells that there may be several hosts, as JAX finds it too; "" when nothing does."""
    at = os.environ.get
    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= os.environ.keys():
        return "SLURM" if int(at("SLURM_NTASKS", "1")) > 1 else ""
    if at("OMPI_MCA_orte_hnp_uri"):
        return "Open MPI" if int(at("OMPI_COMM_WORLD_SIZE", "1")) > 1 else ""
    if "JOB_COMPLETION_INDEX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ and find_spec("kubernetes"):
        return "Kubernetes"
    if find_spec("libtpu") and "tpu" in (jax.config.jax_platforms or "tpu"):
        if "," in (at("TPU_PROCESS_ADDRESSES") or at("TPU_WORKER_HOSTNAMES") or ""):
            return "GKE"
        if any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0")) and not at("TPU_SKIP_MDS_QUERY"):
            return TPU
    return ""


def _supervise(config: HostsConfig) -> int:
    """Run this very command in a child, to its end; gives its exit code, in words too when a host was lost."""
    ours, theirs = socket.socketpair()
    environment = os.environ | {_SUPERVISOR: str(theirs.fileno())}
    command = [sys.executable, *sys.orig_argv[1:]]
    if config.coordinator:
        print(f"host {config.index} of {config.count}: meeting the others at {config.coordinator}", flush=True)
    child = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
    theirs.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Ctrl-C reaches the child from the terminal by itself.
        signal.signal(number, (lambda n, _: child.send_signal(n)) if number == signal.SIGTERM else signal.SIG_IGN)
    code = child.wait()
    joined = bool(ours.recv(6))
    ours.close()
    if code >= 0 and code != 1:
        return code
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    here = f"host {config.index} of {config.count}" if config.coordinator else "this host"
    if code in (-signal.SIGINT, -signal.SIGTERM):
        return 128 - code
    if not joined:
        reason = f"not all hosts came within {config.patience} s (--hosts.patience)"
        remedy = "check --hosts.coordinator and that every host was started"
    elif code == -signal.SIGKILL:
        reason = "it was killed, perhaps for want of memory, and the other hosts end too"
        remedy = "start every host again with --resume, in any number: all up to the last checkpoint is kept"
    else:
        reason = "another host died or cannot be reached" if code == -signal.SIGABRT else "it failed"
        remedy = "start every host again with --resume, in any number: all up to the last checkpoint is kept"
    print(f"error: {here} ended ({how}): {reason}: {remedy}", file=sys.stderr)
    return LOST


def _end_with_parent(parent: socket.socket) -> None:
    # Whoever kills the parent means this host: the others must see it die.
    with suppress(OSError):
        parent.recv(1)
    os._exit(1)
