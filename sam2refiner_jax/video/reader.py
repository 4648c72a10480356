"""Video files, frame by frame as a player shows them; decoded by PyAV, which is imported with the first of them."""

import bisect
import io
import itertools
import warnings
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["BYTES_ALONE", "VideoReader"]

# The containers that store one shown frame a packet, with its time, so that frames can be listed without decoding.
LISTING_FORMATS = {"mov", "matroska"}
# The smallest packets that are surely shown, in bytes: VP8 stores pictures that never are, and MPEG-4 has pictures that
# say in a few bytes that nothing was coded.
SMALLEST_SHOWN = {"vp8": 2**31, "mpeg4": 16}
# Frames of a list that are compared with what decodes before the list is believed.
COMPARED = 32
# How many frames earlier decoding starts when it did not lead to the frame that was wanted.
EARLIER = (0, 32, 256)
# A longer step between two frames, in seconds, is a jump of the clock where the format allows such, as in ffmpeg.
LONGEST_STEP = 10
FALLBACK_RATE = Fraction(25)


class VideoReader:
    """The frames of a video file, in the order in which they are shown.

    What decodes is a frame, as in a player: not what an edit list cuts off, what comes before the first key frame, or
    what is hidden. MP4 and Matroska files list their frames' times, and opening them decodes a few frames only. Other
    files are decoded once to count their frames, as are those whose list is incomplete, repeats a time or is not what
    decodes; what does not decode in them is passed over with a warning. Frames whose times ascend are read from the
    key frame before them, if that gives the same as when they were counted; others from the start.

    Of several video streams that one is read which the file calls its default one, or else the largest; never a cover
    picture. Frames are turned as the file's display matrix says. Pixels that are not square are left as stored.

    Args:
      source: the file, or its bytes.

    Attributes:
      name: of the file, for messages.
      width: of the upright frames, in pixels.
      height: likewise.
      times: of each frame, in seconds from the first, ascending. Where the file has no usable time, frames follow at
        its average rate.
      pixel_aspect: width by height of a pixel of the upright frames.

    Raises:
      ValueError: naming the file, if it is a picture, cannot be read, or no frame in it can be decoded.
    """

    def __init__(self, source: Path | bytes):
        self._source = source
        self.name = f"video_path, {len(source)} bytes," if isinstance(source, bytes) else str(source)
        self._checksums: list[int] | None = None  # of the frames, where they were decoded to be counted
        self._stamps: Sequence[Any] = self._listed() or self._decoded()
        if not self._stamps:
            raise ValueError(f"{self.name} holds no frames that can be decoded")
        # Only frames whose times all ascend can be found by them.
        self._found_by_time = None not in self._stamps and all(a < b for a, b in itertools.pairwise(self._stamps))
        decoder = Decoder(source, self.name)
        self.times = shown_times(self._stamps, decoder)
        first = next(decoder.frames())
        self.width, self.height = upright(first).size
        aspect = decoder.stream.sample_aspect_ratio or Fraction(1)
        self.pixel_aspect = 1 / aspect if self.width != first.width else aspect

    def __len__(self) -> int:
        return len(self._stamps)

    def frames_from(self, first: int) -> Iterator[Image.Image]:
        """The frames from `first` on, upright RGB.

        Raises:
          ValueError: naming the frame and the file, at a frame that cannot be decoded.
        """
        place = first
        while place < len(self):
            for found, frame in self._found(place):
                if found != place:
                    break  # a frame is missing, which may decode if decoding starts earlier
                yield upright(frame)
                place += 1

    def _found(self, first: int) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from `first` on, wherever decoding has to start for it."""
        starts: list[int | None] = [first - back for back in EARLIER if self._found_by_time and first > back]
        frame_threads = self._checksums is None
        for start in (*starts, None):
            decoder = Decoder(self._source, self.name, frame_threads=frame_threads)
            numbered = self._numbered(decoder, start)
            place, frame = next(((p, f) for p, f in numbered if p >= first), (None, None))
            if place == first:
                yield first, frame
                yield from numbered
                return
            frame_threads = frame_threads and not decoder.failures
        raise ValueError(f"frame {first} of {self.name} is corrupt or missing")

    def _numbered(self, decoder: "Decoder", start: int | None) -> Iterator[tuple[int, Any]]:
        """What decodes from near a frame or from the start of the file, with the frames' numbers."""
        if start is not None and not decoder.seek(self._stamps[start]):
            return
        for place, frame in enumerate(decoder.frames()):
            if self._found_by_time:
                if frame.pts is None:
                    continue
                place = bisect.bisect_left(self._stamps, frame.pts)
                if place == len(self) or self._stamps[place] != frame.pts:
                    continue
            if start is None or self._checksums is None or checksum(frame) == self._checksums[place]:
                yield place, frame

    def _listed(self) -> list[Any] | None:
        """The frames' times as the container lists them; None if only decoding can tell."""
        decoder = Decoder(self._source, self.name)
        if not LISTING_FORMATS & set(decoder.container.format.name.split(",")):
            return None
        smallest = SMALLEST_SHOWN.get(decoder.codec, 0)
        times, starts_with_key = [], None
        for packet in decoder.packets():
            starts_with_key = packet.is_keyframe if starts_with_key is None else starts_with_key
            if packet.is_discard:
                continue  # cut off by an edit list
            if packet.pts is None or packet.is_corrupt or packet.size < smallest:
                return None
            times.append(packet.pts)
        times.sort()  # with B-frames, packets are stored in another order than they are shown
        if not starts_with_key or decoder.failures or len(set(times)) < len(times):
            return None
        decoder = Decoder(self._source, self.name)
        shown = [frame.pts for frame in itertools.islice(decoder.frames(), COMPARED)]
        # A damaged file keeps its list, so that the frame which cannot be read is named.
        is_true = shown == times[: len(shown)] or (decoder.failures and shown[:1] == times[:1])
        return times if shown and is_true else None

    def _decoded(self) -> list[Any]:
        """The times of all frames that decode."""
        decoder = Decoder(self._source, self.name, frame_threads=False)
        frames = [(frame.pts, checksum(frame)) for frame in decoder.frames()]
        stamps, self._checksums = [pts for pts, _ in frames], [total for _, total in frames]
        lost = decoder.failures - decoder.failures_before_first
        if stamps and lost:
            warnings.warn(f"{self.name}: {lost} of its packets cannot be decoded and are passed over", stacklevel=2)
        return stamps


# For FFmpeg, given bytes: they may be a list of files and addresses for it to read.
BYTES_ALONE = {"protocol_whitelist": "none"}


class Decoder:
    """A video file that is open, and one pass through its frames.

    Args:
      source: the file, or its bytes.
      name: of the file, for messages.
      frame_threads: decode several frames at once; damage can then take other frames with it, not always the same.

    Attributes:
      failures: how many packets could not be read or decoded so far, as errors.
      failures_before_first: of them, those before the first frame, as in what was cut between key frames.
    """

    def __init__(self, source: Path | bytes, name: str, *, frame_threads: bool = True):
        import av

        self._errors = av.FFmpegError
        self._name = name
        self.failures = 0
        self.failures_before_first = 0
        try:
            # The protocol is named, since a path with a colon would be taken for another one's.
            file: Any = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
            # Titles that are not UTF-8 are an error to PyAV before 19 unless it is told otherwise.
            is_strict = int(av.__version__.partition(".")[0]) < 19
            advice: dict[str, Any] = {"metadata_errors": "replace"} if is_strict else {}
            if isinstance(source, bytes):
                advice["options"] = BYTES_ALONE
            self.container = av.open(file, **advice)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ValueError(f"{name} is not a readable video: {error}") from error
        if self.container.format.name == "image2" or self.container.format.name.endswith("_pipe"):
            raise ValueError(f"{name} is a single picture, not a video; give the folder of the frames or a video file")
        streams = [s for s in self.container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise ValueError(f"{name} holds no video")
        readable = [s for s in streams if s.codec_context is not None and s.codec_context.width]
        if not readable:
            raise ValueError(f"{name} holds no video of a codec that PyAV can decode")
        default = av.stream.Disposition.default
        self.stream = max(readable, key=lambda s: (bool(s.disposition & default), s.width * s.height))
        self.stream.thread_type = "AUTO" if frame_threads else "SLICE"
        self.codec = self.stream.codec_context.codec.name

    def seek(self, time: int | None) -> bool:
        """Goes to the key frame before a time, in the stream's unit, as well as the file can."""
        try:
            self.container.seek(time, stream=self.stream, backward=True)
        except self._errors:
            return False
        return True

    def packets(self) -> Iterator[Any]:
        """The packets from here on; those without content, which stand for a repeated frame or the end, left out."""
        try:
            yield from (packet for packet in self.container.demux(self.stream) if packet.size)
        except self._errors:  # what was read before is there all the same
            self.failures += 1

    def frames(self) -> Iterator[Any]:
        """The frames from here on; what does not decode is passed over and counted."""
        has_begun = False
        for packet in itertools.chain(self.packets(), [None]):
            try:
                frames = self.stream.codec_context.decode(packet)
            except self._errors:
                self.failures += 1
                self.failures_before_first += not has_begun
                continue
            has_begun = has_begun or bool(frames)
            yield from frames


def shown_times(stamps: Sequence[Any], decoder: Decoder) -> list[Fraction]:
    """When each frame is shown, in seconds from the first, each later than the one before.

    Where recordings were joined, the clock jumps; it goes on there after the time of a frame.
    """
    import av

    rate = decoder.stream.average_rate or decoder.stream.guessed_rate or FALLBACK_RATE
    unit = decoder.stream.time_base or 1 / rate
    may_jump = bool(decoder.container.format.flags & av.format.Flags.ts_discont.value)
    if not may_jump and (None in stamps or any(a > b for a, b in itertools.pairwise(stamps))):
        return [i / rate for i in range(len(stamps))]  # no clock, as in AVI and in what has no container
    step = max(1, round(1 / (rate * unit)))
    times, jumped = [0], -(stamps[0] or 0)
    for stamp in stamps[1:]:
        time = times[-1] if stamp is None else stamp + jumped
        if time <= times[-1] or (may_jump and (time - times[-1]) * unit > LONGEST_STEP):
            jumped += times[-1] + step - time if may_jump and stamp is not None else 0
            time = times[-1] + step
        times.append(time)
    return [time * unit for time in times]


def checksum(frame: Any) -> int:
    """Of the first plane of a frame, which tells it from others."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return zlib.crc32(rows[:, : plane.width].tobytes())  # what follows in a row may be anything


def upright(frame: Any) -> Image.Image:
    """The frame as RGB, turned and mirrored by its display matrix, if that is by quarters of a turn."""
    image = frame.to_image()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # x' = a x + c y, y' = b x + d y: https://ffmpeg.org/doxygen/trunk/group__lavu__video__display.html
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(np.float64)
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if min(straight, crossed) > 0.02 * max(straight, crossed):
        return image
    if crossed > straight:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        a, d = c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else image
