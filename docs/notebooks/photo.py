# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A photo
# Clicks and boxes on one photo, coarse and refined, with the small model that comes with the package. It was trained
# for an afternoon on two cores: for real work, load an official checkpoint in its place.

# %%
import skimage.data

from sam2refiner_jax import SAM2ImagePredictor, load_model
from sam2refiner_jax.image.overlay import draw_overlay

photo = skimage.data.rocket()  # a Falcon 9 on its pad, released to the public domain by SpaceX
predictor = SAM2ImagePredictor(load_model("nano"))
predictor.set_image(photo)

# %% [markdown]
# The photo is encoded once. What follows is the decoder and the refiner alone, whatever the prompt. The first call
# compiles, the others do not.

# %%
box = [296.0, 124.0, 346.0, 408.0]
masks, ious, low_res = predictor.predict(box=box, multimask_output=False)
print(f"refined: predicted IoU {ious[0]:.2f}, {int(masks[0].sum())} pixels")

coarse, _, _ = predictor.predict(box=box, multimask_output=False, refine=False)
print(f"SAM 2 alone: {int(coarse[0].sum())} pixels, {int((coarse[0] != masks[0]).sum())} of them otherwise")

# %% [markdown]
# A click off the object corrects a mask; the mask before goes in with it, as logits.

# %%
corrected, _, _ = predictor.predict(
    point_coords=[[321.0, 180.0], [230.0, 330.0]], point_labels=[1, 0], mask_input=low_res, multimask_output=False
)
picture = draw_overlay(photo, corrected > 0)
print(f"picture of {picture.shape[1]} x {picture.shape[0]} pixels")
