"""Times us and the official PyTorch package side by side: image encoder, mask decoder, whole set_image + predict.

    python benchmarks/image.py --models sam2.1_hiera_t sam2.1_hiera_l --rounds 5

Both sides run in one process and in turns, so that a machine whose speed drifts still gives a fair ratio. Peak memory
is measured in a process of its own for each side, which needs Linux.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import torch

REFERENCE = str(Path(__file__).parents[1] / "tests" / "reference")
sys.path.insert(0, REFERENCE)
from official import build_official, official_image_predictor, ours_like

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.convert import convert_checkpoint
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import decode_prompts
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts

PHOTO = np.random.default_rng(0).integers(0, 255, (1200, 1800, 3), np.uint8)
PROMPTS = {"point_coords": np.array([[500.0, 375.0]]), "point_labels": np.array([1])}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each side took in each round; in a round all sides run, one after the other."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            times[side].append(seconds(run))
    return times


def compare(ours: Callable[[], object], official: Callable[[], object], rounds: int) -> dict[str, float]:
    """Medians of both sides, run in turns after one warm-up each, and the median of the pairs' ratios."""
    ours(), official()
    times = in_turns({"ours": ours, "official": official}, rounds)
    ratios = [a / b for a, b in zip(times["ours"], times["official"], strict=True)]
    return {side: statistics.median(of_side) for side, of_side in times.items()} | {"ratio": statistics.median(ratios)}


def measure(name: str, rounds: int) -> dict[str, dict[str, float]]:
    official = build_official(name)
    model = ours_like(official)
    theirs, ours = official_image_predictor(official), SAM2ImagePredictor(model)
    theirs.set_image(PHOTO)
    ours.set_image(PHOTO)

    pixels = theirs._transforms(PHOTO)[None]
    image = np.ascontiguousarray(pixels.numpy().transpose(0, 2, 3, 1))
    prompts = read_prompts(**PROMPTS, box=None, mask_input=None, photo_size=PHOTO.shape[:2], image_size=1024)
    packed = pack_prompts([prompts], model.config.mask_size)
    index = np.zeros(1, np.int32)
    points = (torch.from_numpy(prompts.points[:, :1]), torch.from_numpy(prompts.labels[:, :1]))

    def predict(predictor):
        predictor.set_image(PHOTO)
        return predictor.predict(**PROMPTS)

    with torch.no_grad():
        return {
            "encoder": compare(lambda: encode_photos(model, image), lambda: official.forward_image(pixels), rounds),
            "decoder": compare(
                lambda: decode_prompts(model, ours._photos, index, packed),
                lambda: theirs._predict(*points, return_logits=True),
                4 * rounds,
            ),
            "set_image + predict": compare(lambda: predict(ours), lambda: predict(theirs), rounds),
        }


# Each side in a process that imports nothing of the other.
PREDICT_TWICE = """
import re, sys
from pathlib import Path
import numpy as np
{make_predictor}
photo = np.random.default_rng(0).integers(0, 255, (1200, 1800, 3), np.uint8)
for _ in range(2):
    predictor.set_image(photo)
    predictor.predict(point_coords=np.array([[500.0, 375.0]]), point_labels=np.array([1]))
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""
MAKE_OURS = """
from sam2refiner_jax import SAM2ImagePredictor, load_model
predictor = SAM2ImagePredictor(load_model(sys.argv[2]))
"""
MAKE_OFFICIAL = f"""
sys.path.insert(0, {REFERENCE!r})
from official import build_official, official_image_predictor
predictor = official_image_predictor(build_official(sys.argv[1], checkpoint=sys.argv[2]))
"""


def peak_memory(name: str, folder: Path) -> tuple[float, float]:
    """Peak resident memory, in GiB, of a process each that loads a checkpoint and predicts twice: ours, official."""
    torch.save({"model": build_official(name).state_dict()}, folder / "official.pt")
    convert_checkpoint(folder / "official.pt", folder / "ours")
    peaks = []
    for make_predictor, checkpoint in ((MAKE_OURS, "ours"), (MAKE_OFFICIAL, "official.pt")):
        program = PREDICT_TWICE.format(make_predictor=make_predictor)
        command = [sys.executable, "-c", program, name, str(folder / checkpoint)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout.splitlines()[-1]) / 2**20)
    return peaks[0], peaks[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sam2.1_hiera_t", "sam2.1_hiera_l"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}, float32, batch 1\n")
    print("| model | what | ours | official | ratio |\n|---|---|---|---|---|")
    for name in arguments.models:
        for what, figures in measure(name, arguments.rounds).items():
            print(
                f"| {name} | {what} | {figures['ours']:.3f} s | {figures['official']:.3f} s | {figures['ratio']:.2f} |"
            )
        with tempfile.TemporaryDirectory() as folder:
            ours, official = peak_memory(name, Path(folder))
        print(f"| {name} | peak memory | {ours:.2f} GiB | {official:.2f} GiB | {ours / official:.2f} |", flush=True)


if __name__ == "__main__":
    main()
