"""The cluster of Ray that runs cells: the one at an address, or one that is started here on loopback."""

import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from expreg.core.engine.failures import detail
from expreg.errors import InputError, Problem
from expreg.types import cores

ANSWER_SECONDS = 5.0
"""Time in which a cluster must answer; Ray itself would try for two minutes."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
_SETTINGS = b"\4"  # the type of the frame with which every server of HTTP/2 answers


def refusal(message: str) -> InputError:
    """Return that the options of a config cannot be served."""
    return InputError(Problem("E-ENGINE", message, key="execution.options"))


@contextmanager
def connected(options: dict[str, Any]) -> Iterator[Any]:
    """Connect to the cluster at `address`, or RAY_ADDRESS; without either start one here that ends with the context.

    Takes out of the options what is not about actors. Raises InputError where no cluster answers.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the address of this machine is that of loopback
    import ray

    address = str(options.pop("address", None) or os.environ.get("RAY_ADDRESS", "local"))
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    given |= {"include_dashboard": False, "num_cpus": cores()} if address == "local" else {}
    ours = not ray.is_initialized()  # else the script has done it
    before = signal.getsignal(signal.SIGTERM)
    try:
        _ask(address)
        if ours:
            with _silence():
                context: Any = ray.init(address, runtime_env=options.pop("runtime_env", None), **given)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise refusal(f"cannot use Ray at {address}: {detail(error)}") from None
    finally:
        with suppress(ValueError):  # in another thread Ray leaves it alone
            signal.signal(signal.SIGTERM, before)
    if ours:
        _hush(ray)
    if ours and address == "local":
        _let_agents_end(Path(context.address_info["session_dir"]))
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _ask(address: str) -> None:
    """Raise OSError or ValueError unless something like a cluster answers."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdigit():
        raise ValueError("expected host:port, or auto on a machine of the cluster")
    with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            connection.sendall(_HELLO)
            if connection.recv(9)[3:4] != _SETTINGS:
                raise ConnectionError("what answers there is no cluster")


def _hush(ray: Any) -> None:
    """Let Ray not print that a worker was killed."""
    with suppress(AttributeError):  # of another version
        worker = ray._private.worker.global_worker
        worker.threads_stopped.set()
        worker.gcs_error_subscriber.close()


def _let_agents_end(session: Path) -> None:
    """Let two agents of Ray end with a driver that is killed.

    For a minute they would try to report the end of a raylet to a cluster that is gone too, unless the log of the
    raylet says that it was asked to end.
    """
    with suppress(OSError), (session / "logs" / "raylet.out").open("a") as log:
        log.write("expreg needs no report of how this process ends: Raylet received SIGTERM\n")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what libraries print to standard error from the terminal, and that of JAX on forks, which start others."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
