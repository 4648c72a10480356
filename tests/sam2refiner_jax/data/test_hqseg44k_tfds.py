import pickle
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sam2refiner_jax.data import hqseg44k_tfds
from sam2refiner_jax.data.hqseg44k import TRAINING_SETS
from sam2refiner_jax.data.hqseg44k_tfds import HQSeg44K, prepare
from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.train.config import DataConfig
from sam2refiner_jax.train.data.pipeline import make_batches


@pytest.fixture(scope="module")
def release(hqseg44k, tmp_path_factory):
    """The release with masks of every form that it has or might have."""
    root = tmp_path_factory.mktemp("release") / "sam-hq"
    shutil.copytree(hqseg44k, root)
    masks = root / TRAINING_SETS["fss"].masks
    soft = np.asarray(Image.open(masks / "n0.png"))
    Image.fromarray(soft // 255 * 200 + soft // 5).save(masks / "n0.png")
    Image.fromarray(np.stack([soft] * 3, -1)).save(masks / "n1.png")
    Image.fromarray(soft // 255).save(masks / "n2.png")
    return root


@pytest.fixture(scope="module")
def written(release, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hqseg44k_tfds, "EXAMPLES_PER_FILE", 8)  # so that a split has several files
        patch.setattr(hqseg44k_tfds, "EXAMPLES_AT_ONCE", 3)
        output = tmp_path_factory.mktemp("tfds")
        prepare(release, output)
    return output


def test_round_trip(release, written):
    assert "tensorflow" not in sys.modules
    folders, records = open_source(f"hqseg44k:{release}"), open_source(f"tfds:{written}")
    assert len(list(written.glob("hqseg44k/1.0.0/hqseg44k-train.array_record-*"))) == 3
    copy = pickle.loads(pickle.dumps(records))
    assert len(folders) == len(records) == len(copy) == 21
    for index in range(21):
        assert folders.name_of(index) == records.name_of(index)
        expected = folders[index]
        for sample in (records[index], copy[index]):
            np.testing.assert_array_equal(sample["image"], expected["image"])
            np.testing.assert_array_equal(sample["mask"], expected["mask"])


def test_same_batches(release, written):
    sources = [open_source(f"hqseg44k:{release}"), open_source(f"tfds:{written}/hqseg44k/1.0.0")]
    options = {"image_size": 32, "batch_size": 6, "seed": 1, "config": DataConfig()}
    first, second = (next(make_batches([(source, 1.0)], **options)) for source in sources)
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(first["mask"], second["mask"])


def test_tfds_itself_reads_it(release, written):
    """Its own decoder, without any of our code: the photos to within what JPEG decoders differ, the masks exactly."""
    records = tfds.builder_from_directory(written / "hqseg44k" / "1.0.0").as_data_source("train")
    folders = open_source(f"hqseg44k:{release}")
    for index in range(21):
        record, expected = records[index], folders[index]
        assert record["name"].decode() == folders.name_of(index)
        np.testing.assert_array_equal(record["mask"][..., 0], expected["mask"])
        np.testing.assert_allclose(record["image"].astype(int), expected["image"], atol=2)


def test_splits(release, written):
    validation = open_source(f"tfds:{written}?split=validation_dis")
    expected = open_source(f"hqsam-val:{release}?set=dis")
    assert [validation.name_of(i) for i in range(len(validation))] == [expected.name_of(i) for i in range(3)]
    assert len(open_source(f"tfds:{written}?split=train[:10]")) == 10
    with pytest.raises(ValueError, match=r"the split 'test' of .*1.0.0 cannot be read: Unknown split 'test'"):
        open_source(f"tfds:{written}?split=test")
    with pytest.raises(ValueError, match="must hold one TFDS data set, itself or as NAME/VERSION"):
        open_source(f"tfds:{release}")


def test_other_features_are_refused(tmp_path):
    class Numbers(tfds.core.GeneratorBasedBuilder):
        name = "numbers"
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"number": np.int64}))

        def _split_generators(self, dl_manager):
            return {"train": iter([(0, {"number": 3})])}

        def _generate_examples(self):
            raise NotImplementedError

    Numbers(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(ValueError, match="its features must be image, mask, name, got number"):
        open_source(f"tfds:{tmp_path}")


def test_chosen_sets_and_a_second_time(release, written, tmp_path):
    prepare(release, tmp_path, sets=("ecssd", "dis"))
    assert [open_source(f"tfds:{tmp_path}").name_of(index) for index in (0, 5)] == ["ecssd/n0", "dis/n2"]
    with pytest.raises(ValueError, match="output must be a folder without this data set"):
        prepare(release, written)


def test_nothing_is_left_of_a_broken_release(hqseg44k, tmp_path):
    root = shutil.copytree(hqseg44k, tmp_path / "broken")
    mask = root / TRAINING_SETS["msra"].masks / "n2.png"
    Image.new("L", (60, 56)).save(mask)
    with pytest.raises(ValueError, match=rf"{mask} is empty"):
        prepare(root, tmp_path / "out")
    mask.unlink()
    with pytest.raises(ValueError, match=rf"n2.jpg has no mask: expected {mask}"):
        prepare(root, tmp_path / "out")
    assert not list((tmp_path / "out").glob("hqseg44k/*"))


def test_the_builder_is_one_of_tfds(release, tmp_path):
    builder = HQSeg44K(str(release), ("dis",), data_dir=tmp_path)
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == 3
    np.testing.assert_array_equal(
        builder.as_data_source("train")[1]["mask"][..., 0], open_source(f"hqseg44k:{release}")[1]["mask"]
    )
