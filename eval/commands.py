"""The commands `sam2refiner eval image`, `eval video` and `eval ablation`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..data.clips import Clip, find_layout, open_clips, read_names
from ..image.canvas import Fit
from ..sam2 import SAM2
from ..video.policies import MemoryPolicy, memory_policy
from ..video.predictor import SAM2VideoPredictor
from .ablation import ABLATION_REPORT, find_refiners, models_of, write_ablation_report
from .baselines import BaselineTracker, CarryingTracker
from .comparison import COMPARISON_REPORT, compare_refiners, evaluate_models, write_comparison
from .image import Clock, ImageSettings, LeftOut, evaluate_images
from .image_sets import Benchmark, open_benchmarks
from .jax_segmenter import JaxSegmenter
from .official import open_official_segmenter, open_official_tracker
from .report import IMAGE_REPORT, write_image_report
from .run_folder import Record, RunFolder
from .segmenters import FilledBox, GrabCut, Segmenter
from .tables import Summary
from .trackers import Tracker, our_tracker
from .video import MASKS_FOLDER, evaluate_videos, score_predictions, unscored_objects
from .video_report import VIDEO_REPORT, summarise_videos, write_video_comparison, write_video_report

__all__ = ["ablation", "image", "video"]

Model = Literal["sam2refiner", "sam2", "grabcut", "box"]
VideoModel = Literal["sam2refiner", "sam2", "grabcut", "box", "copy", "flow"]
VideoPrompt = Literal["mask", "box", "click"]
UNSEEN_FILE = "unseen_videos.txt"


def image(
    sets: Positional[tuple[str, ...]],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    refiners: tuple[Path, ...] = (),
    model: Model = "sam2refiner",
    output: Path = Path("out/eval"),
    prompts: tuple[str, ...] = ("box",),
    seed: int = 0,
    limit: int | None = None,
    photos_per_device: int = 1,
    image_size: int | None = None,
    fit: Fit = "squeeze",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Evaluate masks of images: boxes, points, rough masks and interactive clicks, on any set of images with masks.

    It writes results.json, items.csv, table.md, points.png, gains.png and gallery.png. A run that was interrupted goes
    on where it was when the same command is given again. With a refiner, its masks are compared with plain SAM 2's.
    Items that cannot be read and those with an empty truth are left out and listed; the exit status is 1 if one cannot
    be read.

    Args:
      sets: What to evaluate on: hqsam-val:DIR for the four sets of HQ-SAM, folder:DIR for any folder of images and
        masks, regions:DIR for BSDS, "davis:DIR?every=15" for frames of DAVIS, and every other source of training.
      checkpoint: "nano", a checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory.
      refiners: Several of them, of any kinds, side by side: each has a report in a folder of its name, and one table
        compares them with the model without a refiner.
      model: What makes the masks: this package, the official PyTorch package sam2 with the same official .pt, or a
        baseline that needs no checkpoint.
      output: The folder for the results.
      prompts: Of each kind of box, points-N (N random points on the object), clicks (the clicking robot's) and
        masks:FOLDER (rough masks FOLDER/NAME.png to make finer, such as another model's) a table.
      seed: Of the random points.
      limit: Evaluate only the first so many items of each set.
      photos_per_device: How many photos each device works on at once.
      image_size: Side of the model's square input, a multiple of 32; the checkpoint's own unless given.
      fit: Squeeze photos to the model's square input, as the official package does, or pad them to a square first.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    settings = ImageSettings(prompts, seed, limit)
    benchmarks = open_benchmarks(sets)
    if refiners:
        if refiner is not None or model != "sam2refiner":
            raise ValueError(f"refiners need the model sam2refiner and no other refiner, got {model} and {refiner}")
        named = {"refiners": list(map(str, refiners)), "prompts": list(prompts), "seed": seed}
        summaries, left_out = _evaluate_models(
            lambda: compare_refiners(load_model(checkpoint, image_size=image_size, dtype=dtype), refiners),
            benchmarks,
            settings,
            output,
            named,
            COMPARISON_REPORT,
            photos_per_device,
            fit,
        )
        print(write_comparison(output, summaries, Path(checkpoint).name))
        _print_place(output, left_out)
        return
    segmenter = _open_segmenter(model, checkpoint, refiner, image_size, fit, dtype, photos_per_device)
    run = RunFolder(output, _image_settings(segmenter, benchmarks, settings), IMAGE_REPORT)
    clock = Clock()
    left_out = evaluate_images(segmenter, benchmarks, settings, run, clock)
    print(write_image_report(segmenter, benchmarks, settings, run, left_out, clock))
    _print_place(output, left_out)


def video(
    folder: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    refiners: tuple[Path, ...] = (),
    model: VideoModel = "sam2refiner",
    output: Path = Path("out/eval"),
    prompt: VideoPrompt = "mask",
    clips: tuple[str, ...] = (),
    clip_list: Path | None = None,
    unseen: Path | None = None,
    predictions: Path | None = None,
    memory: str = "official",
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Evaluate tracking from the first frame, on DAVIS 2016 or 2017 or LVOS v1 or v2.

    It writes the masks as OUTPUT/masks/CLIP/FRAME.png, as the official evaluators read them, and results.json,
    objects.csv and table.md. A run that was interrupted goes on with the clip where it was. Clips that cannot be read
    and objects without a frame to score are left out and listed; the exit status is 1 if a clip cannot be read.

    Args:
      folder: The folder that holds JPEGImages and Annotations; of LVOS, valid_meta.json too.
      checkpoint: "nano", a checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory.
      refiners: Several of them, of any kinds, side by side, as of `eval image`.
      model: What makes the masks: this package, the official PyTorch package sam2 with the same official .pt, or a
        baseline that needs no checkpoint: grabcut and box, which are of photos too, copy, which leaves the first mask
        where it is, or flow, which moves it by optical flow.
      output: The folder for the results.
      prompt: What is given of each object in its first frame.
      clips: The clips to evaluate; all unless given.
      clip_list: A file that names the clips instead, such as DAVIS/ImageSets/2017/val.txt.
      unseen: A file that names the clips of unseen categories, for the table of LVOS v2; by default unseen_videos.txt
        in the folder, if there is one.
      predictions: Score the masks in this folder, PREDICTIONS/CLIP/FRAME.png, instead of making any.
      memory: What is remembered of tracked frames: official, quality, motion, tree, or a policy of your own.
      image_size: Side of the square that frames are squeezed to, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    if clips and clip_list:
        raise ValueError("give either clips or a clip_list, not both")
    if refiners and (refiner is not None or model != "sam2refiner" or predictions is not None):
        raise ValueError("refiners need the model sam2refiner, and neither another refiner nor predictions")
    if image_size is not None and (model != "sam2refiner" or predictions is not None):
        raise ValueError(f"an image_size needs the model sam2refiner and no predictions, got {model} and {predictions}")
    policy = memory_policy(memory)
    if memory != "official" and (model != "sam2refiner" or predictions is not None):
        raise ValueError(f"a memory needs the model sam2refiner and no predictions, got {model} and {predictions}")
    found = open_clips(folder, read_names(clip_list) if clip_list else clips)
    if unseen is None and (folder / UNSEEN_FILE).exists():
        unseen = folder / UNSEEN_FILE
    unseen_names = read_names(unseen) if unseen else []
    unread = 0

    def report(place: Path, records: list[Record], name: str, left_out: list[LeftOut], clock: Clock) -> str:
        nonlocal unread
        unread += sum(item.unread for item in left_out)
        missing = [*left_out, *unscored_objects(records)]
        return write_video_report(place, records, name, find_layout(folder), unseen_names, clock, missing)

    if refiners:
        named: dict[str, Any] = {"refiners": list(map(str, refiners)), "folder": str(folder), "prompt": prompt}
        named |= {} if policy.follows_frames else {"memory": repr(policy)}
        named |= {} if image_size is None else {"image_size": image_size}
        RunFolder(output, {**named, "clips": [clip.name for clip in found]}, COMPARISON_REPORT)
        summaries = {}
        for name, each in compare_refiners(
            load_model(checkpoint, image_size=image_size, dtype=dtype), refiners
        ).items():
            clock = Clock()
            tracker: Tracker = our_tracker(SAM2VideoPredictor(each, memory=policy), name)
            records, left_out = _track(tracker, found, folder, prompt, output / name, clock)
            report(output / name, records, name, left_out, clock)
            summaries[name] = summarise_videos(records, unseen_names)
        table = write_video_comparison(output, summaries, Path(checkpoint).name, find_layout(folder))
    elif predictions is not None:
        RunFolder(output, {"folder": str(folder), "predictions": str(predictions)}, VIDEO_REPORT)
        clock = Clock()
        records, left_out = score_predictions(found, predictions, clock)
        table = report(output, records, predictions.name, left_out, clock)
    else:
        tracker, clock = _open_tracker(model, checkpoint, refiner, policy, image_size, dtype), Clock()
        records, left_out = _track(tracker, found, folder, prompt, output, clock)
        table = report(output, records, tracker.name, left_out, clock)
    print(f"{table}\n\nresults: {output}")
    _fail_if(unread, "clips")


def _track(
    tracker: Tracker, clips: Sequence[Clip], folder: Path, prompt: VideoPrompt, output: Path, clock: Clock
) -> tuple[list[Record], list[LeftOut]]:
    """What a tracker makes of clips, in the clips' order, and the clips that could not be read."""
    names = [clip.name for clip in clips]
    settings = {**tracker.settings(), "folder": str(folder), "prompt": prompt, "clips": names}
    run = RunFolder(output, settings, (*VIDEO_REPORT, MASKS_FOLDER))
    left_out = evaluate_videos(tracker, clips, prompt, run, clock)
    return sorted(run.records, key=lambda record: names.index(record["clip"])), left_out


def ablation(
    sets: Positional[tuple[str, ...]],
    refiners: Path,
    checkpoint: str = DEFAULT_CHECKPOINT,
    output: Path = Path("out/ablation"),
    limit: int | None = None,
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Evaluate Localization Augment, Prompt Retargeting and Mask Refinement in all combinations, by boxes.

    It writes table.md and results.json, and the report of each combination in a folder of its own, each of which goes
    on where it was interrupted.

    Args:
      sets: What to evaluate on, as of `eval image`.
      refiners: A folder with a refiner's checkpoint directory for each combination, trained so: LA, PR, MR, LA+PR,
        LA+MR, PR+MR, LA+PR+MR. Those that are missing are left out of the table.
      checkpoint: Of the model they belong to: a directory, an official .pt or .safetensors, or a Hugging Face id.
      output: The folder for the results.
      limit: Evaluate only the first so many items of each set.
      image_size: Side of the model's square input, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    settings = ImageSettings(limit=limit)
    benchmarks = open_benchmarks(sets)
    found = find_refiners(refiners)
    summaries, left_out = _evaluate_models(
        lambda: models_of(load_model(checkpoint, image_size=image_size, dtype=dtype).with_refiner(None), found),
        benchmarks,
        settings,
        output,
        {"refiners": str(refiners)},
        ABLATION_REPORT,
    )
    print(write_ablation_report(output, summaries))
    _print_place(output, left_out)


def _evaluate_models(
    load: Callable[[], dict[str, SAM2]],
    benchmarks: list[Benchmark],
    settings: ImageSettings,
    output: Path,
    named: dict[str, Any],
    report: tuple[str, ...],
    photos_per_device: int = 1,
    fit: Fit = "squeeze",
) -> tuple[dict[str, Summary], list[LeftOut]]:
    """Evaluates each of the models in a folder of its name, once the folder of all is known to be free or this run's.

    `named` and what is evaluated on are the whole run's settings.
    """

    def open_run(name: str, segmenter: JaxSegmenter) -> RunFolder:
        return RunFolder(output / name, _image_settings(segmenter, benchmarks, settings), IMAGE_REPORT)

    of_all = {**named, "sets": [benchmark.spec for benchmark in benchmarks], "limit": settings.limit}
    RunFolder(output, of_all, report)
    models = load()
    return evaluate_models(
        models, benchmarks, settings, open_run, Clock(), photos_per_device=photos_per_device, fit=fit
    )


def _open_segmenter(
    model: Model,
    checkpoint: str,
    refiner: Path | None,
    image_size: int | None,
    fit: Fit,
    dtype: str,
    photos: int,
) -> Segmenter:
    if model == "sam2refiner":
        loaded = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
        return JaxSegmenter(loaded, _model_name(checkpoint, refiner), photos_per_device=photos, fit=fit)
    if refiner is not None or image_size is not None or fit != "squeeze":
        raise ValueError(f"a refiner, an image_size and a fit need the model sam2refiner, got {model}")
    if model == "sam2":
        return open_official_segmenter(checkpoint)
    return GrabCut() if model == "grabcut" else FilledBox()


def _open_tracker(
    model: VideoModel,
    checkpoint: str,
    refiner: Path | None,
    memory: MemoryPolicy,
    image_size: int | None,
    dtype: str,
) -> Tracker:
    if model == "sam2refiner":
        loaded = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
        predictor = SAM2VideoPredictor(loaded, memory=memory)
        name = _model_name(checkpoint, refiner)
        asked = {} if image_size is None else {"image_size": image_size}  # settings of earlier versions have none
        return our_tracker(predictor, name if memory.follows_frames else f"{name}, memory {memory.kind}", **asked)
    if refiner is not None:
        raise ValueError(f"a refiner needs the model sam2refiner, got {model}")
    if model == "sam2":
        return open_official_tracker(checkpoint)
    if model in ("copy", "flow"):
        return CarryingTracker(model)
    return BaselineTracker(GrabCut() if model == "grabcut" else FilledBox())


def _model_name(checkpoint: str, refiner: Path | None) -> str:
    return Path(checkpoint).name + (f" + {refiner.name}" if refiner else "")


def _image_settings(segmenter: Segmenter, benchmarks: list[Benchmark], settings: ImageSettings) -> dict[str, Any]:
    return {
        **segmenter.settings(),
        "kinds": list(segmenter.kinds),
        "sets": {benchmark.spec: len(benchmark.source) for benchmark in benchmarks},
        "prompts": list(settings.prompts),
        "seed": settings.seed,
        "limit": settings.limit,
    }


def _print_place(output: Path, left_out: list[LeftOut]) -> None:
    missing = f", {len(left_out)} items left out (listed in table.md)" if left_out else ""
    print(f"\nresults: {output}{missing}")
    _fail_if(sum(item.unread for item in left_out), "items")


def _fail_if(unread: int, what: str) -> None:
    """Ends the command with status 1 if anything could not be read."""
    if unread:
        print(f"sam2refiner: {unread} {what} could not be read (listed in table.md)", file=sys.stderr)
        raise SystemExit(1)
