"""How many images and clips a second a core of the host reads, augments and batches, and what parts of that cost.

    taskset -c 0 python benchmarks/data.py ../shared/data

The folder holds `bsds500`, whose photos are as large as most of HQSeg-44K's, `davis2016`, and `photos`, of which the
large ones get masks of ellipses. All times are of the processor, of all threads together, so that other programs on the
machine hardly matter.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import tyro
from tyro.conf import Positional

from sam2refiner_jax.data.pictures import decode_photo
from sam2refiner_jax.data.sources import Source, open_source
from sam2refiner_jax.image.preprocess import read_photo
from sam2refiner_jax.train.config import DataConfig
from sam2refiner_jax.train.data.augment import augment, squeeze
from sam2refiner_jax.train.data.pipeline import make_batches
from sam2refiner_jax.train.recipes import RECIPES

WARM_UP = 2
SAMPLES = 20


def main(data: Positional[Path], image_size: int = 1024, batch_size: int = 8, batches: int = 12) -> None:
    """Prints tables of milliseconds and images a second, of reading photos, and of clips a second.

    Args:
      data: The folder that holds `bsds500`, `davis2016` and `photos`.
      image_size: Side of the images in the batches.
      batch_size: Images in a batch.
      batches: Batches that count, after two that do not.
    """
    print(f"{image_size} x {image_size} pixels; milliseconds of one core; images a second and core")
    print("| source | read | squeeze | flip, jitter | images/s squeezed | images/s flipped, jittered |")
    print("|---|---|---|---|---|---|")
    with ellipses(data / "photos") as photos:
        places = {
            "481 x 321, regions": f"regions:{data / 'bsds500'}?split=val",
            "854 x 480, frames": f"davis:{data / 'davis2016'}?every=10",
            "1800 x 1200 and 2250 x 1500": f"folder:{photos}",
        }
        for name, spec in places.items():
            source = open_source(spec)
            rates = [
                rate(source, config, image_size, batch_size, batches)
                for config in (DataConfig(flip=False, jitter=None), DataConfig())
            ]
            cells = [f"{value:.1f}" for value in parts(source, image_size)] + [f"{value:.0f}" for value in rates]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| photo | milliseconds to decode, as the pipeline does | with `read_photo` |\n|---|---|---|")
    for path in [
        next((data / "davis2016").glob("JPEGImages/480p/*/00000.jpg")),
        *sorted((data / "photos").glob("*.jpg")),
    ]:
        ours = milliseconds(lambda path: decode_photo(path.read_bytes(), path), [path] * SAMPLES)
        print(f"| {path.name} | {ours:.1f} | {milliseconds(read_photo, [path] * SAMPLES):.1f} |")
    print("\n| clips of 8 frames, 3 objects | clips/s as `sav` augments | clips/s flipped, jittered |\n|---|---|---|")
    for name, spec in {
        "854 x 480": f"clips:{data / 'davis2016'}",
        "made up, 320 x 320": "procedural-clips:?size=320",
    }.items():
        source = open_source(spec)
        rates = [
            rate(source, dataclasses.replace(config, frames=8, objects=3, workers=0), image_size, 1, batches)
            for config in (RECIPES["sav"].config.data, DataConfig())
        ]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in rates)} |", flush=True)


def parts(source: Source, size: int) -> list[float]:
    """Milliseconds to read a sample, to squeeze it, and to flip and jitter it."""
    indices = [len(source) * part // SAMPLES for part in range(SAMPLES)]
    samples = [source[index] for index in indices]
    rng = np.random.default_rng(0)
    return [
        milliseconds(source.__getitem__, indices),
        milliseconds(lambda sample: squeeze(sample, size), samples),
        milliseconds(lambda sample: augment(sample, size, DataConfig(), rng), samples * 5),
    ]


def milliseconds(call: Callable, arguments: Iterable) -> float:
    arguments = list(arguments)
    call(arguments[0])
    start = time.process_time()
    for argument in arguments:
        call(argument)
    return 1e3 * (time.process_time() - start) / len(arguments)


def rate(source: Source, config: DataConfig, size: int, batch_size: int, batches: int) -> float:
    """Images, or clips, a second of processor time."""
    stream = make_batches([(source, 1.0)], config, image_size=size, batch_size=batch_size, seed=0)
    for _ in range(WARM_UP):
        next(stream)
    start = time.process_time()
    for _ in range(batches):
        next(stream)
    seconds = time.process_time() - start
    stream.close()
    return batches * batch_size / seconds


@contextmanager
def ellipses(photos: Path) -> Iterator[Path]:
    """A folder of the photos of 2 megapixels and more, each with a mask."""
    with tempfile.TemporaryDirectory() as folder:
        images, masks = Path(folder) / "images", Path(folder) / "masks"
        images.mkdir()
        masks.mkdir()
        for path in sorted(photos.glob("*.jpg")):
            height, width = read_photo(path).shape[:2]
            if height * width < 2e6:
                continue
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, (width // 2, height // 2), (width // 4, height // 3), 20, 0, 360, 255, -1)
            cv2.imwrite(str(masks / f"{path.stem}.png"), mask)
            (images / path.name).symlink_to(path.resolve())
        yield Path(folder)


if __name__ == "__main__":
    tyro.cli(main)
