r"""Everything on one card beside official PyTorch, plain and compiled (`vos_optimized`), with the same random weights.

    python benchmarks/gpu.py --name sam2.1_hiera_l
    python benchmarks/gpu.py --name sam2.1_hiera_t --device cpu --no-compiled --dtypes float32 --image-size 256 \
        --frames 4 --rounds 1 --matmul 512 --train-batch 1    # whether it works, without a card

All sides run in one process and in turns, round by round: a ratio is the median of the rounds' ratios. The card's peak
is that of the fastest large product of matrices, measured in the same run; FLOPs are XLA's count before optimisation.
Float32 is full precision on all sides, TF32 off; in bfloat16 the official side runs under autocast with TF32 on, as in
its own benchmark. What a side cannot run is said in the tables, which are written anew after every row.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # or JAX would take most of the card, which PyTorch needs too

import jax
import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from gpu_report import Parity, Report, Row, describe_machine
from gpu_rows import DType, Models, click, encoder, peak, photo, track, training
from official import build_official, official_image_predictor, ours_like
from parity import Outcome, distances, outcome
from videos import moving_frames, randomise_predictor, write_jpegs

from sam2refiner_jax import SAM2ImagePredictor

TIMES = "Times and ratios are medians of the rounds; below 1, ours is faster. Shares of the peak are ours, then theirs."
NO_TRAINING = "The official package has no training and no refiner, so nothing stands beside our training step."
ON_CPU = "This ran on a CPU, to see whether everything works: its times say nothing of a card."
NOT_COMPILED = "The compiled official predictor (vos_optimized) was left out: --no-compiled."


def main(
    name: str = "sam2.1_hiera_l",
    device: Literal["cuda", "cpu"] = "cuda",
    image_size: int = 1024,
    dtypes: tuple[DType, ...] = ("float32", "bfloat16"),
    batches: tuple[int, ...] = (1, 8),
    objects: tuple[int, ...] = (1, 4),
    frames: int = 40,
    rounds: int = 20,
    train_batch: int = 8,
    matmul: int = 8192,
    compiled: bool = True,
    output: Path = Path("out/benchmark-gpu"),
) -> None:
    """Writes NAME.md and NAME.json, and prints the former.

    Args:
      name: The model.
      device: What both frameworks compute on; cpu shows whether everything works.
      image_size: Side of the input in pixels.
      dtypes: Types to compute in.
      batches: Images at a time of the encoder.
      objects: Numbers of objects to track.
      frames: Of the clip that is tracked; those from the seventeenth on count, or the last half of a shorter clip.
      rounds: How often everything else is timed.
      train_batch: Images a step.
      matmul: Side of the matrices whose product gives the card's peak.
      compiled: Also beside vos_optimized, which compiles for minutes.
      output: The folder to write to.
    """
    asked = {key: value for key, value in locals().items() if key != "output"}
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("device must be one that PyTorch sees: there is no CUDA card here, or this PyTorch has no CUDA")
    jax.config.update("jax_platforms", "cuda,cpu" if device == "cuda" else "cpu")
    remarks = [TIMES, NO_TRAINING, *([] if compiled else [NOT_COMPILED]), *([ON_CPU] if device == "cpu" else [])]
    report = Report(asked, describe_machine(device), remarks=remarks)

    official = randomise_predictor(build_official(name, video=True, image_size=image_size))
    ours = {dtype: ours_like(official, dtype=dtype, image_size=image_size) for dtype in ("float32", "bfloat16")}
    official.to(device)
    view = moving_frames(1, 1200, 1800)[0]
    with pytorch_settings("float32", device):
        results = {("official", "float32"): outcome(official_image_predictor(official), view)}

    def add(row: Row | Parity) -> None:
        report.add(row)
        report.save(output, name)
        print(row, file=sys.stderr, flush=True)

    for dtype in dtypes:
        sides = {"official": official}
        if compiled:
            sides["vos_optimized"] = compiled_like(official, name, image_size, device)
        with tempfile.TemporaryDirectory() as folder, pytorch_settings(dtype, device):
            add(peak(matmul, dtype, device, rounds))
            results["ours", dtype] = outcome(SAM2ImagePredictor(ours[dtype]), view)
            results["official", dtype] = outcome(official_image_predictor(official), view)
            for equality in parity_rows(results, dtype):
                add(equality)
            models = Models(ours[dtype], ours["float32"], sides, dtype, device, rounds)
            clip = write_jpegs(Path(folder), moving_frames(frames, 480, 854))
            for row in rows_of(models, clip, batches, objects):
                add(row)
    for dtype in dtypes:
        add(training(name, image_size, dtype, train_batch, rounds))
    print(report.markdown())
    sys.exit("some sides failed, see above" if report.failed else 0)


def compiled_like(official: torch.nn.Module, name: str, image_size: int, device: str) -> torch.nn.Module:
    """The official predictor with its parts compiled and the weights of one that is not."""
    compiled = build_official(name, video=True, vos_optimized=True, image_size=image_size)
    compiled.load_state_dict(official.state_dict())
    compiled.fill_hole_area = official.fill_hole_area
    return compiled.to(device)


def rows_of(models: Models, clip: Path, batches: tuple[int, ...], objects: tuple[int, ...]) -> Iterator[Row | Parity]:
    """What is timed beside the official package in one type."""
    for batch in batches:
        yield encoder(models, batch)
    yield click(models)
    yield photo(models)
    for count in objects:
        row, equality = track(models, clip, count)
        yield row
        if equality is not None:
            yield equality


def parity_rows(results: dict[tuple[str, DType], Outcome], dtype: DType) -> Iterator[Parity]:
    """Ours beside official in a type; for bfloat16 also each beside official float32, which both round."""
    exact = ("official", "float32")
    pairs = [(("ours", dtype), ("official", dtype))]
    if dtype != "float32":
        pairs += [(("ours", dtype), exact), (("official", dtype), exact)]
    for one, other in pairs:
        covered = float(np.mean([masks.mean() for *_, masks in results[other].predictions]))
        label = f"{one[1]}: {one[0]} and {other[0]}" + (f" {other[1]}" if other[1] != one[1] else "") + ", a photo"
        yield Parity(label, *distances(results[one], results[other]), covered)


@contextlib.contextmanager
def pytorch_settings(dtype: DType, device: str) -> Iterator[None]:
    """As the official benchmark sets PyTorch for bfloat16; for float32, products of full precision."""
    fast = dtype == "bfloat16"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=fast):
        yield


if __name__ == "__main__":
    tyro.cli(main)
