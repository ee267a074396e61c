"""Several processes as one: they compute the same; the first decides what depends on a clock, and stores the rows."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from expreg.errors import InputError, Interrupted, Problem, StorageError
from expreg.output import complain

T = TypeVar("T")

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""The variables for where no cluster does it: host:port of process 0, how many there are, the number of this one."""

GRACE_SECONDS = 10.0
"""A process that has not ended so long after another one failed waits for it."""
_runs = count()


def connect() -> None:
    """Join the processes that Slurm, Open MPI, Kubernetes, a TPU pod or variables name, if JAX has not started.

    Raises InputError where they cannot be reached.
    """
    if jax.distributed.is_initialized() or jax._src.xla_bridge.backends_are_initialized():
        return
    known = [one for one in jax._src.clusters.ClusterEnv._cluster_types if not one.opt_in_only_method]
    counts = [one.get_process_count() for one in known if one.is_env_present()]
    try:
        if all(name in os.environ for name in (ADDRESS, COUNT, NUMBER)):
            jax.distributed.initialize(num_processes=int(os.environ[COUNT]), process_id=int(os.environ[NUMBER]))
        elif counts and counts[0] > 1:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        message = f"the processes cannot connect: {str(error).splitlines()[0]}"
        raise InputError(Problem("E-DEVICE", message, key="execution.shard")) from None


def follows() -> bool:
    """Return whether another process writes and prints."""
    return jax.distributed.is_initialized() and jax.process_index() > 0


@contextmanager
def together(
    asked: Callable[[], AbstractContextManager[Callable[[], bool]]], devices: Mesh
) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether to stop, as `asked()` does in the first process."""
    with asked() as stop:
        yield lambda: bool(agreed(stop(), devices))


@contextmanager
def ending_together(devices: Mesh) -> Iterator[None]:
    """End this process in one line, with the same exit code, where another one leaves the context by an error.

    It may wait for the other in the middle of a program, where no exception of Python reaches it.
    """
    if not devices.is_multi_process:
        yield
        return
    client: Any = jax._src.distributed.global_state.client
    name, left = f"expreg/failed/{next(_runs)}", Event()
    watch = Thread(target=_watch, args=(client, name, left), daemon=True)
    watch.start()
    try:
        yield
    except Interrupted:  # all know
        raise
    except Exception as error:
        said = f"{getattr(error, 'exit_code', 1)} process {jax.process_index()} has failed: {error}"
        with suppress(RuntimeError):
            client.key_value_set(name, said, allow_overwrite=True)
        raise
    finally:
        left.set()
        watch.join()


def _watch(client: Any, name: str, left: Event) -> None:
    while not left.wait(1.0):
        with suppress(RuntimeError):  # nobody has failed yet
            code, _, line = client.key_value_try_get(name).partition(" ")
            if not left.wait(GRACE_SECONDS):
                complain(line)
                try:
                    jax.distributed.shutdown()  # for which the other one waits before it ends
                finally:
                    os._exit(int(code))


def agreed(value: Any, devices: Mesh) -> Any:
    """Return the arrays or numbers of the first process; all processes of the mesh call this together."""
    if not devices.is_multi_process:
        return value
    with jax.enable_x64(True):
        return multihost_utils.broadcast_one_to_all(value)


def of_first(make: Callable[[], T], devices: Mesh) -> T:
    """Return what `make()` returns in the first process; raise StorageError in all processes if it fails there."""
    if not devices.is_multi_process:
        return make()
    found, reason = None, ""
    try:
        found = None if follows() else make()
    except Exception as error:
        reason = str(error) or repr(error)
    content = np.frombuffer(pickle.dumps((found, reason)), np.uint8)
    size = 1 << int(agreed(content.size, devices)).bit_length()  # few sizes, few programs; pickle ignores the rest
    value, reason = pickle.loads(agreed(np.resize(content, size), devices).tobytes())
    if reason:
        raise StorageError(reason)
    return value


def visible(path: Path, devices: Mesh) -> Path:
    """Return the path, which all processes see; raise StorageError in all of them if one does not."""
    if devices.is_multi_process and not multihost_utils.process_allgather(np.asarray(path.exists())).all():
        raise StorageError("not all processes see the run directory")
    return path


def placed(layout: dict[str, NamedSharding], buffers: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Return inputs on devices: those of the first process, and of what devices share the own part of each process."""
    devices: Any = next(iter(layout.values())).mesh
    if not devices.is_multi_process:
        return jax.device_put(buffers, layout, may_alias=False)
    whole = {name: array for name, array in buffers.items() if layout[name].is_fully_replicated}
    found = buffers | agreed(whole, devices)

    def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index].copy())

    return {name: put(array, layout[name]) for name, array in found.items()}
