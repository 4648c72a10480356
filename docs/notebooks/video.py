# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A video
# An object that is clicked on in one frame is followed through the others. The small model in the package learned to
# track in an hour and a half of two CPU cores, at 256 pixels: for real work, load an official checkpoint. All else is
# the same.

# %%
import numpy as np
import skimage.data

from sam2refiner_jax import SAM2VideoPredictor, load_model

photo = skimage.data.rocket()
frames = [photo[:400, 4 * i : 4 * i + 560] for i in range(6)]  # the camera moves to the right
predictor = SAM2VideoPredictor(load_model("nano", image_size=256))
state = predictor.init_state(frames)  # or a video file, a folder of pictures, a live iterator

# %% [markdown]
# Objects have numbers of your choice. Prompts come back at once as the mask of their frame, as logits.

# %%
frame, objects, logits = predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=[296, 124, 346, 399])
print(f"frame {frame}, objects {objects}: {int((logits[0, 0] > 0).sum())} pixels")

# %% [markdown]
# Frames are decoded, encoded and tracked one by one, so that memory stays the same however long the video is.

# %%
for frame, objects, logits in predictor.propagate_in_video(state):
    sizes = {number: int(np.sum(mask[0] > 0)) for number, mask in zip(objects, logits, strict=True)}
    print(f"frame {frame}: {sizes}")

# %% [markdown]
# A click on a later frame is a correction; the next run through the video takes it up.

# %%
predictor.add_new_points_or_box(state, frame_idx=3, obj_id=1, points=[[309, 180]], labels=[1])
masks = {frame: logits[0, 0] > 0 for frame, _, logits in predictor.propagate_in_video(state, start_frame_idx=3)}
print(f"frames {sorted(masks)}")
