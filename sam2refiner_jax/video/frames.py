"""Frames of videos: folders, video files, lists and iterators behind one interface, decoded ahead in threads."""

import functools
import itertools
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, cast

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from ..data.files import files_in
from ..image.preprocess import Photo, as_rgb, read_photo
from .reader import VideoReader

__all__ = [
    "FrameFolder",
    "FrameList",
    "FrameStream",
    "Frames",
    "LiveFrames",
    "VideoFile",
    "frame_paths",
    "open_frames",
]

T = TypeVar("T")

# EXIF orientations that stand a lying picture up.
LYING_ORIENTATIONS = (5, 6, 7, 8)
# Frames a second of what has no times of its own.
FRAME_RATE = 24
# Frames decoded ahead where any frame can be read at any time; streams are read one ahead.
READ_AHEAD = 4
# Frames of a video file kept decoded, for going backwards and for corrections.
DECODED_FRAMES = 32


class Ahead(Generic[T]):
    """A call that runs in a thread of its own while others work. The thread ends with the call, or with the program.

    Args:
      call: what to run, without arguments; it starts at once.
    """

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
      pixel_aspect: width by height of a pixel.
    """

    height: int
    width: int
    size: int
    pixel_aspect: Fraction = Fraction(1)

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

    def names(self) -> list[str]:
        """A name for each frame, such as its file's without the suffix."""
        return [f"{i:05d}" for i in range(len(self))]

    def times(self) -> list[Fraction]:
        """When each frame is shown, in seconds from the first."""
        return [Fraction(i, FRAME_RATE) for i in range(len(self))]

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
    """Frames that are in memory already.

    Args:
      photos: the frames in order, all of one size; at least one.
      size: side of the model's input.
    """

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


class FrameFolder(Frames):
    """A folder of pictures whose names are frame numbers: 00000.jpg, 00001.jpg...

    They are read as photos are, upright by their EXIF orientation, where the official package takes them as stored.
    Where there are JPEGs, they are the frames, as officially, and other pictures beside them are not.

    Args:
      folder: where the pictures are; all have one size.
      size: side of the model's input.
    """

    def __init__(self, folder: Path, size: int):
        self.size = size
        self._paths = frame_paths(folder)
        self.width, self.height = self._size_of(0)
        for i, path in enumerate(self._paths):  # Only headers are read; the pictures are decoded when they are needed.
            width, height = self._size_of(i)
            if (width, height) != (self.width, self.height):
                raise ValueError(
                    f"all frames must have one size: {path} is {width} x {height}, "
                    f"the first {self.width} x {self.height}"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self._squeeze(self._read(index), f"frame {index}, {self._paths[index]},")

    def photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for i in range(len(self)):
            yield np.asarray(_as_bytes(self._read(i), f"frame {i}"))

    def names(self) -> list[str]:
        return [path.stem for path in self._paths]

    def _read(self, index: int) -> np.ndarray:
        try:
            return read_photo(self._paths[index])
        except ValueError as error:
            reason = error.__cause__ or error
            raise ValueError(f"frame {index}, {self._paths[index]}, is not a readable picture: {reason}") from error

    def _size_of(self, index: int) -> tuple[int, int]:
        """Width and height of the upright picture."""
        try:
            with Image.open(self._paths[index]) as image:
                # Pillow has turned TIFFs already. Asking a PNG without it in its header would decode the picture.
                has_exif = image.format != "TIFF" and "exif" in image.info
                is_turned = has_exif and image.getexif().get(ExifTags.Base.Orientation) in LYING_ORIENTATIONS
                return (image.height, image.width) if is_turned else image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"frame {index}, {self._paths[index]}, is not a readable picture: {error}") from error


def frame_paths(folder: Path) -> list[Path]:
    """The pictures of a folder of frames, in the order of the numbers that name them; hidden files are passed over.

    Raises:
      ValueError: if there are none, one is not named by a number, or two have the same.
    """
    pictures = files_in(folder)
    jpegs = [path for path in pictures if path.suffix.lower() in (".jpg", ".jpeg")]
    numbered: dict[int, Path] = {}
    for path in jpegs or pictures:
        if not path.stem.isdecimal():
            raise ValueError(f"frames must be named by their number, such as 00000.jpg; got {path}")
        other = numbered.setdefault(int(path.stem), path)
        if other != path:
            raise ValueError(f"frames must have numbers of their own; {folder} holds {other.name} and {path.name}")
    if not numbered:
        raise ValueError(f"{folder} must hold frames <number>.jpg, got none")
    return [numbered[number] for number in sorted(numbered)]


class VideoFile(Frames):
    """A video file or its bytes; see `VideoReader` for what its frames are.

    Any frame can be asked for; in order is fastest. The last few decoded frames are kept, so that going backwards
    decodes a stretch at a time.

    Args:
      source: the file, or its bytes.
      size: side of the model's input.
    """

    def __init__(self, source: Path | bytes, size: int):
        self.size = size
        self._reader = VideoReader(source)
        self.width, self.height = self._reader.width, self._reader.height
        self.pixel_aspect = self._reader.pixel_aspect
        self._forget()
        self[0]

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._lock:  # one decoder, and several readers ahead
            if index not in self._decoded:
                self._decode_to(index)
            return self._decoded[index]

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which opens the file anew."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_source", "_decoded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for image in self._reader.frames_from(0):
            yield np.asarray(image)

    def times(self) -> list[Fraction]:
        return self._reader.times

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._source: Iterator[Image.Image] | None = None
        self._next = 0
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()

    def _decode_to(self, index: int) -> None:
        if self._source is None or not self._next <= index < self._next + DECODED_FRAMES:
            # Backwards, start early enough to have the frames before this one as well.
            self._next = index if index >= self._next else max(0, index - DECODED_FRAMES + 1)
            self._source = self._reader.frames_from(self._next)
        try:
            for image in itertools.islice(self._source, index + 1 - self._next):
                self._decoded[self._next] = self._squeeze(image, f"frame {self._next} of {self._reader.name}")
                self._next += 1
                while len(self._decoded) > DECODED_FRAMES:
                    self._decoded.popitem(last=False)
        except ValueError:
            self._source = None
            if self._next == index:
                raise
            self._next = index  # one on the way was not asked for, and may be corrupt
            self._decode_to(index)


class LiveFrames(Frames):
    """Frames that are given one by one; the last ones are kept, and no more.

    Args:
      size: side of the model's input.
      kept: how many of the last frames can still be read.
    """

    def __init__(self, size: int, *, kept: int):
        self.size = size
        self._kept = kept
        self._frames: OrderedDict[int, np.ndarray] = OrderedDict()
        self._arrived = 0

    def __len__(self) -> int:
        raise TypeError("the number of frames of a live stream is not known")

    def indices(self) -> range:
        """The frames that are still kept."""
        return range(self._arrived - len(self._frames), self._arrived)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self._frames[index]

    def ahead(self, order: Iterable[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "s s 3"]]]:
        """The frames of `order`, up to the last that has arrived."""
        for index in order:
            if index >= self._arrived:
                return
            yield index, self._frames[index]

    def __reduce__(self) -> NoReturn:
        raise TypeError("the frames of a live stream cannot be copied")

    def squeezed(self, photo: Photo) -> UInt8[np.ndarray, "s s 3"]:
        """The next frame at the model's input size; raises a ValueError if it is not as large as the first."""
        image = _as_bytes(photo, f"frame {self._arrived}")
        if self._arrived == 0:
            self.width, self.height = image.size
        return self._squeeze(image, f"frame {self._arrived}")

    def push(self, image: UInt8[np.ndarray, "s s 3"]) -> int:
        """Takes the next frame, as `squeezed` gives it; returns its index."""
        self._frames[self._arrived] = image
        self._arrived += 1
        if len(self._frames) > self._kept:
            self._frames.popitem(last=False)
        return self._arrived - 1


class FrameStream(LiveFrames):
    """Frames that an iterator gives as they arrive; the last ones are kept, and no more.

    Args:
      photos: read from a thread, one frame ahead.
      size: side of the model's input.
      kept: how many of the last frames can still be read.
    """

    def __init__(self, photos: Iterator[Photo], size: int, *, kept: int):
        super().__init__(size, kept=kept)
        self._photos = photos
        self._next = Ahead(self._read)
        if not self._advance():
            raise ValueError("video_path must give at least one frame, got an iterator that gives none")

    def __len__(self) -> int:
        raise TypeError("the number of frames of an iterator is not known")

    def ahead(self, order: Iterable[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "s s 3"]]]:
        """The frames of `order`, waiting for those to come; ends with the iterator."""
        for index in order:
            while index >= self._arrived:
                if not self._advance():
                    return
            yield index, self._frames[index]

    def __reduce__(self) -> NoReturn:
        raise TypeError("the frames of an iterator cannot be copied")

    def _read(self) -> np.ndarray | None:
        try:
            photo = next(self._photos, None)
        except Exception as error:
            raise RuntimeError(f"the iterator of frames failed at frame {self._arrived}: {error!r}") from error
        return None if photo is None else self.squeezed(photo)

    def _advance(self) -> bool:
        frame = self._next.result()  # asked again after the end or a failure, it says the same again
        if frame is None:
            return False
        self.push(frame)
        self._next = Ahead(self._read)
        return True


def open_frames(
    source: str | os.PathLike[str] | bytes | Sequence[Photo] | np.ndarray | Iterable[Photo], size: int, *, kept: int
) -> Frames:
    """The frames of a folder of pictures, a video file or its bytes, a list (or array) of pictures, or an iterator.

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
            return FrameFolder(path, size)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
        return VideoFile(path, size)
    if isinstance(source, bytes):
        return VideoFile(source, size)
    if isinstance(source, jax.Array):
        source = np.asarray(source)
    if isinstance(source, (Sequence, np.ndarray)):
        return FrameList(cast(Sequence[Photo], source), size)  # str and bytes, also sequences, were above
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
