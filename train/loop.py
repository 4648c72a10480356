"""The training loop: a run in a folder, which the same command takes up wherever it was stopped."""

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from ..adapters import Adapters, save_adapters
from ..atomic import new_file
from ..checkpoints import save_model, save_refiner
from ..claims import claimed
from ..commands.outputs import check_unused
from ..data.clip_sources import Clips
from ..data.mixture import open_mixture
from ..nn.weights import part_of
from ..provenance import Provenance, TrainingRun
from .config import TrainConfig, config_differences
from .data.pipeline import make_batches
from .distributed import wait_for_others
from .logs import LOG_FILE, RunLog, draw_panel
from .parts import make_skeleton, starting_model
from .preemption import Preemption
from .profile import StepTrace
from .sharding import global_batch, make_mesh, replicated, weight_sharding
from .skeleton import Skeleton, describe_parts, take_apart
from .snapshots import Snapshots
from .step import (
    TrainState,
    batch_shapes,
    check_batch,
    compile_train_step,
    initial_state,
    make_train_step,
    state_shardings,
)
from .validation import Evaluation

__all__ = ["Preempted", "TrainingError", "train"]

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PROFILE_FOLDER = "profile"
# What may change between two sittings of a run: nothing here changes its weights.
FREE_FIELDS = (
    "log_every",
    "panel_every",
    "eval_every",
    "eval_images",
    "eval_data",
    "evaluators",
    "checkpoint_every",
    "keep_checkpoints",
    "profile",
    "data.workers",
)


class TrainingError(ValueError):
    """A run that cannot go on; the message says why, and what is left of it."""


class Preempted(Exception):  # noqa: N818 - no error
    """The run was told to stop (SIGTERM, ctrl-C) and has saved itself; the same command takes it up again.

    Attributes:
      interrupted: whether it was ctrl-C that told this process.
    """

    def __init__(self, message: str, *, interrupted: bool = False):
        super().__init__(message)
        self.interrupted = interrupted


def train(config: TrainConfig, workdir: Path, *, progress: bool = True, finish: bool = False) -> Path:
    """Trains, or goes on training, in a folder; returns the folder of the finished model or refiner.

    The folder gets `config.json`, `log.jsonl`, `tensorboard/`, `panels/`, `checkpoints/` and, at the end, `refiner/`
    where the refiner alone was trained, `adapters/` where adapters alone were, else `model/`; `load_model` reads them
    all. `profile/` is there on request.

    Args:
      config: the run.
      workdir: its folder; a new one, or that of the same run.
      progress: show a progress bar.
      finish: make the result of the steps that are done, without another.

    Raises:
      ValueError: on a configuration that cannot be, data that is not there, a folder of another run, of no run that
        holds something under the names above, or that another process is at work in, or nothing to `finish`.
      TrainingError: when the loss is no longer finite.
      Preempted: after SIGTERM or ctrl-C, when the step is saved.
    """
    mesh = make_mesh(config.model_parallel)
    check_batch(config, mesh, "devices")
    workdir.mkdir(parents=True, exist_ok=True)
    result = workdir / _result_name(config)
    with claimed(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        _settle(workdir, config, result)
        if result.exists():
            log.info("%s is there already: the run is finished", result)
        else:
            _run(config, workdir, result, mesh, progress=progress, finish=finish)
    return result


def _run(config: TrainConfig, workdir: Path, result: Path, mesh: Mesh, *, progress: bool, finish: bool) -> None:
    """`train`, in a folder that is this run's."""
    # -- model, data and state ----------------------------------------------------------------------------------------
    model = starting_model(config.model, config.seed)
    skeleton = make_skeleton(config, model.config, None if model.refiner is None else model.refiner.config)
    batches, images, lengths = _training_batches(config, skeleton.config.image_size)
    log.info("%s", describe_parts(skeleton, mesh))
    steps = config.total_steps(images)
    state, frozen = place(model, skeleton, config, steps, mesh)
    before = model.provenance
    del model

    # -- where it was stopped -----------------------------------------------------------------------------------------
    snapshots = Snapshots(workdir / "checkpoints", config.keep_checkpoints)
    found = snapshots.restore(state)
    done = 0
    if found is not None:
        done, state, data_state = found
        batches.set_state(data_state)
        log.info("going on from step %d of %d", done, steps)
    if finish:
        if not done:
            batches.close()
            raise ValueError(f"finish needs a run that has a checkpoint, and {workdir} has none")
        log.info("finished at step %d of %d", done, steps)
        steps = done
    if done < steps:
        of_run = _Run(config, workdir, skeleton, mesh, batches, lengths, snapshots, done, steps)
        state = _learn(of_run, state, frozen, progress)
    else:
        batches.close()

    # -- result -------------------------------------------------------------------------------------------------------
    run = TrainingRun(config.trainable, steps, config.batch_size, skeleton.config.image_size, config.data.frames)
    provenance = before.after(run, skeleton.parts)
    _export(skeleton, state, frozen, mesh, provenance, result)
    wait_for_others("exported")  # those that leave first would take the first process with them


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the steps of one sitting are made with; `done` of `steps` were made before."""

    config: TrainConfig
    workdir: Path
    skeleton: Skeleton
    mesh: Mesh
    batches: Any
    lengths: list[int]
    snapshots: Snapshots
    done: int
    steps: int


def _learn(run: _Run, state: TrainState, frozen: Any, progress: bool) -> TrainState:
    """The state after the last step."""
    config, skeleton, mesh, batches, snapshots = run.config, run.skeleton, run.mesh, run.batches, run.snapshots
    done, steps = run.done, run.steps
    evaluation = Evaluation(config, skeleton, mesh) if config.eval_data and config.evaluators else None
    step = compile_train_step(make_train_step(skeleton, config, steps, mesh), state, mesh)
    taught = jax.jit(functools.partial(_parts_taught, skeleton), out_shardings=replicated(mesh))
    run_log = RunLog(run.workdir, done, writes=jax.process_index() == 0)
    bar = tqdm(total=steps, initial=done, disable=not progress or jax.process_index() != 0, smoothing=0.02)
    meter = _Meter(config.batch_size)
    trace = StepTrace(run.workdir / PROFILE_FOLDER, done, config.profile)
    try:
        with jax.set_mesh(mesh), Preemption() as preemption, jax.transfer_guard("disallow"):
            step_of = {
                frames: step.lower(state, frozen, batch_shapes(skeleton, config, mesh, frames)).compile()
                for frames in run.lengths
            }
            wait_for_others("compiled")  # one may take longer to compile than others wait in their first collective
            pending: list[dict[str, jax.Array]] = []
            while done < steps:
                batch = global_batch(next(batches), mesh)
                with trace.step(done):
                    state, scalars = step_of[_frames_of(batch)](state, frozen, batch)
                done += 1
                trace.after(done, scalars)
                bar.update()
                pending.append(scalars)
                if len(pending) > 2:  # so that the host does not run ahead of the device without end
                    jax.block_until_ready(pending.pop(0)["loss"])
                if done % config.log_every == 0 or done == steps:
                    _check_finite(state, snapshots)
                    values = {name: float(value) for name, value in jax.device_get(scalars).items()}
                    run_log.scalars(done, values | {"images_per_second": meter.rate(done)})
                    bar.set_postfix(loss=f"{values['loss']:.4f}")
                scored = done % config.eval_every == 0 or done == steps
                shown = done % config.panel_every == 0 or done == steps
                if evaluation and (scored or shown):
                    scores, rows = evaluation.scores(state, frozen)
                    if scored:
                        run_log.scalars(done, scores)
                    if shown and rows:
                        run_log.panel(done, draw_panel(rows))
                stopping = preemption.requested(done)
                if done % config.checkpoint_every == 0 or done == steps or stopping:
                    _check_finite(state, snapshots)
                    _check_taught(state, taught)
                    snapshots.save(done, state, batches.get_state())
                if stopping and done < steps:
                    snapshots.wait()
                    message = f"stopped at step {done} of {steps}; the same command goes on from there"
                    raise Preempted(message, interrupted=preemption.interrupted)
    finally:
        bar.close()
        trace.close()
        batches.close()
        run_log.close()
        snapshots.close()
    return state


def place(model: Any, skeleton: Skeleton, config: TrainConfig, steps: int, mesh: Mesh) -> tuple[TrainState, Any]:
    """The initial state and the frozen weights, laid out on the mesh."""
    params, frozen = take_apart(model, skeleton, config.seed)
    frozen = {name: jax.device_put(x, weight_sharding(mesh, x.shape)) for name, x in frozen.items()}
    params = {name: jax.device_put(x, weight_sharding(mesh, x.shape)) for name, x in params.items()}

    def initial(params):
        return initial_state(params, config.optimizer, steps)

    shardings = state_shardings(jax.eval_shape(initial, params), mesh)
    return jax.jit(initial, out_shardings=shardings)(params), frozen


def _result_name(config: TrainConfig) -> str:
    """What a run makes: adapters or a refiner where these alone learn, else a model."""
    if not config.trainable:
        return "adapters"
    return "refiner" if set(config.trainable) == {"refiner"} and not config.lora.rank else "model"


def _settle(workdir: Path, config: TrainConfig, result: Path) -> None:
    """Writes the configuration into a folder that nothing of a run is in, or compares it with the one that is there."""
    path, new = workdir / CONFIG_FILE, config.to_dict()
    if path.exists():
        try:
            old = json.loads(path.read_text())
            if not isinstance(old, dict):
                raise ValueError(f"expected fields by name, got {type(old).__name__}")
            old = TrainConfig.from_dict(old).to_dict()
        except ValueError as error:
            raise ValueError(f"{path} is not the configuration of a run: {error}") from error
        differences = [line for line in config_differences(old, new) if not line.startswith(FREE_FIELDS)]
        if differences:
            raise ValueError(f"{workdir} is the folder of another run: " + "; ".join(differences))
    else:
        check_unused(workdir, (LOG_FILE, "tensorboard", "panels", "checkpoints", PROFILE_FOLDER, result.name))
    if jax.process_index() == 0:
        with new_file(path, overwrite=True) as partial:
            partial.write_text(json.dumps(new, indent=2) + "\n")


def _training_batches(config: TrainConfig, image_size: int) -> tuple[Any, int, list[int]]:
    """The endless iterator of this process's part of each batch, the number of images, and frames of its clips.

    There is a number for each kind of batch: 0 frames are photos'.
    """
    if not config.data.sources:
        raise ValueError("data.sources must name at least one source of images, got none")
    sources = open_mixture(config.data.sources)
    lengths = [0]
    if config.data.frames:
        lengths = sorted({config.data.frames if isinstance(source, Clips) else 1 for source, _ in sources})
        if lengths[-1] < config.data.frames:
            raise ValueError(
                f"data.sources must name a source of clips where data.frames is {config.data.frames}, "
                f"got {', '.join(config.data.sources)}"
            )
    batches = make_batches(
        sources,
        config.data,
        image_size=image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return batches, sum(len(source) for source, _ in sources), lengths


def _frames_of(batch: Mapping[str, Any]) -> int:
    """Of a batch's clips; 0 of photos."""
    return batch["image"].shape[1] if batch["image"].ndim == 5 else 0


class _Meter:
    """Images a second since the last time it was asked."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.last: tuple[int, float] | None = None

    def rate(self, step: int) -> float:
        now = time.monotonic()
        before, self.last = self.last, (step, now)
        return 0.0 if before is None else (step - before[0]) * self.batch_size / (now - before[1])


def _check_finite(state: TrainState, snapshots: Snapshots) -> None:
    broken = int(jax.device_get(state.broken))
    if broken >= 0:
        last = snapshots.latest()
        kept = "no checkpoint was written before" if last is None else f"the checkpoint of step {last} is good"
        raise TrainingError(
            f"loss, gradient or update of step {broken + 1} is not finite; {kept}. Try a lower learning rate"
        )


def _parts_taught(skeleton: Skeleton, state: TrainState) -> dict[str, jax.Array]:
    """Whether any weight of each part that learns has had a gradient so far."""
    squares = optax.tree.get(state.moments, "nu")
    parts: dict[str, list[jax.Array]] = collections.defaultdict(list)
    for name, _, variable in skeleton.variables:
        learning = [squares[each].any() for each in skeleton.learning(name, variable.shape)]
        if learning:
            parts[part_of(variable) or "other"] += learning
    return {part: jnp.stack(seen).any() for part, seen in parts.items()}


def _check_taught(state: TrainState, taught: Callable[[TrainState], dict[str, jax.Array]]) -> None:
    untaught = [part for part, seen in jax.device_get(taught(state)).items() if not seen]
    if untaught:
        raise TrainingError(
            f"trainable names {', '.join(untaught)}, of which no weight has had a gradient: nothing in this run's "
            "data, prompts and losses teaches it"
        )


def _export(
    skeleton: Skeleton, state: TrainState, frozen: Any, mesh: Mesh, provenance: Provenance, result: Path
) -> None:
    """Writes the model, the refiner alone, or the adapters, as `load_model` reads them."""
    gather = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    params, frozen = gather(state.best_params), gather(frozen)
    if jax.process_index() == 0:
        local = jax.tree.map(lambda x: x.addressable_data(0), (params, frozen))
        if result.name == "adapters":
            save_adapters(Adapters(skeleton.scale, skeleton.config, local[0]), result)
            return
        model = skeleton.assemble(*local)
        model.provenance = provenance
        (save_refiner if result.name == "refiner" else save_model)(model, result)
