"""The command `sam2refiner demo`: the main job on a real photo, from nothing to a picture."""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..checkpoints import load_model
from ..image.overlay import draw_overlay
from ..image.predictor import SAM2ImagePredictor
from ..image.preprocess import read_photo
from .demo_clip import SCENE, size_for_clips, tracks, write_demo_clip
from .outputs import check_outputs, save_picture, source_of

__all__ = ["demo"]

# A photo that scikit-image ships, of a Falcon 9 on its pad, released to the public domain by SpaceX.
PHOTO = "data/rocket.jpg"
# The rocket from clicks, on it (1) and off it (0), and a tower beside it from a box.
PROMPTS: dict[str, dict[str, Any]] = {
    "clicks": {
        "point_coords": [[321.0, 180.0], [319.0, 350.0], [230.0, 330.0], [400.0, 330.0], [275.0, 230.0]],
        "point_labels": [1, 1, 0, 0, 0],
    },
    "box": {"box": [0.0, 0.0, 90.0, 426.0]},
}
# A part of what the box is around, x0, y0, x1, y1 in pixels, and how often larger it is shown.
DETAIL, ZOOM = (0, 150, 128, 236), 5
BAR, GAP = 28, 6
OUTPUT, PORT = Path("out/demo"), 7860


def demo(
    checkpoint: str = "nano",
    refiner: Path | None = None,
    output: Path | None = None,
    web: bool = False,
    port: int | None = None,
) -> None:
    """Segment a photo from clicks and from a box, coarse and refined side by side with a detail, and track a clip.

    The photo comes with scikit-image, the clip is a scene made up on the spot, and the model is the one in the package.

    With --web, a page to click on instead, for photos and videos of your own: on this machine alone, until ctrl-C.
    What is uploaded there stays in memory, and goes with the page.

    Args:
      checkpoint: "nano", a checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, where the checkpoint has none.
      output: The folder for picture, masks and clip, out/demo unless given; not with --web, which writes nothing.
      web: Serve the page, at http://127.0.0.1 and the port.
      port: Of the page, 7860 unless given; 0 for any that is free.
    """
    if web:
        if output is not None:
            raise ValueError(f"output must not be given with web, which writes nothing; got {output}")
        _serve(checkpoint, refiner, PORT if port is None else port)
        return
    if port is not None:
        raise ValueError(f"port is of the page: give web too; got {port}")
    _write(checkpoint, refiner, OUTPUT if output is None else output)


def _serve(checkpoint: str, refiner: Path | None, port: int) -> None:
    try:
        from ..web.server import Server, listen
    except ModuleNotFoundError as error:
        raise ValueError(
            f"web needs {error.name}, which is not installed; pip install 'sam2refiner_jax[web]'"
        ) from error
    from ..web.limits import Limits
    from ..web.photo import warm_up

    listener = listen(port)  # before the model is loaded, which takes longer
    model = load_model(checkpoint, refiner=refiner)
    warm_up(model)
    server = Server(model, listener, Limits())
    print(f"page: {server.url}, until ctrl-C", flush=True)
    server.run()


def _write(checkpoint: str, refiner: Path | None, output: Path) -> None:
    skimage = importlib.util.find_spec("skimage")
    if skimage is None or skimage.origin is None:
        raise ValueError("the demo's photo comes with scikit-image: pip install 'sam2refiner_jax[demo]'")
    path = Path(skimage.origin).parent / PHOTO
    model = load_model(checkpoint, refiner=refiner)
    modes = {"coarse": False} | ({"refined": True} if model.refiner is not None else {})
    files = {(name, mode): output / f"{name}_{mode}.png" for name in PROMPTS for mode in modes}
    target, source, clip = output / "demo.png", source_of(path), output / "clip.mp4"
    check_outputs([*((file, source) for file in (target, *files.values())), (clip, SCENE)])
    output.mkdir(parents=True, exist_ok=True)
    photo = read_photo(path)
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(photo)
    rows, found = [], {}
    for name, prompts in PROMPTS.items():
        row = []
        for mode, refine in modes.items():
            masks, ious, _ = predictor.predict(**prompts, multimask_output=False, refine=refine)
            mask = found[name, mode] = masks[0] > 0
            save_picture(Image.fromarray(mask.astype(np.uint8) * 255), files[name, mode], source)
            picture = _prompted(photo, mask, prompts)
            row.append(_titled(picture, f"{mode}, from {name}: predicted IoU {ious[0]:.2f}"))
        rows.append(np.hstack(row))
    details = [_magnified(photo, found["box", mode]) for mode in modes]
    rows.append(np.hstack([_titled(x, f"{mode}, a detail") for x, mode in zip(details, modes, strict=True)]))
    save_picture(Image.fromarray(np.vstack(rows)[:-GAP, :-GAP]), target, source, compress_level=1)
    print(f"picture: {target}")
    if not tracks(model):
        print("clip: none, as the model's memory is not there or was never trained")
        return
    size = size_for_clips(model)
    if size != model.config.image_size:
        model = load_model(checkpoint, refiner=refiner, image_size=size)
    print(f"clip: {clip}, mean IoU {write_demo_clip(model, clip):.2f}")


def _prompted(photo: np.ndarray, mask: np.ndarray, prompts: dict[str, Any]) -> np.ndarray:
    """The photo with mask and prompts."""
    boxes = np.array([prompts["box"]]) if "box" in prompts else None
    points = np.array(prompts["point_coords"]) if "point_coords" in prompts else None
    labels = np.array(prompts["point_labels"]) if "point_labels" in prompts else None
    return draw_overlay(photo, mask[None], points=points, labels=labels, boxes=boxes)


def _magnified(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The detail with its mask, each pixel as a square."""
    x0, y0, x1, y1 = DETAIL
    part, inside = (x[y0:y1, x0:x1].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for x in (photo, mask))
    return draw_overlay(part, inside[None])


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    """The picture under a title, with a gap to its right and below."""
    picture = np.pad(picture, ((BAR, GAP), (0, GAP), (0, 0)), constant_values=255)
    cv2.putText(picture, title, (8, BAR - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (30, 30, 30), 1, cv2.LINE_AA)
    return picture
