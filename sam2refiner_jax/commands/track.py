"""The command `sam2refiner track`: objects through a video."""

from pathlib import Path
from typing import Literal

from tqdm import tqdm
from tyro.conf import Positional, UseAppendAction

from ..checkpoints import DEFAULT_CHECKPOINT, load_model
from ..video.policies import memory_policy
from ..video.predictor import SAM2VideoPredictor
from .track_folder import find_videos, track_folder
from .track_legs import follow
from .track_prompts import TrackPrompts
from .track_run import VideoJob, VideoRun, video_jobs

__all__ = ["track"]

# Frames between saves of a run that can go on, unless told otherwise.
SAVE_EVERY = 100


def track(
    video: Positional[Path],
    checkpoint: str = DEFAULT_CHECKPOINT,
    refiner: Path | None = None,
    output: Path = Path("out"),
    points: tuple[tuple[float, float, int], ...] = (),
    boxes: tuple[tuple[float, float, float, float], ...] = (),
    mask: Path | None = None,
    frame: int = 0,
    exemplar: UseAppendAction[tuple[tuple[Path, Path], ...]] = (),
    detections: Path | None = None,
    score_threshold: float = 0.0,
    overlay: bool = True,
    show_scores: bool = False,
    batch: int = 1,
    fill_hole_area: int = 0,
    memory: str = "official",
    resume: bool = False,
    save_every: int | None = None,
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Track objects through a video, or every video in a folder, from prompts, a detector's boxes or pictures of them.

    It writes the masks as OUTPUT/NAME/00000.png and so on, in DAVIS layout: palette pictures of the video's size whose
    value is the object's number, 0 where there is none; 16-bit ones if a number is beyond 255. OUTPUT/NAME.mp4 shows
    them on the video. OUTPUT/NAME/scores.csv has for each frame and object the probability that the object is there and
    the predicted IoU of its mask, before a refiner made it finer; blank where the mask was given. What was written
    stays if a later frame cannot be read. OUTPUT/NAME/track.json comes last and says what all was made with. Of several
    videos those that cannot be read are named, and the others are tracked.

    Args:
      video: A video file, or a folder of JPEGs (or PNGs, WebPs, TIFFs) named by frame number; or a folder of videos,
        each a file or a folder of frames.
      checkpoint: A checkpoint directory, an official .pt or .safetensors, or a Hugging Face id.
      refiner: A refiner's checkpoint directory, for finer masks.
      output: The folder for the results. Those of an earlier run on the same video are replaced as a whole, and nothing
        else.
      points: Clicks on one object, each X Y LABEL: pixels, then 1 on the object or 0 off it. They correct a mask of one
        object that is given beside them.
      boxes: Boxes, each X0 Y0 X1 Y1 in pixels; every box is an object of its own, numbered from 1.
      mask: A picture of the frame's size: every number in a palette or gray picture, or every colour but black, is an
        object; white on black is one. Or a folder of such PNGs named as frames, each for its own frame. For a folder of
        videos, a folder that holds for each of them one or the other, NAME.png or NAME/.
      frame: The frame that the prompts are for, unless their names say it; from a later one than the first, tracking
        runs in both directions.
      exemplar: IMAGE MASK: a picture of the objects that is no frame of the video, and a mask of it, numbered as `mask`
        is. Tracking needs no other prompt then. Can be given several times.
      detections: A detector's boxes: a JSON of CocoVID's or YouTube-VIS's form. Each instance is tracked from its first
        box on.
      score_threshold: Of detections, boxes with lower scores do not count.
      overlay: Write the video that shows the masks.
      show_scores: Write the two scores beside each object in that video.
      batch: How many videos of a folder advance together, over all devices; on GPUs and TPUs several are quicker than
        one by one.
      fill_hole_area: Fill holes of at most this area, in pixels of the low-resolution mask.
      memory: What is remembered of tracked frames: official, quality, motion, tree, or a policy of your own.
      resume: Go on with a run that was interrupted, with the same results; from the start if there is none. Saves its
        state every 100 frames. Of a folder, videos that are done are passed over, and others begin anew.
      save_every: Save the state every so many frames, for a later --resume.
      image_size: Side of the square that frames are squeezed to, a multiple of 32; the checkpoint's own unless given.
      dtype: Computation type; bfloat16 is the fast mode on GPUs and TPUs.
    """
    if show_scores and not overlay:
        raise ValueError("show_scores needs the overlay, which shows them")
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    videos = find_videos(video)
    if batch < 1 or (batch > 1 and not videos):
        raise ValueError(f"batch must be at least 1, and 1 for a single video, got {batch}")
    if videos and (detections or save_every):
        raise ValueError("detections and save_every are for a single video, not for a folder of videos")

    def prompts_with(mask: Path | None) -> TrackPrompts:
        return TrackPrompts(points, boxes, mask, frame, exemplar, detections, score_threshold)

    settings = {
        "checkpoint": checkpoint,
        "refiner": str(refiner) if refiner else None,
        "overlay": overlay,
        "show_scores": show_scores,
        "fill_hole_area": fill_hole_area,
        "memory": memory,
        "image_size": image_size,
        "dtype": dtype,
    }
    jobs = video_jobs(videos or [video], mask, prompts_with, output, settings, overlay=overlay, several=bool(videos))
    if not videos:
        jobs[0].progress.every = save_every or (SAVE_EVERY if resume else None)
    left = [job for job in jobs if not (resume and job.progress.check())]
    if len(left) < len(jobs):
        print(f"done already: {', '.join(str(job.progress.folder) for job in jobs if job not in left)}")
    if not left:
        return
    policy = memory_policy(memory)
    model = load_model(checkpoint, refiner=refiner, image_size=image_size, dtype=dtype)
    predictor = SAM2VideoPredictor(model, fill_hole_area=fill_hole_area, memory=policy)
    if videos:
        track_folder(predictor, left, batch, show_scores=show_scores)
        return
    _track_one(predictor, jobs[0], resume, show_scores)
    shown = jobs[0].shown
    folder = jobs[0].progress.folder
    print(f"masks: {folder}" + (f", overlay: {shown}" if overlay else ""))


def _track_one(predictor: SAM2VideoPredictor, job: VideoJob, resume: bool, show_scores: bool) -> None:
    """Tracks a video, from its start or from where its progress is, and writes all results."""
    run = VideoRun(job, predictor, resume=resume)
    progress, legs = job.progress, run.legs
    try:
        with tqdm(total=sum(leg.count for leg in legs), initial=len(progress.scores), unit="frame") as bar:
            for position, tracked in follow(predictor, run.state, legs, progress.position):
                run.write(position, tracked)
                bar.update()
    finally:  # Also where a frame cannot be read: the table and the overlay have what there is.
        run.write_tables(show_scores=show_scores)
    run.finish()
