"""HQSeg-44K as a TFDS data set in ArrayRecord files, written and read without TensorFlow.

A hundred large files travel better than 88,640 small ones. Photos are stored as they were encoded and in
the order of their folders, so that a training run gets the same batches from either.
"""

import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm
from tyro.conf import Positional

from .folders import PairSource
from .hqseg44k import TRAINING_SETS, VALIDATION_SETS
from .masks import decode_mask
from .pictures import decode_photo, make_sample
from .sources import Sample, open_source, register_source

__all__ = ["HQSeg44K", "TFDSSource", "prepare"]

FEATURES = {"name", "image", "mask"}
INFO = "dataset_info.json"
EXAMPLES_PER_FILE = 500
EXAMPLES_AT_ONCE = 50


class HQSeg44K(tfds.core.GeneratorBasedBuilder):
    """HQSeg-44K: a split `train`, and `validation_SET` for each of HQ-SAM's validation sets that is there.

    Args:
      root: the folder of the release, see `open_hqseg44k`.
      sets: the training sets to take.
      **options: of every TFDS builder, `data_dir` above all.
    """

    name = "hqseg44k"
    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; to look for checksums, TFDS would import a package that it does not require.
    url_infos = None

    def __init__(self, root: str, sets: tuple[str, ...] = tuple(TRAINING_SETS), **options: Any):
        self._root = Path(root)
        self._sets = sets
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format="jpeg"),
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="44,320 images with fine masks, which HQ-SAM put together from seven data sets.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://github.com/SysCV/sam-hq",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        specs = {"train": f"hqseg44k:{self._root}?sets={','.join(self._sets)}"}
        for name, folders in VALIDATION_SETS.items():
            if (self._root / folders.images).is_dir():
                specs[f"validation_{name}"] = f"hqsam-val:{self._root}?set={name}"
        return {split: self._generate_examples(spec) for split, spec in specs.items()}

    def _generate_examples(self, spec: str) -> Iterator[tuple[int, dict[str, Any]]]:
        source = cast(PairSource, open_source(spec))
        with ThreadPoolExecutor() as threads:
            yield from enumerate(threads.map(partial(_example, source), range(len(source))))

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes the examples as they come: TFDS would gather them all first, which takes TensorFlow beyond 1 GB."""
        splits = self._split_generators(dl_manager)
        info = self._info()  # of the folder that everything is in until it is complete
        writer = tfds.core.SequentialWriter(info, EXAMPLES_PER_FILE, file_format="array_record")
        writer.initialize_splits(list(splits))
        for split, examples in splits.items():
            rest = iter(tqdm((example for _, example in examples), desc=split, unit=" images"))
            while chunk := list(itertools.islice(rest, EXAMPLES_AT_ONCE)):
                writer.add_examples({split: chunk})
        writer.close_all()
        self.info.set_splits(info.splits)


def _example(source: PairSource, index: int) -> dict[str, Any]:
    """What is stored of a pair, once both could be read: the photo's file as it is, and the mask as a grayscale PNG."""
    name, image, mask = source.pairs[index]
    values = source[index]["mask"]
    with Image.open(mask) as picture:
        as_it_is = picture.mode == "L" and np.array_equal(np.asarray(picture), values)
    if as_it_is:
        return {"name": name, "image": image, "mask": mask}
    encoded = io.BytesIO()
    Image.fromarray(values).save(encoded, "PNG")
    return {"name": name, "image": image, "mask": encoded.getvalue()}


@register_source("tfds")
class TFDSSource:
    """A split of the data set that `prepare` wrote, or of another TFDS data set in ArrayRecord with its features.

    Args:
      location: the folder that `prepare` was given, or the one in it that holds `dataset_info.json`.
      split: the split, such as "train", "validation_dis" or "train[:10%]".

    Raises:
      ValueError: if there is no such data set or split, or its features are others.
    """

    def __init__(self, location: str, split: str = "train"):
        self._folder = _dataset_folder(location)
        self._split = split
        try:
            self._length = len(self._records)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ValueError(f"the split {split!r} of {self._folder} cannot be read: {error}") from error

    @cached_property
    def _records(self) -> Any:
        builder = tfds.builder_from_directory(self._folder)
        if not {*builder.info.features} >= FEATURES:
            raise ValueError(
                f"its features must be {', '.join(sorted(FEATURES))}, got {', '.join(builder.info.features)}"
            )
        encoded = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
        return builder.as_data_source(self._split, decoders=encoded)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_records"}  # Each process opens its own.

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        record = self._records[index]
        name = f"{self._folder.name}/{record['name'].decode()}"
        image, mask = f"the image of {name}", f"the mask of {name}"
        return make_sample(decode_photo(record["image"], image), decode_mask(record["mask"], mask), image, mask)

    def name_of(self, index: int) -> str:
        return self._records[index]["name"].decode()


def prepare(root: Positional[Path], output: Positional[Path], sets: tuple[str, ...] = tuple(TRAINING_SETS)) -> None:
    """Write HQSeg-44K as a TFDS data set in ArrayRecord files, a hundred large files instead of 88,640 small ones.

    Every image and mask is read and checked; nothing is written if one is broken. The source `tfds:OUTPUT` reads it.

    Args:
      root: The folder of the release, which holds DIS5K, thin_object_detection and cascade_psp.
      output: The folder for the data set.
      sets: The training sets to take.
    """
    builder = HQSeg44K(str(root), sets, data_dir=output)
    if builder.data_path.exists():
        raise ValueError(f"output must be a folder without this data set, got {output}, which has {builder.data_path}")
    builder.download_and_prepare()
    for split, info in builder.info.splits.items():
        print(f"{split}: {info.num_examples} images in {info.num_shards} files, {info.num_bytes / 1e6:.1f} MB")
    print(f"written to {builder.data_path}; train with tfds:{output}")


def _dataset_folder(location: str) -> Path:
    """The folder with the data set's description: the one given, or NAME/VERSION in it."""
    found = [path for pattern in (INFO, f"*/*/{INFO}") for path in Path(location or "?").glob(pattern)]
    if len(found) != 1:
        raise ValueError(
            f"{location!r} must hold one TFDS data set, itself or as NAME/VERSION/{INFO}; it holds {len(found)}"
        )
    return found[0].parent
