"""Sources of images with masks, and the pipeline from them to batches."""
