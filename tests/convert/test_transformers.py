"""The format of the transformers library: its own models make ours of what we write, and we read what they save."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers.models.sam2_video.modeling_sam2_video as sam2_video
from huggingface_hub.errors import EntryNotFoundError
from official import PRESET_NAMES, relative_error
from safetensors.numpy import load_file, save_file
from small import RESIDUAL, SMALL
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel
from videos import Float32Memories, moving_frames

from sam2refiner_jax import (
    CheckpointError,
    SAM2ImagePredictor,
    SAM2VideoPredictor,
    build_model,
    load_model,
    save_model,
    save_refiner,
)
from sam2refiner_jax.checkpoints import (
    BUNDLED,
    describe_weights,
    load_weights,
    save_weights,
    weight_shapes,
    weights_of,
)
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.config import PRESETS, HieraConfig, SAM2Config
from sam2refiner_jax.convert import (
    convert_checkpoint,
    export_checkpoint,
    export_transformers,
    read_model,
    weights_from_official,
)
from sam2refiner_jax.convert.naming import OFFICIAL, TRANSFORMERS, tensor_shapes, transformers_keys
from sam2refiner_jax.convert.transformers_config import config_from_transformers, transformers_config
from sam2refiner_jax.convert.writing import as_tensors
from sam2refiner_jax.image.preprocess import preprocess_image
from sam2refiner_jax.nn.prompt_encoder import BOX_END, BOX_START, NOT_A_POINT, Prompts

# Between one framework and another.
TOLERANCE = 1e-5
TINY, SIZE = dataclasses.replace(PRESETS["sam2.1_hiera_t"], image_size=128), 128


def random_weights(config: SAM2Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Of a fresh model's scale, none zero or one, and objects seen more often than not."""
    rng = np.random.default_rng(seed)
    weights = {}
    for path, shape in weight_shapes(config).items():
        last = path.rpartition(".")[2]
        scale = 1 / np.sqrt(np.prod(shape[:-1])) if last == "kernel" else 0.2
        weights[path] = (float(last == "scale") + scale * rng.standard_normal(shape)).astype(np.float32)
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 0.6
    return weights


def no_two_alike(config: SAM2Config) -> dict[str, np.ndarray]:
    """Weights that are told apart by their first number, and by their last from their own transposes."""
    numbers = np.random.default_rng(0).random(2**20, np.float32)
    return {
        path: np.resize(numbers[i : i + int(np.prod(shape))], shape)
        for i, (path, shape) in enumerate(weight_shapes(config).items())
    }


def assert_same(weights, others) -> None:
    assert weights.keys() == others.keys()
    for path, weight in weights.items():
        np.testing.assert_array_equal(np.asarray(weight), np.asarray(others[path]), err_msg=path)


def exported(config: SAM2Config, weights, folder: Path) -> Path:
    """A folder of the library's format, from a checkpoint directory beside it."""
    save_weights(folder / "ours", config, weights)
    export_transformers(folder / "ours", folder / "theirs")
    return folder / "theirs"


def loaded(cls, folder: Path):
    """A model of the library that has found all its tensors in a folder, and no others that it must not ignore."""
    model, found = cls.from_pretrained(folder, output_loading_info=True)
    assert {kind: list(names) for kind, names in found.items() if len(names)} == {}
    return model.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """SAM 2.1 T for small photos, as we export it."""
    return exported(TINY, random_weights(TINY), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A smaller one that tracks."""
    return exported(SMALL, random_weights(SMALL), tmp_path_factory.mktemp("small"))


def as_saved(config) -> dict:
    """What the library writes of a configuration, as it is read again."""
    return json.loads(config.to_json_string())


# The table of names


@pytest.mark.parametrize(
    "name", [name if name.endswith("_t") else pytest.param(name, marks=pytest.mark.slow) for name in PRESET_NAMES]
)
def test_the_librarys_models_have_the_tensors_that_we_write(name):
    document = transformers_config(PRESETS[name])
    with torch.device("meta"):
        videos = Sam2VideoModel(Sam2VideoConfig.from_dict(document))
        photos = Sam2Model(Sam2Config.from_dict(document))
    ours = tensor_shapes(describe_weights(PRESETS[name]), transformers_keys)
    assert ours == {key: tuple(tensor.shape) for key, tensor in videos.state_dict().items()}
    of_photos = tensor_shapes(describe_weights(dataclasses.replace(PRESETS[name], memory=False)), transformers_keys)
    assert of_photos == {key: tuple(tensor.shape) for key, tensor in photos.state_dict().items()}
    assert config_from_transformers(as_saved(videos.config), memory=True) == PRESETS[name]


@pytest.mark.parametrize(
    "name", [name if name.endswith("_t") else pytest.param(name, marks=pytest.mark.slow) for name in PRESET_NAMES]
)
def test_weights_come_back_bit_for_bit_from_one_format_to_another(name):
    config = PRESETS[name]
    described, weights = describe_weights(config), no_two_alike(config)
    official = as_tensors(dict(weights), described, OFFICIAL.keys)
    theirs = as_tensors(weights_from_official(dict(official))[1], described, TRANSFORMERS.keys)
    recognised, again = weights_from_official(theirs)
    assert recognised == config
    assert_same(weights, again)
    back = as_tensors(again, described, OFFICIAL.keys)
    assert back.keys() == official.keys()
    for key, tensor in official.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


@pytest.mark.parametrize("name", [pytest.param("sam2_hiera_t", marks=pytest.mark.slow), "sam2.1_hiera_t"])
def test_files_come_back_bit_for_bit_by_the_commands(name, tmp_path):
    """From the official format to ours, to the library's, to ours, to the official one."""
    tensors = as_tensors(no_two_alike(PRESETS[name]), describe_weights(PRESETS[name]), OFFICIAL.keys)
    torch.save({"model": {key: torch.from_numpy(tensor) for key, tensor in tensors.items()}}, tmp_path / "in.pt")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["convert", str(tmp_path / "in.pt"), str(tmp_path / "a")])
        main(["export", str(tmp_path / "a"), str(tmp_path / "theirs"), "--format", "transformers"])
        main(["convert", str(tmp_path / "theirs"), str(tmp_path / "b")])
        main(["export", str(tmp_path / "b"), str(tmp_path / "out.pt")])
    assert said.getvalue().splitlines() == [
        f"{name}: written to {tmp_path / 'a'}",
        f"{name}: written to {tmp_path / 'theirs'} for Sam2Model and Sam2VideoModel of transformers",
        f"{name}: written to {tmp_path / 'b'}",
        f"{name}: written to {tmp_path / 'out.pt'}",
    ]
    assert load_weights(tmp_path / "b")[0] == PRESETS[name]
    returned = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    assert returned.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(returned[key].numpy(), tensor, err_msg=key)


# Its models beside ours


@dataclasses.dataclass
class Prompted:
    """One prompt, as the library takes it and as we do; in pixels of the model's input."""

    theirs: dict[str, torch.Tensor]
    ours: Prompts


def prompts_of(size: int) -> dict[str, Prompted]:
    clicks = np.array([[0.3, 0.4], [0.7, 0.55]], np.float32) * size
    box = np.array([[0.2, 0.25], [0.8, 0.7]], np.float32) * size
    mask = np.random.default_rng(5).normal(0, 4, (1, size // 4, size // 4)).astype(np.float32)
    none = np.zeros_like(mask), np.zeros(1, bool)

    def ours(points, labels, mask=none):
        padding = np.zeros((3 - len(points), 2), np.float32), np.full(3 - len(points), NOT_A_POINT)
        slots = np.concatenate([points, padding[0]])[None], np.concatenate([labels, padding[1]]).astype(np.int32)[None]
        return Prompts(*slots, *mask)

    as_points = {"input_points": torch.tensor(clicks)[None, None], "input_labels": torch.tensor([[[1, 0]]])}
    return {
        "clicks": Prompted(as_points, ours(clicks, [1, 0])),
        "box": Prompted({"input_boxes": torch.tensor(box.reshape(1, 1, 4))}, ours(box, [BOX_START, BOX_END])),
        "mask": Prompted(
            as_points | {"input_masks": torch.tensor(mask)[None]}, ours(clicks, [1, 0], (mask, np.ones(1, bool)))
        ),
    }


@jax.jit
def decode_photo(model, image, prompts):
    features = model.encode_image(image)
    return model.decode(model.image_embedding(features), features, prompts)


def errors(theirs: Sam2Model, ours, prompted: Prompted, seed: int = 0) -> dict[str, float]:
    """How far what the library's model makes of a photo is from what ours makes of it (relative L2)."""
    size = ours.config.image_size
    photo = preprocess_image(moving_frames(1, size, size, seed=seed)[0], size)
    theirs.mask_decoder.dynamic_multimask_via_stability = False  # so that the mask for one object is the first of four
    with torch.no_grad():
        embeddings = theirs.get_image_embeddings(torch.from_numpy(photo.transpose(2, 0, 1)[None].copy()))
        one, three = (theirs(image_embeddings=embeddings, multimask_output=n, **prompted.theirs) for n in (False, True))
    output = decode_photo(ours, jnp.asarray(photo)[None], prompted.ours)
    return {
        "masks": relative_error(output.masks, torch.cat([one.pred_masks, three.pred_masks], dim=2)[0]),
        "iou": relative_error(output.iou, torch.cat([one.iou_scores, three.iou_scores], dim=2)[0]),
        "score": relative_error(output.object_score_logits, three.object_score_logits[0]),
    }


@pytest.fixture(scope="module")
def both(tiny):
    return loaded(Sam2Model, tiny), load_model(tiny)


@pytest.mark.parametrize("kind", ["clicks", "box", "mask"])
def test_sam2model_gives_our_masks_from_exported_files(both, kind):
    found = errors(*both, prompts_of(SIZE)[kind])
    assert max(found.values()) < TOLERANCE, found


def test_the_photo_and_the_prompt_count(both):
    """Else equal masks would say nothing."""
    theirs, ours = both
    clicks, box = (prompts_of(SIZE)[kind] for kind in ("clicks", "box"))
    assert errors(theirs, ours, dataclasses.replace(clicks, ours=box.ours))["masks"] > 100 * TOLERANCE


def test_sam2model_gives_our_masks_of_the_bundled_model(tmp_path):
    export_transformers(BUNDLED["nano"], tmp_path / "nano")
    theirs, ours = loaded(Sam2Model, tmp_path / "nano"), load_model(tmp_path / "nano")
    assert ours.config == PRESETS["sam2_nano"]
    found = errors(theirs, ours, prompts_of(ours.config.image_size)["clicks"], seed=1)
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize(
    ("newer", "absent"), [(True, False), pytest.param(False, False, marks=pytest.mark.slow), (True, True)]
)
def test_sam2videomodel_tracks_as_we_do_from_exported_files(newer, absent, tmp_path, monkeypatch):
    """Masks, pointers and memories of one object with clicks and one with a mask, which neither rounds to bfloat16."""
    config = dataclasses.replace(SMALL, no_obj_embed_spatial=newer, obj_ptr_temporal_encoding=newer)
    weights = random_weights(config, seed=3)
    if absent:
        weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] -= 10
    folder = exported(config, weights, tmp_path)
    monkeypatch.setattr(sam2_video, "torch", Float32Memories())
    decode = Sam2VideoModel._single_frame_forward

    def decode_officially(self, *args, input_masks=None, **kwargs):
        # The pointer of a given mask is officially, and ours, that of the mask for one object; here the best of three.
        single = {} if input_masks is None else {"input_masks": input_masks, "multimask_output": False}
        return decode(self, *args, **kwargs, **single)

    monkeypatch.setattr(Sam2VideoModel, "_single_frame_forward", decode_officially)
    theirs, size, count = loaded(Sam2VideoModel, folder), config.image_size, 4
    frames = moving_frames(count, size, size)
    clicks, labels = np.array([[16.0, 32.0], [50.0, 10.0]], np.float32), np.array([1, 0], np.int32)
    # One that scaling down and up again leaves as it is: the library makes a memory of the mask itself, the official
    # package and we of what that makes of it.
    mask = np.mgrid[:size, :size][1] < size // 2

    ours = SAM2VideoPredictor(load_model(folder), memory_dtype=jnp.float32)
    state = ours.init_state(frames)
    ours.add_new_points_or_box(state, 0, 1, points=clicks, labels=labels)
    ours.add_new_mask(state, 0, 2, mask)
    assert len(list(ours.propagate_in_video(state))) == count

    video = torch.from_numpy(np.stack([preprocess_image(frame, size).transpose(2, 0, 1) for frame in frames]))
    session = sam2_video.Sam2VideoInferenceSession(video, size, size, dtype=torch.float32)
    as_points = {"point_coords": torch.tensor(clicks)[None, None], "point_labels": torch.tensor(labels)[None, None]}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, as_points)
    session.add_mask_inputs(session.obj_id_to_idx(2), 0, torch.from_numpy(mask)[None, None])
    session.obj_with_new_inputs = [1, 2]
    seen = []
    for frame in range(count):
        expected = theirs(session, frame_idx=frame)
        for index, history in enumerate(state.objects.values()):
            kind, results = ("cond", history.prompted) if frame == 0 else ("non_cond", history.tracked)
            kept = session.output_dict_per_obj[index][f"{kind}_frame_outputs"][frame]
            memory = kept["maskmem_features"][:, 0].reshape(*results[frame].memory.shape)
            assert relative_error(results[frame].mask, expected.pred_masks[index, 0]) < TOLERANCE
            assert relative_error(results[frame].pointer, kept["object_pointer"].reshape(-1)) < TOLERANCE
            assert relative_error(results[frame].memory, memory) < TOLERANCE
            if frame:
                seen.append(float(kept["object_score_logits"]) > 0)
    assert not any(seen) if absent else any(seen)


# What it saves


def test_we_read_what_sam2videomodel_saves(small, tmp_path):
    loaded(Sam2VideoModel, small).save_pretrained(tmp_path / "saved")
    found = read_model(tmp_path / "saved")
    assert found.config == SMALL
    assert_same(found.weights, random_weights(SMALL))


def test_what_sam2model_saves_is_a_model_for_photos(both, tmp_path):
    """It leaves the memory out: what needs one says so, and nothing fresh takes its place."""
    both[0].save_pretrained(tmp_path / "saved")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["convert", str(tmp_path / "saved"), str(tmp_path / "ours")])
    assert said.getvalue().startswith("sam2.1_hiera_t without a memory, for photos alone: written to")
    for source in (tmp_path / "saved", tmp_path / "ours", tmp_path / "saved" / "model.safetensors"):
        model = load_model(source)
        assert model.config == dataclasses.replace(TINY, memory=False)
        whole = weights_of(both[1])
        assert_same(weights_of(model), {path: whole[path] for path in weight_shapes(model.config)})
        SAM2ImagePredictor(model)
        with pytest.raises(ValueError, match=r"model must have a memory, which videos need; this one is for photos"):
            SAM2VideoPredictor(model)
    with pytest.raises(CheckpointError, match=r"must hold a memory's weights, which all official checkpoints do"):
        export_checkpoint(tmp_path / "ours", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
    export_transformers(tmp_path / "ours", tmp_path / "again")
    assert "model_type" in json.loads((tmp_path / "again" / "config.json").read_text())
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), load_file(tmp_path / "saved/model.safetensors"))
    loaded(Sam2Model, tmp_path / "again")


def test_half_precision_is_read_as_it_is(small, tmp_path):
    loaded(Sam2VideoModel, small).to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    weights = read_model(tmp_path / "saved").weights
    for path, weight in random_weights(SMALL).items():
        rounded = weight.astype(jnp.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(weights[path]), rounded, err_msg=path)


# The configuration


def test_the_librarys_defaults_are_sam_2_1_t():
    """By which a configuration is completed that leaves out what is so by default."""
    assert config_from_transformers({"model_type": "sam2_video"}, memory=True) == PRESETS["sam2.1_hiera_t"]
    assert config_from_transformers(as_saved(Sam2VideoConfig()), memory=True) == PRESETS["sam2.1_hiera_t"]
    photos = dataclasses.replace(PRESETS["sam2.1_hiera_t"], memory=False)
    assert config_from_transformers(as_saved(Sam2Config()), memory=False) == photos


def test_any_configuration_comes_back_and_builds_the_librarys_model():
    config = SAM2Config(
        name="custom",
        trunk=HieraConfig(
            embed_dim=48,
            num_heads=2,
            stages=(1, 1, 3, 1),
            global_att_blocks=(3,),
            window_spec=(4, 2, 8, 4),
            window_pos_embed_bkg_spatial_size=(5, 6),
        ),
        image_size=160,
        hidden_dim=192,
        mlp_dim=300,
        num_maskmem=5,
        max_obj_ptrs_in_encoder=9,
        no_obj_embed_spatial=False,
        dynamic_multimask_via_stability=False,
        dynamic_multimask_stability_delta=0.1,
        dynamic_multimask_stability_thresh=0.9,
    )
    document = json.loads(json.dumps(transformers_config(config)))
    with torch.device("meta"):
        model = Sam2VideoModel(Sam2VideoConfig.from_dict(document))
    ours = tensor_shapes(describe_weights(config), transformers_keys)
    assert ours == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert config_from_transformers(document, memory=True) == config
    assert config_from_transformers(as_saved(model.config), memory=True) == config


def changed(folder: Path, output: Path, change=lambda document: None, of_tensors=lambda tensors: None) -> Path:
    """A copy of an exported folder with another configuration or other tensors."""
    output.mkdir()
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (output / "config.json").write_text(json.dumps(document))
    tensors = load_file(folder / "model.safetensors")
    of_tensors(tensors)
    save_file(tensors, output / "model.safetensors")
    return output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(model_type="edgetam"), "config.json: model_type must be sam2 or sam2_video, got 'edgetam'"),
        (
            lambda d: d["mask_decoder_config"].update(num_hidden_layers=3),
            "config.json: mask_decoder_config.num_hidden_layers must be 2 for a model of SAM 2 like this one, got 3",
        ),
        (
            lambda d: d.update(multimask_output_for_tracking=False),
            "config.json: multimask_output_for_tracking must be True for a model of SAM 2 like this one, got False",
        ),
        (lambda d: d["prompt_encoder_config"].update(image_size=100), "image_size must be a positive multiple of 32"),
        (lambda d: d.update(num_maskmem="7"), "SAM2Config.num_maskmem must be int, got '7'"),
        (lambda d: d.update(num_maskmem=6), "memory_temporal_positional_encoding must have shape (6, 1, 1, 64)"),
    ],
)
def test_configurations_of_other_models_are_refused_by_what_differs(small, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_model(changed(small, tmp_path / "other", change))


def test_the_configuration_says_what_tensors_cannot(small, tmp_path):
    def other(document):
        document["mask_decoder_config"]["dynamic_multimask_stability_thresh"] = 0.9
        document["prompt_encoder_config"]["image_size"] = document["image_size"] = 96
        document["vision_config"]["backbone_feature_sizes"] = [[24, 24], [12, 12], [6, 6]]
        document["memory_attention_rope_feat_sizes"] = [6, 6]

    config = read_model(changed(small, tmp_path / "other", other)).config
    assert config == dataclasses.replace(SMALL, name="custom", image_size=96, dynamic_multimask_stability_thresh=0.9)


@pytest.mark.parametrize("config", [None, '{"learning_rate": 0.1}', "[]"])
def test_tensors_alone_are_recognised(small, tmp_path, config):
    folder = changed(small, tmp_path / "alone")
    (folder / "config.json").unlink()
    if config:  # somebody else's
        (folder / "config.json").write_text(config)
    assert read_model(folder).config == SMALL
    assert read_model(folder / "model.safetensors").config == SMALL


def test_a_preset_must_be_what_the_folder_holds(tiny, tmp_path):
    """Two versions are one in a file of photos alone, where it says which is meant."""
    of_photos = tensor_shapes(describe_weights(dataclasses.replace(TINY, memory=False)), transformers_keys)
    without = changed(
        tiny,
        tmp_path / "without",
        lambda document: document.update(model_type="sam2"),
        lambda tensors: [tensors.pop(key) for key in tensors.keys() - of_photos.keys()],
    )
    assert read_model(tiny, "sam2.1_hiera_t").config == TINY
    for name in ("sam2.1_hiera_t", "sam2_hiera_t"):
        expected = dataclasses.replace(PRESETS[name], image_size=SIZE, memory=False)
        assert read_model(without, name).config == expected
    for name in ("sam2_hiera_t", "sam2.1_hiera_s", "efficienttam_ti"):
        message = f"preset must be sam2.1_hiera_t, as config.json describes, got {name!r}"
        with pytest.raises(CheckpointError, match=re.escape(message)):
            convert_checkpoint(tiny, tmp_path / "ours", preset=name)
        with pytest.raises(
            CheckpointError, match=f"preset must be sam2.1_hiera_t, whose tensors these are, got {name!r}"
        ):
            weights_from_official(load_file(tiny / "model.safetensors"), name)
    assert not (tmp_path / "ours").exists()


def test_a_damaged_configuration_is_refused(small, tmp_path):
    folder = changed(small, tmp_path / "damaged")
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"damaged: config.json: Expecting property name"):
        read_model(folder)


# Tensors


SHARED, COPY = "shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"


@pytest.mark.parametrize("absent", [SHARED, COPY])
def test_either_of_two_copies_is_enough(small, tmp_path, absent):
    folder = changed(small, tmp_path / "one", of_tensors=lambda tensors: tensors.pop(absent))
    assert_same(read_model(folder).weights, random_weights(SMALL))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({COPY: t[COPY] + 1}), f"{COPY} must hold the same numbers as {SHARED}"),
        (lambda t: (t.pop(COPY), t.pop(SHARED)), f"missing {SHARED} (2, 128), missing {COPY} (2, 128)"),
        (lambda t: t.pop("memory_encoder.projection.bias"), "missing memory_encoder.projection.bias (64,)"),
        (lambda t: t.update(head=np.zeros(3, np.float32)), "unexpected head (3,)"),
        (
            lambda t: t.update({"prompt_encoder.point_embed.weight": np.zeros((5, 256), np.float32)}),
            "prompt_encoder.point_embed.weight must have shape (4, 256), got (5, 256)",
        ),
        (
            lambda t: t["prompt_encoder.point_embed.weight"].__setitem__((2, 7), np.nan),
            "prompt_encoder.point_embed.weight must hold finite numbers, got 1 NaN and 0 infinite of 1024",
        ),
        (
            # A video model that has lost its memory is damaged, not a model for photos.
            lambda t: [t.pop(key) for key in list(t) if key.startswith("memory_")],
            "missing memory_attention.layers.0",
        ),
    ],
)
def test_other_tensors_are_refused_by_the_files_own_names(small, tmp_path, change, message):
    folder = changed(small, tmp_path / "bad", of_tensors=change)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        convert_checkpoint(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_model_within_somebody_elses_is_found(small, tmp_path):
    tensors = load_file(small / "model.safetensors")
    torch.save({"state_dict": {f"module.sam.{k}": torch.from_numpy(t) for k, t in tensors.items()}}, tmp_path / "a.pt")
    assert_same(read_model(tmp_path / "a.pt").weights, random_weights(SMALL))


# The Hub


class Hub:
    """Repositories of files, and what was asked of them."""

    def __init__(self, *folders: Path):
        self.folders, self.asked = folders, []

    def download(self, repository, filename):
        self.asked.append(filename)
        for folder in self.folders:
            if (folder / filename).exists():
                return str(folder / filename)
        raise EntryNotFoundError(f"no {filename} in {repository}")


def test_a_repository_without_the_official_file_is_read_as_the_librarys(small, tmp_path, monkeypatch):
    hub = Hub(small)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    assert load_model("somebody/my-sam2").config == SMALL
    assert hub.asked == ["my_sam2.pt", "config.json", "model.safetensors"]
    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    with pytest.raises(
        CheckpointError,
        match=r"my_sam2.pt or model.safetensors beside config.json cannot be downloaded .*no config.json",
    ):
        load_model("somebody/my-sam2")


# The folder


def test_a_folder_says_what_it_is(small, tiny):
    card = huggingface_hub.ModelCard.load(tiny / "README.md")
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "mask-generation",
        "tags": ["sam2", "segment-anything", "image-segmentation", "video-segmentation", "jax"],
    }
    parameters = sum(np.prod(shape) for shape in weight_shapes(TINY).values())
    for part in ("`sam2.1_hiera_t`", f"{parameters / 1e6:.2f} M, float32", "128 x 128", "photos and videos"):
        assert part in card.text
    assert huggingface_hub.ModelCard.load(small / "README.md").data.license == "other"


def test_the_code_on_a_card_runs(small, monkeypatch):
    """All but the processors, which need torchvision."""
    monkeypatch.setattr(transformers := sys.modules["transformers"], "Sam2Processor", Sam2Model)
    monkeypatch.setattr(transformers, "Sam2VideoProcessor", Sam2Model)
    blocks = re.findall(r"```python\n(.*?)```", (small / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block.replace("FOLDER", str(small)), names)
    assert isinstance(names["predictor"], SAM2VideoPredictor)


def test_the_bundled_model_takes_its_card_along(tmp_path, capsys):
    main(["export", "nano", str(tmp_path / "nano"), "--format", "transformers"])
    said = capsys.readouterr().out
    assert said == f"sam2_nano without its refiner: written to {tmp_path / 'nano'} for Sam2Model of transformers\n"
    card = huggingface_hub.ModelCard.load(tmp_path / "nano" / "README.md")
    assert card.data.license == "other"
    assert "these 32" in card.text
    assert "The refiner `sam2refiner` of that checkpoint" in card.text
    assert (tmp_path / "nano" / "MODEL_CARD.md").read_text() == (BUNDLED["nano"] / "MODEL_CARD.md").read_text()
    assert_same(
        read_model(tmp_path / "nano").weights, {k: np.float32(w) for k, w in load_weights(BUNDLED["nano"])[1].items()}
    )


def test_settings_of_the_processors_have_the_models_size(tiny):
    settings = {path.name: json.loads(path.read_text()) for path in tiny.glob("*processor_config.json")}
    assert settings["processor_config.json"]["target_size"] == SIZE
    assert settings["preprocessor_config.json"]["mask_size"] == {"height": SIZE // 4, "width": SIZE // 4}
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        assert settings[name]["size"] == {"height": SIZE, "width": SIZE}


def test_everybody_whom_the_umask_allows_can_read_a_folder(small):
    modes = {path.stat().st_mode & 0o777 for path in small.iterdir()}
    assert len(modes) == 1


def test_a_refiner_alone_has_no_such_format(tmp_path, capsys):
    save_refiner(build_model(SMALL.name, refiner=RESIDUAL), tmp_path / "refiner")
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "refiner"), str(tmp_path / "out"), "--format", "transformers"])
    assert "format must be official for a refiner" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_existing_folders_are_kept_and_failures_leave_nothing(tmp_path, monkeypatch):
    save_model(build_model(SMALL.name), tmp_path / "ours")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="taken exists already"):
        export_transformers(tmp_path / "ours", tmp_path / "taken")
    assert (tmp_path / "taken" / "README.md").read_text() == "mine"

    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        export_transformers(tmp_path / "ours", tmp_path / "theirs")
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "taken"}


def test_writing_holds_no_weight_twice():
    """Beyond the weights themselves: what of them is laid out anew is let go."""
    described = describe_weights(PRESETS["sam2.1_hiera_t"])
    tracemalloc.start()
    try:
        weights = {path: np.zeros(variable.shape, np.float32) for path, variable in described.items()}
        largest = max(weight.nbytes for weight in weights.values())
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        tensors = as_tensors(weights, described, TRANSFORMERS.keys)
        more = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert not weights
    assert sum(tensor.nbytes for tensor in tensors.values()) > 10 * largest
    assert more < 3 * largest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_converting_the_largest_model_peaks_below_one_and_three_quarters_of_its_size(tmp_path):
    config = PRESETS["sam2.1_hiera_l"]
    folder = exported(config, no_two_alike(config), tmp_path)
    program = (
        "from sam2refiner_jax.commands.cli import main; main(); import re; "
        "print('peak', int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "convert", str(folder), str(tmp_path / "again")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    size = (folder / "model.safetensors").stat().st_size
    assert size < int(result.stdout.split("peak")[1]) < 1.75 * size
