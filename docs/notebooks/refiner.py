# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A refiner of your own
# A refiner is one class with a config of its own. This one adds a convolution of the image's colours to the upsampled
# mask. It is trained on sixteen images, on the frozen base of the small model in the package, and then serves in the
# predictor like any other.

# %%
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from sam2refiner_jax import Refiner, SAM2ImagePredictor, load_model, register_refiner, save_model
from sam2refiner_jax.nn.layers import conv
from sam2refiner_jax.nn.resize import resize_planes
from sam2refiner_jax.refiners import Refined
from sam2refiner_jax.train.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from sam2refiner_jax.train.loop import train


@dataclasses.dataclass(frozen=True)
class ColourRefinerConfig:
    """What a user of this refiner may vary.

    Attributes:
      hidden: channels of the convolution.
    """

    hidden: int = 8


@register_refiner("colours", ColourRefinerConfig)
class ColourRefiner(Refiner):
    """Adds a convolution of the image's colours to the upsampled mask."""

    def __init__(self, config, base, *, dtype, rngs):
        super().__init__(config, base, dtype=dtype, rngs=rngs)
        self.conv = conv(4, config.hidden, 3, padding=1, dtype=dtype, rngs=rngs)
        self.out = conv(config.hidden, 1, 1, dtype=dtype, rngs=rngs)

    def prepare(self, images, features, views):
        return images  # once an image, whatever the prompts

    def __call__(self, inputs):
        image = inputs.prepared
        coarse = resize_planes(inputs.masks, image.shape[1:3])[..., None]
        hidden = jax.nn.gelu(self.conv(jnp.concatenate([image, coarse.astype(image.dtype)], axis=-1)))
        return Refined((coarse + self.out(hidden))[..., 0])


# %% [markdown]
# Sixteen scenes are made up on the spot; `--data.sources` of your own are `folder:DIR`, with `images/` and `masks/` in
# it. The folder of the run can be given again: it goes on where it was stopped.

# %%
work = Path("out/notebook")
if not (work / "base").exists():
    save_model(load_model("nano").with_refiner(None), work / "base")
config = TrainConfig(
    model=ModelConfig(
        checkpoint=str(work / "base"), refiner=ColourRefinerConfig(hidden=16), image_size=128, dtype="float32"
    ),
    data=DataConfig(sources=("procedural:?size=192&length=16",), jitter=None),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
    batch_size=8,
    steps=10,
    log_every=5,
)
refiner = train(config, work / "run", progress=False)

# %% [markdown]
# From here on it is a refiner like any other.

# %%
predictor = SAM2ImagePredictor(load_model("nano", refiner=refiner))
predictor.set_image((jax.random.uniform(jax.random.key(0), (120, 160, 3)) * 255).astype(jnp.uint8))
masks, ious, _ = predictor.predict(box=[20, 20, 90, 90], multimask_output=False)
print(f"{refiner}: a mask of {masks.shape[1:]}, predicted IoU {ious[0]:.2f}")
