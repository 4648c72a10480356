"""What a call of a compiled function costs the host: with the model as it is, and with `flat_model` of it.

    python benchmarks/calls.py [PRESET]

What is computed takes next to no time, so that the host's part is what is measured.
"""

import sys
import time

import jax
import jax.numpy as jnp

from sam2refiner_jax import build_model
from sam2refiner_jax.flat_model import flat_model

ROUNDS = 200


def milliseconds(function, model) -> float:
    """Of a call, the best of three sittings."""
    x = jnp.zeros(8)
    jax.block_until_ready(function(model, x))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(ROUNDS):
            x = function(model, x)
        jax.block_until_ready(x)
        best = min(best, time.perf_counter() - start)
    return 1e3 * best / ROUNDS


def main(name: str = "sam2.1_hiera_t") -> None:
    model = build_model(name, refiner="sam2refiner")
    function = jax.jit(lambda model, x: x + model.no_mem_embed[...].ravel()[0])
    for what, argument in (("the model", model), ("flat_model", flat_model(model))):
        print(f"{name} with a refiner, {what}: {milliseconds(function, argument):.2f} ms a call")


if __name__ == "__main__":
    main(*sys.argv[1:])
