"""Runs exported programs; a copy lies beside them. Needs JAX and NumPy alone.

programs = Programs("folder")
features = programs.encode(images=photos)  # (n, side, side, 3) float32, RGB in [0, 1]
masks = programs.decode(**features, **programs.prompts(points=[[[500, 375]]], labels=[[1]]))
"""

import json
from pathlib import Path

import jax
import jaxlib
import numpy as np
from jax.experimental import serialize_executable


def kind_of(device):
    """What compiled programs are for: a device's kind, JAX's versions and that of the device's compiler."""
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "compiler": device.client.platform_version}
    return {"device": device.device_kind, **versions}


class Programs:
    """The programs in a folder, by their names in its manifest.json; each takes and gives named arrays.

    What was compiled for this kind of device and these versions is loaded; the rest is compiled when it is called.
    """

    def __init__(self, folder):
        self.folder, self._loaded = Path(folder), {}
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        with np.load(self.folder / "weights.npz") as file:
            stored = [(file[key], dtype) for key, dtype in self.manifest["weights"].items()]
        self.weights = [jax.device_put(array.view(jax.numpy.dtype(dtype))) for array, dtype in stored]
        here = kind_of(jax.devices()[0]).items()
        self.compiled = self.manifest["compiled"] if here <= self.manifest.get("compiled", {}).items() else None

    def __getattr__(self, name):
        if name.startswith("_") or name not in self.manifest["programs"]:
            raise AttributeError(f"no program {name!r}; there are {', '.join(self.manifest['programs'])}")
        inputs = self.manifest["programs"][name]["inputs"]
        return lambda **given: self._call(name, {key: given[key] for key in inputs})

    def _call(self, name, given):
        program = self.manifest["programs"][name]
        ready = self.compiled is not None and all(
            np.shape(given[key]) == tuple(self.compiled.get(side, side) for side in shape)
            for key, (shape, _) in program["inputs"].items()
        )
        if (name, ready) not in self._loaded:
            if ready:
                forms = ((self.weights, given), {}), dict.fromkeys(program["outputs"], 0)
                payload = (self.folder / f"{name}.compiled").read_bytes()
                load = serialize_executable.deserialize_and_load
                self._loaded[name, ready] = load(payload, *map(jax.tree.structure, forms))
            else:
                exported = jax.export.deserialize((self.folder / f"{name}.jax").read_bytes())
                self._loaded[name, ready] = jax.jit(exported.call)
        return self._loaded[name, ready](self.weights, given)

    def prompts(self, points, labels, image=0, ended=True):
        """Clicks (objects, n, 2) in pixels of the input and labels (objects, n): 1 on, 0 off, 2 and 3 a box's corners.

        A box's corners come first. `track` wants the prompts of the first frame, of which the end is none: ended=False.
        """
        slots, side = self.manifest["clicks"], self.manifest["image_size"] // 4
        points, labels = np.asarray(points, np.float32), np.asarray(labels, np.int32)
        count, used = labels.shape
        padded = np.full((count, slots), -2, np.int32)
        padded[:, :used] = labels
        padded[:, used : used + ended] = -1  # officially a padding point ends every set
        places = np.zeros((count, slots, 2), np.float32)
        places[:, :used] = points
        mask, has_mask = np.zeros((count, side, side), np.float32), np.zeros(count, bool)
        which = np.full(count, image, np.int32)
        return {"points": places, "labels": padded, "mask": mask, "has_mask": has_mask, "image": which}

    def empty(self, name, objects):
        """A memory bank without memories: inputs of the program that begin with "memory"."""
        inputs = self.manifest["programs"][name]["inputs"]
        bank = {
            key: np.zeros((objects, *shape[1:]), jax.numpy.dtype(dtype))
            for key, (shape, dtype) in inputs.items()
            if key.startswith("memory")
        }
        return {key: np.full_like(x, -(2**29)) if x.dtype == np.int32 else x for key, x in bank.items()}
