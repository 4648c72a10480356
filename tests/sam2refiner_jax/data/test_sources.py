import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from sam2refiner_jax.data.hqseg44k import TRAINING_SETS, VALIDATION_SETS
from sam2refiner_jax.data.sources import FACTORIES, Source, find_source, open_source, register_source


def assert_pair(sample, image, mask):
    np.testing.assert_array_equal(sample["image"], np.asarray(Image.open(image).convert("RGB")))
    np.testing.assert_array_equal(sample["mask"], np.asarray(Image.open(mask)))


def test_subfolders(pair_folder):
    source = open_source(f"folder:{pair_folder}")
    assert isinstance(source, Source)
    assert len(source) == 8
    assert source.name_of(3) == "3"
    assert_pair(source[3], pair_folder / "images" / "3.jpg", pair_folder / "masks" / "3.png")
    assert_pair(
        pickle.loads(pickle.dumps(source))[7], pair_folder / "images" / "7.jpg", pair_folder / "masks" / "7.png"
    )


def test_images_beside_masks(tmp_path, write_pair):
    pairs = [write_pair(tmp_path / f"{name}.JPG", tmp_path / f"{name}.png", seed) for seed, name in enumerate("ab")]
    (tmp_path / "._a.jpg").write_bytes(b"left behind by a file manager")
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(f"folder:{tmp_path}")
    assert len(source) == 2
    assert_pair(source[1], *pairs[1])


def test_folder_of_another_layout(tmp_path, write_pair):
    write_pair(tmp_path / "a.tif", tmp_path / "photos" / "a.png", 0)
    with pytest.raises(
        ValueError, match=r"images and masks.*NAME.jpg beside NAME.png; found 0 .jpg, 0 .png, 1 other.*photos"
    ):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="got '/nowhere', which is none"):
        open_source("folder:/nowhere")


def test_missing_and_superfluous_files_are_named(pair_folder):
    (pair_folder / "masks" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"images/2.jpg has no mask: expected .*masks/2.png$"):
        open_source(f"folder:{pair_folder}")
    (pair_folder / "masks" / "5.png").unlink()
    (pair_folder / "images" / "7.jpg").unlink()
    with pytest.raises(ValueError, match=r"images/2.jpg has no mask.* \(and 1 more; `sam2refiner data check"):
        open_source(f"folder:{pair_folder}")
    source = find_source(f"folder:{pair_folder}")
    assert len(source) == 5
    assert "images/5.jpg" in source.problems[1]
    assert "masks/7.png is left aside" in source.notes[0]
    shutil.copy(pair_folder / "images" / "1.jpg", pair_folder / "images" / "1.jpeg")
    assert any("images of one name" in problem for problem in find_source(f"folder:{pair_folder}").problems)


def test_no_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=f"at least one sample, folder:{tmp_path} holds none"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/some/folder", "KIND:LOCATION, where KIND is one of clips, davis, folder"),
        ("zip:/some/file", "got 'zip:/some/file'"),
        ("davis:DIR?step=5", "options must be among clips, exclude, every, resolution, got 'step'"),
        ("davis:DIR?every=often", "every must be an integer, got 'often'"),
        ("regions:DIR?min_area=small", "min_area must be a number, got 'small'"),
        ("davis:DIR?every", "every must be an integer, got ''"),
        ("davis:DIR?every=0", "every must be at least 1, got 0"),
        ("regions:DIR?min_area=0.7", "must be shares in order, got 0.7 and 0.6"),
        ("regions:DIR?every=0", "every must be at least 1, got 0"),
        ("hqsam-val:DIR", "the option set must be given"),
        ("hqsam-val:DIR?set=coco", "a set must be one of dis, coift, hrsod, thin, got 'coco'"),
    ],
)
def test_wrong_specifications(tmp_path, spec, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec.replace("DIR", str(tmp_path)))


def test_somebody_elses_kind():
    class Flat:
        def __init__(
            self, location: str, value: int, names: tuple[str, ...] = (), bright: bool = False, top: float | None = None
        ):
            self.options = location, value, names, bright, top

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"image": np.zeros((4, 4, 3), np.uint8), "mask": np.full((4, 4), 255, np.uint8)}

        def name_of(self, index):
            return "flat"

    register_source("flat")(Flat)
    try:
        opened = open_source("flat:there?value=3&names=a,b&bright=true&top=0.5")
        assert opened.options == ("there", 3, ("a", "b"), True, 0.5)
        with pytest.raises(ValueError, match="bright must be true or false, got '1'"):
            open_source("flat:?value=3&bright=1")
        with pytest.raises(ValueError, match="kind must be a new name, got 'flat'"):
            register_source("flat")
    finally:
        del FACTORIES["flat"]


def test_hqseg44k(hqseg44k):
    source = open_source(f"hqseg44k:{hqseg44k}")
    assert len(source) == 21
    assert [source.name_of(i) for i in (0, 5, 20)] == ["dis/n0", "thin/n2", "msra/n2"]
    folders = TRAINING_SETS["thin"]
    assert_pair(source[5], hqseg44k / folders.images / "n2.jpg", hqseg44k / folders.masks / "n2.png")
    assert len(open_source(f"hqseg44k:{hqseg44k}?sets=dis,ecssd")) == 6
    validation = open_source(f"hqsam-val:{hqseg44k}?set=dis")
    folders = VALIDATION_SETS["dis"]
    assert_pair(validation[1], hqseg44k / folders.images / "n1.jpg", hqseg44k / folders.masks / "n1.png")
    with pytest.raises(ValueError, match=r"the set hrsod must be in the folder .*HRSOD/images, which does not exist"):
        open_source(f"hqsam-val:{hqseg44k}?set=hrsod")


def test_regions(tmp_path, write_pair):
    image, _ = write_pair(
        tmp_path / "images" / "train" / "12.jpg", tmp_path / "unused.png", seed=0, height=50, width=80
    )
    numbers = np.zeros((50, 80), np.uint16)  # 0 is no region
    numbers[:20, :50], numbers[20:40, :50], numbers[0, 60:69], numbers[40:, :] = 1, 300, 2, 3
    (tmp_path / "regions" / "train").mkdir(parents=True)
    for annotator in "01":
        Image.fromarray(numbers).save(tmp_path / "regions" / "train" / f"12_{annotator}.png")
    source = open_source(f"regions:{tmp_path}")
    assert [source.name_of(i) for i in range(len(source))] == [
        f"train/12_{annotator} region {number}" for annotator in "01" for number in (1, 3, 300)
    ]
    np.testing.assert_array_equal(source[5]["mask"], np.where(numbers == 300, 255, 0))
    np.testing.assert_array_equal(source[5]["image"], np.asarray(Image.open(image)))
    assert len(open_source(f"regions:{tmp_path}?split=train&min_area=0.0001&max_area=0.2")) == 4
    sample = source.several(4, 3)  # regions 3, 1 and 300 of annotator 1
    np.testing.assert_array_equal(sample["image"], np.asarray(Image.open(image)))
    np.testing.assert_array_equal(sample["mask"][..., 0], np.where(numbers == 3, 255, 0))
    others = {int(numbers[sample["mask"][..., i] > 0][0]): sample["mask"][..., i] for i in (1, 2)}
    for number in (1, 300):
        np.testing.assert_array_equal(others[number], np.where(numbers == number, 255, 0))
    assert source.several(4, 8)["mask"].shape == (50, 80, 3)
    assert source.several(4, 2)["mask"].shape == (50, 80, 2)
    every_other = open_source(f"regions:{tmp_path}?every=2")
    assert [every_other.name_of(i) for i in range(len(every_other))] == [
        source.name_of(i) for i in range(0, len(source), 2)
    ]

    (tmp_path / "regions" / "train" / "12_1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"12_1.png is not a readable picture: empty file"):
        open_source(f"regions:{tmp_path}")
    Image.fromarray(numbers[:, :70]).save(tmp_path / "regions" / "train" / "12_1.png")
    with pytest.raises(ValueError, match=r"12_1.png must be as large as its image.* it is 70 x 50, not 80 x 50"):
        open_source(f"regions:{tmp_path}")[4]
    image.rename(image.with_name("13.jpg"))
    problems = find_source(f"regions:{tmp_path}").problems
    assert "13.jpg has no region map: expected" in problems[0]
    assert "12_0.png has no image: expected" in problems[1]
    with pytest.raises(ValueError, match=r"13.jpg has no region map: expected .*13_ANNOTATOR.png \(and 2 more"):
        open_source(f"regions:{tmp_path}")
    with pytest.raises(ValueError, match="images/val', which is none"):
        open_source(f"regions:{tmp_path}?split=val")
    shutil.rmtree(tmp_path / "regions")
    with pytest.raises(ValueError, match="must hold the subfolders images and either of regions and groundTruth"):
        open_source(f"regions:{tmp_path}")


def test_regions_in_colour(tmp_path, write_pair):
    write_pair(tmp_path / "images" / "train" / "12.jpg", tmp_path / "unused.png", seed=0, height=50, width=80)
    numbers = np.arange(4).reshape(2, 2).repeat(25, 0).repeat(40, 1)
    (tmp_path / "regions" / "train").mkdir(parents=True)
    colours = np.array([(0, 0, 0), (200, 30, 30), (30, 200, 30), (200, 30, 30)], np.uint8)
    Image.fromarray(colours[numbers]).save(tmp_path / "regions" / "train" / "12_0.png")
    source = open_source(f"regions:{tmp_path}")
    masks = [source[index]["mask"] for index in range(len(source))]
    assert len(masks) == 2
    for mask, region in zip(masks, (numbers == 2, numbers % 2 == 1), strict=True):
        np.testing.assert_array_equal(mask, region * 255)


def test_regions_of_the_bsds500_release(tmp_path, write_pair):
    write_pair(tmp_path / "images" / "train" / "12.jpg", tmp_path / "unused.png", seed=0, height=50, width=80)
    maps = np.random.default_rng(0).integers(1, 4, (2, 5, 8), np.uint16).repeat(10, 1).repeat(10, 2)
    pictures, release = tmp_path / "regions" / "train", tmp_path / "groundTruth" / "train"
    pictures.mkdir(parents=True)
    for annotator, numbers in enumerate(maps):
        Image.fromarray(numbers).save(pictures / f"12_{annotator}.png")
    expected = open_source(f"regions:{tmp_path}")
    wanted = [(expected.name_of(i), expected.several(i, 3)) for i in range(len(expected))]
    assert len({name for name, _ in wanted}) == 6
    shutil.rmtree(tmp_path / "regions")

    # The release's files: a row of cells, each a structure with the annotator's regions and boundaries.
    release.mkdir(parents=True)
    cells = np.empty((1, 2), object)
    for annotator, numbers in enumerate(maps):
        # MATLAB's own numbers are doubles.
        kept = numbers.astype(np.float64) if annotator else numbers
        cells[0, annotator] = {"Segmentation": kept, "Boundaries": np.zeros((50, 80), np.uint8)}
    scipy.io.savemat(release / "12.mat", {"groundTruth": cells})
    source = open_source(f"regions:{tmp_path}")
    assert [source.name_of(i) for i in range(len(source))] == [name for name, _ in wanted]
    for index, (_, sample) in enumerate(wanted):
        for key in ("image", "mask"):
            np.testing.assert_array_equal(source.several(index, 3)[key], sample[key])

    for broken in (b"", b"no MATLAB file", (release / "12.mat").read_bytes()[:200]):
        (release / "12.mat").write_bytes(broken)
        with pytest.raises(ValueError, match=r"12.mat is not a file of BSDS500's region maps"):
            open_source(f"regions:{tmp_path}")
    for wrong in (maps[0] + 0.5, maps[0] * np.nan, maps[0].astype(np.int32) - 4, maps):
        cells[0, 0]["Segmentation"] = wrong
        scipy.io.savemat(release / "12.mat", {"groundTruth": cells})
        with pytest.raises(ValueError, match=r"12.mat is not .* maps: expected whole numbers from 0 to 65535"):
            open_source(f"regions:{tmp_path}")
    scipy.io.savemat(release / "12.mat", {"other": maps})
    with pytest.raises(ValueError, match=r"12.mat is not a file of BSDS500's region maps"):
        open_source(f"regions:{tmp_path}")
    (release / "12.mat").unlink()
    with pytest.raises(ValueError, match=r"12.jpg has no region map: expected .*groundTruth/train/12.mat"):
        open_source(f"regions:{tmp_path}")


@pytest.fixture
def clips(tmp_path, write_pair):
    """Three clips of four frames: `bear` in black and white, `camel` with two objects, `dog` seen in its last one."""
    for clip in ("bear", "camel", "dog"):
        for frame in range(4):
            name = f"480p/{clip}/{frame:05}"
            image, mask = tmp_path / "JPEGImages" / f"{name}.jpg", tmp_path / "Annotations" / f"{name}.png"
            write_pair(image, mask, seed=frame)
            numbers = np.asarray(Image.open(mask)).copy()
            if clip == "camel":
                numbers[numbers > 0], numbers[:5, :5] = 1, 2
                numbers = numbers * (frame != 2)
            elif clip == "dog":
                numbers *= frame == 3
            Image.fromarray(numbers).save(mask)
    return tmp_path


def test_clips(clips):
    source = open_source(f"davis:{clips}")
    assert [source.name_of(i) for i in range(len(source))] == [
        *(f"bear/{frame:05} object 255" for frame in range(4)),
        *(f"camel/{frame:05} object {number}" for frame in (0, 1, 3) for number in (1, 2)),
        "dog/00003 object 255",
    ]
    mask = source[5]["mask"]
    np.testing.assert_array_equal(mask[:5, :5], 255)
    assert mask.sum() == 25 * 255
    frame = Image.open(clips / "JPEGImages/480p/camel/00000.jpg")
    np.testing.assert_array_equal(source[5]["image"], np.asarray(frame))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("clips=bear", ["bear/00000", "bear/00001", "bear/00002", "bear/00003"]),
        ("clips=dog,bear&every=3", ["bear/00000", "bear/00003", "dog/00003"]),
        ("exclude=camel,dog&every=2", ["bear/00000", "bear/00002"]),
    ],
)
def test_choice_of_clips_and_frames(clips, options, expected):
    source = open_source(f"davis:{clips}?{options}")
    assert [source.name_of(i).split()[0] for i in range(len(source))] == expected


def test_void_is_no_object_where_a_clip_has_others(clips):
    before = [source.name_of(i) for source in [open_source(f"davis:{clips}")] for i in range(len(source))]
    for path in sorted((clips / "Annotations/480p/camel").iterdir()):  # in the third frame there is nothing else
        numbers = np.asarray(Image.open(path)).copy()
        numbers[-5:] = 255
        Image.fromarray(numbers).save(path)
    source = open_source(f"davis:{clips}")
    assert [source.name_of(i) for i in range(len(source))] == before


def test_capitals_count_and_what_is_hidden_does_not(clips, write_pair):
    before = len(open_source(f"davis:{clips}"))
    for path in sorted(clips.rglob("00001.*")):
        path.rename(path.with_suffix(path.suffix.upper()))
        path.with_name(f"._{path.name}").write_bytes(b"left behind by a file manager")
    for kind in ("JPEGImages", "Annotations"):
        (clips / kind / "480p" / ".ipynb_checkpoints").mkdir()
    assert len(open_source(f"davis:{clips}")) == before
    regions = clips / "regions" / "Train"
    write_pair(clips / "images" / "Train" / "a.JPG", regions / "a_0.PNG", seed=0)
    (clips / "images" / ".ipynb_checkpoints").mkdir()
    (regions / "._a_0.png").write_bytes(b"")
    assert len(open_source(f"regions:{clips}")) == 1


def test_bad_clips(clips):
    with pytest.raises(ValueError, match=r"must name clips in .*480p, got cat"):
        open_source(f"davis:{clips}?clips=bear,cat")
    with pytest.raises(ValueError, match=r"there is no .*JPEGImages/1080p"):
        open_source(f"davis:{clips}?resolution=1080p")
    annotations = clips / "Annotations" / "480p" / "bear"
    Image.new("L", (60, 41), 255).save(annotations / "00001.png")
    with pytest.raises(ValueError, match=r"00001.png must be as large as its image"):
        open_source(f"davis:{clips}")[1]
    (annotations / "00001.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"00001.png is not a readable picture"):
        open_source(f"davis:{clips}")
    (annotations / "00001.png").unlink()
    with pytest.raises(ValueError, match=r"00001.jpg has no mask: expected .*bear/00001.png"):
        open_source(f"davis:{clips}")
    with pytest.raises(ValueError, match="holds none"):
        open_source(f"davis:{clips}?clips=dog&every=4")


def test_layout_without_a_resolution(clips):
    for folder in ("JPEGImages", "Annotations"):
        shutil.move(clips / folder / "480p", clips / "moved")
        shutil.rmtree(clips / folder)
        shutil.move(clips / "moved", clips / folder)
    assert len(open_source(f"davis:{clips}?resolution=")) == 11


def test_bsds500():
    folder = Path(os.environ.get("SAM2REFINER_DATA", Path(__file__).parents[4] / "shared" / "data")) / "bsds500"
    if not folder.is_dir():
        pytest.skip("needs BSDS500")
    source = open_source(f"regions:{folder}?split=val")
    shares = [(source[index]["mask"] > 0).mean() for index in range(0, len(source), len(source) // 20)]
    assert 0.005 <= min(shares) <= max(shares) <= 0.6
