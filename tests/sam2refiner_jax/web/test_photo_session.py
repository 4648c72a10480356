"""A photo on the page: its masks are the predictor's, from one encoding and one compiled program."""

import numpy as np
import pytest
from skimage.data import rocket
from small import refining_model

from sam2refiner_jax import SAM2AutomaticMaskGenerator, SAM2ImagePredictor
from sam2refiner_jax.image import encoding
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import decode_prompts, refine_prompts
from sam2refiner_jax.web.limits import Refused
from sam2refiner_jax.web.photo import MOST_CLICKS, PhotoPrompts, PhotoSession, warm_up
from sam2refiner_jax.web.pictures import at_size

HEIGHT, WIDTH = 427, 640  # of the rocket
EVERYTHING = (4, 0.0, 0.0)


@pytest.fixture
def session():
    return PhotoSession(refining_model(), rocket())


@pytest.fixture
def predictor():
    predictor = SAM2ImagePredictor(refining_model())
    predictor.set_image(rocket())
    return predictor


@pytest.mark.parametrize("refine", [False, True])
def test_masks_are_the_predictors(session, predictor, refine):
    session.click(0.25, 0.5, 1)
    session.click(0.75, 0.5, 0)
    session.corner(0.9, 0.1)
    session.corner(0.1, 0.8)
    expected, _, _ = predictor.predict(
        point_coords=[[0.25 * WIDTH, 0.5 * HEIGHT], [0.75 * WIDTH, 0.5 * HEIGHT]],
        point_labels=[1, 0],
        box=[0.1 * WIDTH, 0.1 * HEIGHT, 0.9 * WIDTH, 0.8 * HEIGHT],
        multimask_output=False,
        refine=refine,
    )
    np.testing.assert_array_equal(session.mask(refine=refine), expected[0] > 0)
    assert 0 < expected.mean() < 1


def test_a_box_alone_has_a_mask_and_one_corner_none(session, predictor):
    session.corner(0.1, 0.1)
    assert session.mask(refine=True) is None
    session.corner(0.6, 0.7)
    expected = predictor.predict(box=[0.1 * WIDTH, 0.1 * HEIGHT, 0.6 * WIDTH, 0.7 * HEIGHT], multimask_output=False)
    np.testing.assert_array_equal(session.mask(refine=True), expected[0][0] > 0)


def test_steps_are_taken_back_one_by_one(session):
    session.undo()
    assert session.prompts == PhotoPrompts()
    before = []
    for step in (
        lambda: session.click(0.5, 0.5, 1),
        lambda: session.corner(0.2, 0.2),
        lambda: session.corner(0.8, 0.9),
        lambda: session.click(0.1, 0.1, 0),
        session.clear,
    ):
        before.append(session.prompts)
        step()
    assert not session.prompts
    for prompts in reversed(before):
        session.undo()
        assert session.prompts == prompts


def test_what_cannot_be_meant_is_refused_and_changes_nothing(session):
    session.corner(0.5, 0.5)
    before = session.prompts
    with pytest.raises(Refused, match="must lie apart"):
        session.corner(0.5, 0.9)
    assert session.prompts == before
    for _ in range(MOST_CLICKS):
        session.click(0.5, 0.5, 1)
    before = session.prompts
    with pytest.raises(Refused, match=f"{MOST_CLICKS} clicks are the most"):
        session.click(0.5, 0.5, 1)
    assert session.prompts == before


def test_one_encoding_a_photo_and_one_program_for_all_clicks(monkeypatch):
    """Whatever is clicked, coarse or refined, or everything."""
    encodings = []

    def counted(*args, **kwargs):
        encodings.append(args)
        return encode_photos(*args, **kwargs)

    monkeypatch.setattr(encoding, "encode_photos", counted)
    model = refining_model()
    warm_up(model)
    encodings.clear()
    programs = encode_photos, decode_prompts, refine_prompts
    compiled = [program._cache_size() for program in programs]
    session = PhotoSession(model, rocket())
    for i in range(MOST_CLICKS):
        session.click(0.1 * i, 0.5, i % 2)
        session.mask(refine=False)
        session.mask(refine=True)
    session.corner(0.0, 0.0)
    session.corner(1.0, 1.0)
    session.mask(refine=True)
    assert [program._cache_size() for program in programs] == compiled
    session.everything(*EVERYTHING, refine=False)
    assert len(encodings) == 1


def test_everything_is_the_generators(session):
    masks = session.everything(*EVERYTHING, refine=False)
    generator = SAM2AutomaticMaskGenerator(
        refining_model(), 4, pred_iou_thresh=0.0, stability_score_thresh=0.0, refine=False
    )
    found = sorted(generator.generate(rocket()), key=lambda each: -each["area"])
    assert len(masks) == len(found) >= 2
    for mask, each in zip(masks, found, strict=True):
        np.testing.assert_array_equal(mask, each["segmentation"])
    for number, mask in enumerate(masks, start=1):
        later = np.any([np.zeros_like(mask), *masks[number:]], axis=0)
        assert (session.numbers[mask & ~later] == number).all()
    session.undo()
    assert session.numbers is None


def test_a_large_photo_is_answered_at_its_own_size_and_looked_through_as_it_is_shown():
    photo = np.random.default_rng(0).integers(0, 255, (60, 2560, 3), np.uint8)
    session = PhotoSession(refining_model(), photo)
    session.click(0.5, 0.5, 1)
    assert session.mask(refine=False).shape == (60, 2560)
    assert session.shown == (30, 1280)
    assert {mask.shape for mask in session.everything(*EVERYTHING, refine=False)} == {(30, 1280)}
    assert at_size(session.mask(refine=False), session.shown).shape == session.shown
