"""How far our EfficientTAM is from its official code: every parameter random, float32, at the released input size.

    git clone https://github.com/yformer/EfficientTAM && git -C EfficientTAM checkout abcd061
    python benchmarks/efficienttam.py EfficientTAM PHOTO CLIP --models efficienttam_ti efficienttam_s_2
    python benchmarks/efficienttam.py EfficientTAM --reference

CLIP is a folder of JPEGs, of which the first six are tracked from a click, a second object from the third on.
`--reference` compares the tests' own PyTorch version and their list of tensors (`tests/reference/efficienttam.py`) with
the official code instead, at 256 pixels.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from efficienttam import build_reference, official_shapes
from official import (
    at_its_size,
    nchw,
    ours_of,
    randomise,
    relative_error,
    torchvision_stand_in,
)
from videos import SideBySide, randomise_predictor, video_pair

from sam2refiner_jax import PRESETS, SAM2ImagePredictor
from sam2refiner_jax.image.preprocess import read_photo

FRAMES = 6


def build(name: str, *, video: bool = False, image_size: int | None = None) -> torch.nn.Module:
    """The official model, or video predictor; the official functions refuse other sizes, and compile where they can."""
    import efficient_track_anything
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    folder = Path(efficient_track_anything.__path__[0]) / "configs" / "efficienttam"
    cfg = OmegaConf.load(folder / f"{name}.yaml")["model"]
    cfg.compile_image_encoder = False
    if image_size is not None:
        cfg.image_size = image_size
    extra = {"dynamic_multimask_via_stability": True, "dynamic_multimask_stability_thresh": 0.98}
    more = {"sam_mask_decoder_extra_args": {**extra, "dynamic_multimask_stability_delta": 0.05}}
    if video:
        cfg["_target_"] = "efficient_track_anything.efficienttam_video_predictor.EfficientTAMVideoPredictor"
        more["binarize_mask_from_pts_for_mem_enc"] = True
    torch.manual_seed(0)
    return instantiate(cfg, **more, _recursive_=True).eval()


def compare_photo(name: str, photo: np.ndarray) -> list[float]:
    """Encoder, worst logit of its range, worst predicted IoU, smallest share of equal pixels."""
    official = randomise(build(name))
    ours = SAM2ImagePredictor(ours_of(official, PRESETS[name]))
    with torchvision_stand_in():
        from efficient_track_anything.efficienttam_image_predictor import EfficientTAMImagePredictor

        predictor = at_its_size(EfficientTAMImagePredictor(official))
    for each in (ours, predictor):
        each.set_image(photo)
    encoder = relative_error(nchw(ours._photos.embedding), predictor._features["image_embed"])
    height, width = photo.shape[:2]
    click = {"point_coords": np.array([[width / 3, height / 3]]), "point_labels": np.array([1])}
    box = {"box": np.array([0.1 * width, 0.2 * height, 0.8 * width, 0.7 * height])}
    logits, ious, pixels = [], [], []
    for prompts in (click, box, click | box):
        for multimask in (True, False):
            a, b = (p.predict(**prompts, multimask_output=multimask, return_logits=True) for p in (ours, predictor))
            logits.append(np.abs(a[2] - b[2]).max() / np.ptp(b[2]))
            ious.append(np.abs(a[1] - b[1]).max())
            pixels.append(((a[0] > 0) == (b[0] > 0)).mean())
    return [encoder, max(logits), max(ious), min(pixels)]


def compare_clip(official: torch.nn.Module, model, clip: Path) -> SideBySide:
    """A click on the first frame, a second object from the third on, and every frame tracked."""
    both = SideBySide(*video_pair(official, model, exact_memories=True), clip)
    height, width = both.state["video_height"], both.state["video_width"]
    both.call("add_new_points_or_box", 0, 1, points=np.array([[width / 2, height / 2]]), labels=np.array([1], np.int32))
    both.propagate(max_frame_num_to_track=2)
    box = np.array([0.1 * width, 0.2 * height, 0.6 * width, 0.8 * height])
    both.call("add_new_points_or_box", 2, 2, box=box)
    both.propagate(start_frame_idx=2)
    return both


def compare_reference() -> None:
    """The tests' PyTorch version beside the official code: stride-16 features, and features conditioned on memories."""
    print("| model | encoder, relative L2 | conditioned on 1 and on 3 memories |")
    print("|---|---|---|")
    for name in (name for name in PRESETS if name.startswith("efficienttam")):
        official = randomise(build(name, image_size=256))
        assert official_shapes(name) == {key: tuple(tensor.shape) for key, tensor in official.state_dict().items()}
        reference = build_reference(dataclasses.replace(PRESETS[name], image_size=256))
        reference.load_state_dict(official.state_dict())
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, 3, 256, 256, generator=generator)
        conditioned = []
        with torch.no_grad():
            a, b = (m.forward_image(image) for m in (reference, official))
            encoder = relative_error(a["vision_features"], b["vision_features"])
            assert torch.equal(a["vision_pos_enc"][0], b["vision_pos_enc"][0])
            for maps in (1, 3):
                tokens = {
                    key: torch.randn(count, 1, channels, generator=generator)
                    for key, count, channels in (
                        ("curr", 256, 256),
                        ("curr_pos", 256, 256),
                        ("memory", maps * 256 + 8, 64),
                        ("memory_pos", maps * 256 + 8, 64),
                    )
                }
                a, b = (m.memory_attention(**tokens, num_obj_ptr_tokens=8) for m in (reference, official))
                conditioned.append(relative_error(a, b))
        print(f"| {name} | {encoder:.1e} | {conditioned[0]:.1e}, {conditioned[1]:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("--models", nargs="+", default=[name for name in PRESETS if name.startswith("efficienttam")])
    parser.add_argument("--reference", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.clone))
    import sam2  # noqa: F401 whose configurations Hydra then looks for, not the other package's

    if arguments.reference:
        compare_reference()
        return
    photo = read_photo(arguments.photo)
    print("| model | encoder, relative L2 | logits, of their range | predicted IoU | equal pixels, photo |", end="")
    print(" clip | memories | pointers |\n|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        encoder, logits, iou, pixels = compare_photo(name, photo)
        official = randomise_predictor(build(name, video=True))
        with tempfile.TemporaryDirectory() as folder:
            for path in sorted(arguments.clip.glob("*.jpg"))[:FRAMES]:
                (Path(folder) / path.name).symlink_to(path.absolute())
            both = compare_clip(official, ours_of(official, PRESETS[name]), Path(folder))
        print(
            f"| {name} | {encoder:.1e} | {logits:.1e} | {iou:.1e} | {pixels:.5%} | {both.agreement:.5%} | "
            f"{both.memory_error:.1e} | {both.pointer_error:.1e} |",
            flush=True,
        )
        print(f"flipped {both.flipped}; shares {np.round(both.shares, 2)}", file=sys.stderr)


if __name__ == "__main__":
    main()
