"""Several processes that train together."""

import asyncio
import os
import socket

import jax
from orbax.checkpoint import v1 as ocp

__all__ = ["join", "wait_for_others"]


def join() -> None:
    """Joins the other processes of the run; to be called before anything else of JAX.

    On TPU pods, under Slurm and under Open MPI nothing needs to be said. Elsewhere `JAX_COORDINATOR_ADDRESS` (host:port
    of process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` do.

    Raises:
      ValueError: if one of the three variables is set without the others, or is not a number; if this machine's own
        name has no address, by which the others' CPUs are to find it.
    """
    # On CPUs the collectives of two programs in flight wait for each other.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    values = {name: os.environ.get(name) for name in names}
    if not any(values.values()):
        jax.distributed.initialize()
        return
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be set where {names[0]} and its like are")
    try:
        count, index = int(values[names[1]] or ""), int(values[names[2]] or "")
    except ValueError as error:
        raise ValueError(f"{names[1]} and {names[2]} must be whole numbers: {error}") from error
    jax.distributed.initialize(values[names[0]], count, index)
    try:
        jax.local_devices()
    except RuntimeError as error:
        try:
            socket.getaddrinfo(socket.gethostname(), None)
        except OSError:
            raise ValueError(
                f"this machine's name, {socket.gethostname()}, must have an address, as by a line in /etc/hosts, "
                f"for the other processes to find it: {error}"
            ) from error
        raise


def wait_for_others(place: str) -> None:
    """Until every process has come to this place, whose name must be new; by messages, not by a collective."""
    if jax.process_count() > 1:
        everybody = set(range(jax.process_count()))
        asyncio.run(ocp.multihost.sync_global_processes(place, operation_id=place, processes=everybody))
