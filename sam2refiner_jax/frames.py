"""Frames of videos: folders, video files, lists and iterators behind one interface, decoded ahead in threads."""

import bisect
import functools
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from .preprocess import Photo, as_rgb

__all__ = ["FrameList", "FrameStream", "Frames", "JpegFolder", "VideoFile", "open_frames"]

T = TypeVar("T")

FRAME_SUFFIXES = (".jpg", ".jpeg")
# Frames decoded ahead where any frame can be read at any time; streams are read one ahead.
READ_AHEAD = 4
# Frames of a video file kept decoded, for going backwards and for corrections.
DECODED_FRAMES = 32


class Ahead(Generic[T]):
    """A call that runs in a thread of its own while others work. The thread ends with the call, or with the program."""

    def __init__(self, call: Callable[[], T]):
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error

    def result(self) -> T:
        """What the call returned; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value


class Frames:
    """The frames of a video, each squeezed to the model's square input (bicubic, as officially).

    Attributes:
      height: of the video, in pixels.
      width: likewise.
      size: side of the model's input.
    """

    height: int
    width: int
    size: int

    def __len__(self) -> int:
        """The number of frames.

        Raises:
          TypeError: if it is not known, for a stream.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        raise NotImplementedError

    def indices(self) -> range:
        """The frames that can be read now."""
        return range(len(self))

    def photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """All frames in order, as they came."""
        raise NotImplementedError

    def ahead(self, order: Iterable[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "s s 3"]]]:
        """The frames of `order`, decoded in threads while earlier ones are worked on."""
        pending: deque[tuple[int, Ahead]] = deque()
        for index in order:
            pending.append((index, Ahead(functools.partial(self.__getitem__, index))))
            if len(pending) > READ_AHEAD:
                index, frame = pending.popleft()
                yield index, frame.result()
        for index, frame in pending:
            yield index, frame.result()

    def _squeeze(self, photo: Photo, name: str) -> UInt8[np.ndarray, "s s 3"]:
        """The frame at the model's input size; raises a ValueError if it is not as large as the others."""
        rgb = photo if isinstance(photo, Image.Image) else _as_bytes(photo, name)
        width, height = rgb.size
        if (height, width) != (self.height, self.width):
            raise ValueError(
                f"all frames must have one size: {name} is {width} x {height}, the first {self.width} x {self.height}"
            )
        return np.asarray(rgb.convert("RGB").resize((self.size, self.size)))


class FrameList(Frames):
    """Frames that are in memory already."""

    def __init__(self, photos: Sequence[Photo] | np.ndarray, size: int):
        if len(photos) == 0:
            raise ValueError("video_path must hold at least one frame, got an empty list")
        self.size = size
        self._photos = photos
        self.width, self.height = _as_bytes(photos[0], "frame 0").size
        for i, photo in enumerate(photos):
            width, height = photo.size if isinstance(photo, Image.Image) else np.shape(photo)[1::-1]
            if (height, width) != (self.height, self.width):
                raise ValueError(
                    f"all frames must have one size: frame {i} is {width} x {height}, "
                    f"the first {self.width} x {self.height}"
                )

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self._squeeze(self._photos[index], f"frame {index}")

    def photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for i, photo in enumerate(self._photos):
            yield np.asarray(_as_bytes(photo, f"frame {i}"))


class JpegFolder(Frames):
    """A folder of JPEGs whose names are frame numbers: 00000.jpg, 00001.jpg..."""

    def __init__(self, folder: Path, size: int):
        names = [p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES]
        if not names:
            raise ValueError(f"{folder} must hold frames <number>.jpg, got none")
        for path in names:
            if not path.stem.isdecimal():
                raise ValueError(f"frames must be named by their number, such as 00000.jpg; got {path}")
        self.size = size
        self._paths = sorted(names, key=lambda path: int(path.stem))
        self.width, self.height = self._open(0).size
        for i in range(len(self._paths)):  # Only headers are read here; the pictures are decoded when they are needed.
            with self._open(i) as image:
                if image.size != (self.width, self.height):
                    raise ValueError(
                        f"all frames must have one size: {self._paths[i]} is {image.width} x {image.height}, "
                        f"the first {self.width} x {self.height}"
                    )

    def __len__(self) -> int:
        return len(self._paths)

    def _open(self, index: int) -> Image.Image:
        try:
            return Image.open(self._paths[index])
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"frame {index}, {self._paths[index]}, is not a readable picture: {error}") from error

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self._squeeze(self._load(index), f"frame {index}, {self._paths[index]},")

    def photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for i in range(len(self)):
            yield np.asarray(self._load(i))

    def names(self) -> list[str]:
        """The frames' file names without their suffix."""
        return [path.stem for path in self._paths]

    def _load(self, index: int) -> Image.Image:
        with self._open(index) as image:
            try:
                return image.convert("RGB")
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"frame {index}, {self._paths[index]}, is not a readable picture: {error}") from error


class VideoFile(Frames):
    """A video file, read through PyAV.

    Any frame can be asked for; in order is fastest. The last few decoded frames are kept, so that going backwards
    decodes a stretch at a time.
    """

    def __init__(self, path: Path, size: int):
        import av

        self.size = size
        self._path = path
        self._lock = threading.Lock()
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path} is not a readable video: {error}") from error
        if not self._container.streams.video:
            raise ValueError(f"{path} holds no video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        try:
            times = [p.pts for p in self._container.demux(self._stream) if p.size]
        except av.FFmpegError as error:
            raise ValueError(f"{path} is a broken video: {error}") from error
        # Frames are numbered in the order they are shown, which with B-frames is not the order they are stored.
        self._times = sorted(time for time in times if time is not None)
        self.rate = float(self._stream.average_rate or 25)
        if not self._times:
            raise ValueError(f"{path} holds no frames")
        self._source: Iterator | None = None
        self._next = 0
        self.width, self.height = self._stream.codec_context.width, self._stream.codec_context.height
        self[0]

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._lock:  # one decoder, and several readers ahead
            if index not in self._decoded:
                self._decode_to(index)
            return self._decoded[index]

    def photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        import av

        with av.open(str(self._path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")

    def _decode_to(self, index: int) -> None:
        import av

        if self._source is None or not self._next <= index < self._next + DECODED_FRAMES:
            # Backwards, start early enough to have the frames before this one as well.
            start = index if index >= self._next else max(0, index - DECODED_FRAMES + 1)
            self._container.seek(self._times[start], stream=self._stream, backward=True)
            self._source = self._container.decode(self._stream)
            self._next = start
        try:
            for frame in self._source:
                place = -1 if frame.pts is None else bisect.bisect_left(self._times, frame.pts)
                if place < self._next:
                    continue  # between the key frame and the frame that was asked for
                if place > index or frame.is_corrupt:
                    break
                name = f"frame {place} of {self._path}"
                self._decoded[place] = self._squeeze(frame.to_image(), name)
                self._next = place + 1
                while len(self._decoded) > DECODED_FRAMES:
                    self._decoded.popitem(last=False)
                if place == index:
                    return
        except av.FFmpegError as error:
            self._source = None
            raise ValueError(f"frame {self._next} of {self._path} is corrupt: {error}") from error
        self._source = None
        raise ValueError(f"frame {self._next} of {self._path} is corrupt or missing")


class FrameStream(Frames):
    """Frames that an iterator gives as they arrive; the last ones are kept, and no more.

    Args:
      photos: read from a thread, one frame ahead.
      size: side of the model's input.
      kept: how many of the last frames can still be read.
    """

    def __init__(self, photos: Iterator[Photo], size: int, *, kept: int):
        self.size = size
        self._photos = photos
        self._kept = kept
        self._frames: OrderedDict[int, np.ndarray] = OrderedDict()
        self._arrived = 0
        self._next = Ahead(self._read)
        if not self._advance():
            raise ValueError("video_path must give at least one frame, got an iterator that gives none")

    def __len__(self) -> int:
        raise TypeError("the number of frames of an iterator is not known")

    def indices(self) -> range:
        """The frames that are still kept."""
        return range(self._arrived - len(self._frames), self._arrived)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self._frames[index]

    def ahead(self, order: Iterable[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "s s 3"]]]:
        """The frames of `order`, waiting for those to come; ends with the iterator."""
        for index in order:
            while index >= self._arrived:
                if not self._advance():
                    return
            yield index, self._frames[index]

    def _read(self) -> np.ndarray | None:
        index = self._arrived
        try:
            photo = next(self._photos, None)
        except Exception as error:
            raise RuntimeError(f"the iterator of frames failed at frame {index}: {error!r}") from error
        if photo is None:
            return None
        image = _as_bytes(photo, f"frame {index}")
        if index == 0:
            self.width, self.height = image.size
        return self._squeeze(image, f"frame {index}")

    def _advance(self) -> bool:
        frame = self._next.result()  # asked again after the end or a failure, it says the same again
        if frame is None:
            return False
        self._frames[self._arrived] = frame
        self._arrived += 1
        if len(self._frames) > self._kept:
            self._frames.popitem(last=False)
        self._next = Ahead(self._read)
        return True


def open_frames(
    source: str | os.PathLike[str] | Sequence[Photo] | np.ndarray | Iterable[Photo], size: int, *, kept: int
) -> Frames:
    """The frames of a folder of JPEGs, a video file, a list (or array) of pictures, or an iterator of them.

    Args:
      source: where the frames come from.
      size: side of the model's input.
      kept: how many frames of an iterator stay readable.

    Raises:
      ValueError: if it holds no frames, they differ in size, or they cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return JpegFolder(path, size)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
        return VideoFile(path, size)
    if isinstance(source, (Sequence, np.ndarray)):
        return FrameList(cast(Sequence[Photo], source), size)  # a str, also a sequence, was handled above
    return FrameStream(iter(source), size, kept=kept)


def _as_bytes(photo: Photo, name: str) -> Image.Image:
    """The picture in 8 bits a channel."""
    try:
        rgb = as_rgb(photo)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    if rgb.dtype != np.uint8:
        rgb = (rgb * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(rgb))
