"""How much a function computes, whatever it runs on."""

import jax


def gflop(function, *arguments) -> float:
    """XLA's count of the program before optimisation; of a float32 model, attention is counted in its plain form.

    The count of a program that was compiled for a GPU would leave out what cuDNN computes, and of one for a CPU all
    but one of the blocks that attention is cut into.
    """
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
    return lowered.cost_analysis()["flops"] / 1e9
