"""Several hosts in one run: how they find each other, and what they exchange apart from training's own sums.

JAX ends a process that has lost another one (SIGABRT, which Python cannot catch). With several hosts the command
therefore runs in a child process; the parent waits for it, forwards SIGTERM and explains how it ended. Call the
functions of this module from the main thread, in the same order on every host, and not while a step is running.
"""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnnjax.errors import UserError

HEARTBEAT_SECONDS = 10
"""A host that has been silent for this long is considered dead."""
EXIT_HOST_LOST = 75
"""The exit code when another host was lost: EX_TEMPFAIL, "try again"."""
TPU = "Cloud TPU"
_SUPERVISOR = "CNNJAX_SUPERVISOR"  # in a child's environment: the file descriptor of the socket to its parent

T = TypeVar("T")


class _Hosts(NamedTuple):
    coordinator: str
    count: int
    index: int
    connect_timeout: int


def initialize(coordinator: str = "", count: int = 0, index: int = -1, connect_timeout: int = 300) -> None:
    """Connect this process to the other hosts of the run; return at once when there are none.

    Hosts are detected under SLURM, GKE, Cloud TPU and Open MPI; elsewhere the arguments describe them. With several
    hosts the calling process never returns from here: the same command line runs in a child process, in which this
    function returns once all hosts are connected, and the calling process exits with the child's exit code.
    Call it before anything starts JAX's backend.

    Args:
        coordinator: "ADDRESS:PORT" of host 0, where the port is free and reachable by the others.
        count: The number of hosts; 0 detects it, 1 looks for no others.
        index: The number of this host, from 0.
        connect_timeout: Seconds to wait for the other hosts.

    Raises:
        UserError: for arguments that do not fit together, a port in use, or an environment that cannot be understood.
    """
    hosts = _Hosts(coordinator, count, index, connect_timeout)
    _check(hosts)
    if count == 1 or not (coordinator or _environment()):
        return
    if _SUPERVISOR not in os.environ:
        raise SystemExit(_supervise(hosts))
    parent = socket.socket(fileno=int(os.environ[_SUPERVISOR]))
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    jax.config.update("jax_enable_preemption_service", False)  # `preemption` handles SIGTERM, and the hosts agree
    described = (coordinator, count, index) if coordinator else (None, None, None)
    limits = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": HEARTBEAT_SECONDS}
    try:
        jax.distributed.initialize(*described, initialization_timeout=connect_timeout, **limits)
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not coordinator and _environment() == TPU:
            # A machine with a TPU of its own, whose metadata do not describe a slice.
            logging.getLogger(__name__).warning(f"no other hosts were found ({reason}): this host works alone")
            parent.sendall(b"joined")
            return
        raise UserError(
            f"the hosts could not be connected ({reason}): set `coordinator` to a free port of host 0, or use "
            "count=1 for this host alone"
        ) from error
    parent.sendall(b"joined")


def is_multi_process() -> bool:
    """Whether other processes take part in this run."""
    return jax.process_count() > 1


def is_primary() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Print `text` on the primary process only."""
    if is_primary():
        print(text)


def allgather_str(text: str) -> list[str]:
    """Every process's text, ordered by process index."""
    if not is_multi_process():
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(mine)], np.int32)).reshape(-1)
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process."""
    return "yes" in allgather_str("yes" if flag else "no")


def run_all_or_raise(work: Callable[..., T], *arguments: object) -> T:
    """Call `work(*arguments)` on every process; when it raises on one of them, every process raises.

    `work` must not communicate with other processes. UserError, ValueError and OSError are passed on, as a UserError
    that names the host; other exceptions are raised only where they occur.
    """
    result, error = _try(work, arguments)
    _raise(allgather_str(error))
    return result  # type: ignore[return-value]  # None only where an error was raised


def run_on_primary(work: Callable[..., str | None], *arguments: object) -> str:
    """Call `work(*arguments)` on the primary process; every process gets its text ("" for None) or its UserError."""
    result, error = _try(work, arguments) if is_primary() else ("", "")
    _raise(allgather_str(error)[:1])
    return allgather_str(result or "")[0]


def assert_equal(what: str, value: str) -> None:
    """Raise UserError on every process unless `value` is the same on all of them; `what` names it in the message."""
    values = allgather_str(value)
    for index, other in enumerate(values):
        if other != values[0]:
            raise UserError(f"host {index} and host 0 differ in {what}: start every host with the same")


def _check(hosts: _Hosts) -> None:
    coordinator, count, index, connect_timeout = hosts
    if connect_timeout < 1:
        raise UserError(f"connect_timeout={connect_timeout} must be at least 1 second")
    if not coordinator:
        if index != -1 or count not in (0, 1):
            raise UserError("`count` and `index` need `coordinator`, the ADDRESS:PORT of host 0")
        return
    if re.fullmatch(r".+:\d{1,5}", coordinator) is None:
        raise UserError(f"coordinator={coordinator!r} must be ADDRESS:PORT, such as 10.0.0.1:8476")
    if count < 1:
        raise UserError("`coordinator` needs `count`, the number of hosts")
    if not 0 <= index < count:
        raise UserError(f"`index` must be the number of this host, from 0 to {count - 1}, not {index}")


def _try(work: Callable[..., T], arguments: tuple[object, ...]) -> tuple[T | None, str]:
    if not is_multi_process():
        return work(*arguments), ""
    try:
        return work(*arguments), ""
    except (ValueError, OSError) as error:
        return None, str(error) or type(error).__name__


def _raise(errors: list[str]) -> None:
    for index, error in enumerate(errors):
        if error:
            raise UserError(f"host {index}: {error}")


def _environment() -> str:
    """The system that starts several hosts, detected as JAX does; "" for none."""
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


def _supervise(hosts: _Hosts) -> int:
    """Run this command in a child process and return its exit code; explain it when a host was lost."""
    ours, theirs = socket.socketpair()
    environment = os.environ | {_SUPERVISOR: str(theirs.fileno())}
    command = [sys.executable, *sys.orig_argv[1:]]
    if hosts.coordinator:
        print(f"host {hosts.index} of {hosts.count}: connecting to {hosts.coordinator}", flush=True)
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
    if code in (-signal.SIGINT, -signal.SIGTERM):
        return 128 - code
    print(f"error: {_explain(hosts, code, joined)}", file=sys.stderr)
    return EXIT_HOST_LOST


def _explain(hosts: _Hosts, code: int, joined: bool) -> str:
    """How a child ended and what to do, in one sentence."""
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    here = f"host {hosts.index} of {hosts.count}" if hosts.coordinator else "this host"
    remedy = (
        "start all hosts again and resume the run, on any number of hosts; everything up to the last checkpoint is kept"
    )
    if not joined:
        reason = f"not all hosts connected within {hosts.connect_timeout} seconds"
        remedy = "check the coordinator's address and that every host was started, or allow more time"
    elif code == -signal.SIGKILL:
        reason = "it was killed, perhaps because the memory was exhausted, and the other hosts end too"
    elif code == -signal.SIGABRT:
        reason = "another host died or cannot be reached"
    else:
        reason = "it failed"
    return f"{here} ended ({how}): {reason}: {remedy}"


def _end_with_parent(parent: socket.socket) -> None:
    # Killing the parent is meant for this host as a whole: the others must see it die.
    with suppress(OSError):
        parent.recv(1)
    os._exit(1)
