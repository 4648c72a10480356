"""Sources of images and clips that are known to the pixel; in a module of their own, so that workers find them."""

import numpy as np


class Colours:
    """Images of one colour each, from `first` on."""

    def __init__(self, first: int, count: int, size: tuple[int, int] = (40, 60)):
        self._first = first
        self._count = count
        self._size = size

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        image = np.full((*self._size, 3), self._first + index, np.uint8)
        return {"image": image, "mask": np.full(self._size, 255, np.uint8)}

    def name_of(self, index):
        return str(self._first + index)


class Moving(Colours):
    """Clips of a bright square that moves right, on an image of one colour each; backwards it moves left."""

    def clip(self, index, frames, objects, rng, *, reverse):
        image = np.full((frames, *self._size, 3), self._first + index, np.uint8)
        mask = np.zeros((frames, *self._size, 1), np.uint8)
        for frame in range(frames):
            x = 10 + 4 * (frames - 1 - frame if reverse else frame)
            image[frame, 10:24, x : x + 14] = 250
            mask[frame, 10:24, x : x + 14] = 255
        return {"image": image, "mask": mask}
