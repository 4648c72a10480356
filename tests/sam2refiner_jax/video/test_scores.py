"""How sure the predictor is of each object: what the official mask decoder says of the mask that is chosen."""

import numpy as np
import pytest
import torch
from small import fresh_refining_model, refining_model, small_model
from videos import SideBySide, disk, moving_frames, official_and_ours_video, write_jpegs

from sam2refiner_jax import SAM2VideoPredictor
from sam2refiner_jax.video.state import FrameScores

HEIGHT, WIDTH, SIZE, FRAMES = 120, 180, 128, 8
CLICK, BOX = np.array([[45.0, 60.0]]), np.array([100.0, 5.0, 140.0, 60.0])
CORRECTION = {"points": np.array([[70.0, 60.0], [20.0, 20.0]]), "labels": np.array([1, 0], np.int32)}
TOLERANCE = 1e-5  # random weights predict nearly the same IoU of every frame
POSITIVE = np.array([1], np.int32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_jpegs(tmp_path_factory.mktemp("clip") / "moving", moving_frames(FRAMES, HEIGHT, WIDTH))


class Decoded:
    """What the official mask decoder says in each call, one object a call: the predicted IoUs and the object score."""

    def __init__(self, official):
        self.calls = []
        self._hook = official.sam_mask_decoder.register_forward_hook(self._note)

    def _note(self, module, inputs, output):
        self.calls.append((output[1][0].numpy(), float(output[3][0, 0])))

    def taken(self):
        """The calls since the last time: of the masks that a call chose from the best one's IoU, and the score."""
        calls, self.calls = self.calls, []
        return np.array([(ious.max(), score) for ious, score in calls])

    def remove(self):
        self._hook.remove()


@pytest.fixture
def both(clip):
    """Both predictors on the clip, and what the official decoder says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other by spinning
    predictors = official_and_ours_video("sam2.1_hiera_t", SIZE, exact_memories=True, few_blocks=True)
    decoded = Decoded(predictors[0])
    yield SideBySide(*predictors, clip), decoded
    decoded.remove()
    torch.set_num_threads(threads)


def assert_scores(found, expected):
    np.testing.assert_allclose(found.predicted_iou, expected[:, 0], atol=TOLERANCE)
    np.testing.assert_allclose(found.object_score_logits, expected[:, 1], atol=10 * TOLERANCE)


def propagated(both, **kwargs):
    """The frames and scores of ours, after the official predictor did the same."""
    for _ in both.official.propagate_in_video(both.official_state, **kwargs):
        pass
    return [(i, scores) for i, _, _, scores in both.ours.propagate_in_video(both.state, return_scores=True, **kwargs)]


def test_scores_equal_the_official_decoders(both):
    """Of the best of three masks, of the single mask or its stand-in, of tracked masks and of corrections."""
    both, decoded = both
    both.call("add_new_points_or_box", 0, 1, points=CLICK, labels=POSITIVE)
    three = [ious for ious, _ in decoded.calls]
    assert [len(ious) for ious in three] == [3]
    assert np.ptp(three[0]) > 0.01  # so another one would be noticed
    first = decoded.taken()
    both.call("add_new_points_or_box", 0, 2, box=BOX)
    assert [len(ious) for ious, _ in decoded.calls] == [1]
    first = np.concatenate([first, decoded.taken()])
    assert_scores(both.state.scores_on(0), first)

    found = propagated(both)
    assert [frame for frame, _ in found] == list(range(FRAMES))
    expected = np.concatenate([first, decoded.taken()]).reshape(FRAMES, 2, 2)
    for (frame, scores), theirs in zip(found, expected, strict=True):
        assert_scores(scores, theirs)
        for mine, again in zip(scores, both.state.scores_on(frame), strict=True):
            np.testing.assert_array_equal(mine, again)
    assert np.ptp(expected[1:, :, 0]) > 50 * TOLERANCE

    both.call("add_new_points_or_box", 5, 1, **CORRECTION)
    corrected = decoded.taken()
    assert_scores(FrameScores(*(values[:1] for values in both.state.scores_on(5))), corrected)
    found = propagated(both, start_frame_idx=6)
    for (_, scores), theirs in zip(found, decoded.taken().reshape(-1, 2, 2), strict=True):
        assert_scores(scores, theirs)


def test_nobody_predicts_the_iou_of_a_given_mask(both):
    both, decoded = both
    both.call("add_new_mask", 0, 1, disk(0, HEIGHT, WIDTH))
    both.call("add_new_mask", 0, 2, np.zeros((HEIGHT, WIDTH), bool))
    decoded.taken()
    found = propagated(both, max_frame_num_to_track=2)
    outputs = both.official_state["output_dict_per_obj"]
    for scores in (both.state.scores_on(0), found[0][1]):
        assert np.isnan(scores.predicted_iou).all()
        theirs = [float(outputs[i]["cond_frame_outputs"][0]["object_score_logits"]) for i in range(2)]
        assert scores.object_score_logits.tolist() == theirs == [10, -10]
    for (_, scores), theirs in zip(found[1:], decoded.taken().reshape(2, 2, 2), strict=True):
        assert_scores(scores, theirs)


def test_asking_for_scores_changes_no_mask():
    predictor, frames, runs = SAM2VideoPredictor(small_model()), moving_frames(FRAMES, HEIGHT, WIDTH), []
    for with_scores in (False, True):
        state = predictor.init_state(frames)
        predictor.add_new_points_or_box(state, 0, 1, points=CLICK, labels=POSITIVE)
        asked = {"return_scores": True} if with_scores else {}
        runs.append(list(predictor.propagate_in_video(state, **asked)))
        predictor.add_new_mask(state, 5, "later", disk(5, HEIGHT, WIDTH))
        nothing_yet = state.scores_on(2)
        assert [np.isnan(values).tolist() for values in nothing_yet] == [[False, True]] * 2
    assert {len(result) for result in runs[0]} == {3}
    for plain, (frame, objects, masks, scores) in zip(*runs, strict=True):
        assert plain[:2] == (frame, objects)
        np.testing.assert_array_equal(plain[2], masks)
        assert (scores.object_score_logits.shape, scores.predicted_iou.shape) == ((1,), (1,))
        assert scores.predicted_iou.dtype == scores.object_score_logits.dtype == np.float32
        assert 0 < scores.predicted_iou[0] < 1


def test_with_a_refiner_it_is_the_coarse_masks():
    """A fresh refiner leaves SAM 2's masks and their IoU; one that changes the finer masks alone changes no IoU."""
    frames, found = moving_frames(3, HEIGHT, WIDTH), {}
    loud = refining_model()
    augment = loud.refiner.localization_augment
    kernels = [layer.kernel for layer in (augment.attn.out_proj, augment.mlp.layers[-1])]
    kept = [kernel[...] for kernel in kernels]
    try:
        for kernel in kernels:  # what the decoder reads stays as it is
            kernel.set_value(0 * kernel[...])
        for name, model in (("plain", small_model()), ("fresh", fresh_refining_model()), ("loud", loud)):
            predictor = SAM2VideoPredictor(model)
            state = predictor.init_state(frames)
            masks = predictor.add_new_points_or_box(state, 0, 1, points=CLICK, labels=POSITIVE)[2]
            found[name] = masks, state.scores_on(0)
    finally:
        for kernel, value in zip(kernels, kept, strict=True):
            kernel.set_value(value)
    for name in ("fresh", "loud"):
        for mine, plain in zip(found[name][1], found["plain"][1], strict=True):
            np.testing.assert_allclose(mine, plain, atol=1e-5)
    assert np.abs(found["loud"][0] - found["plain"][0]).max() > 0.1
