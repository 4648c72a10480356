"""Photos: from a file and prompts to masks of the photo's size."""
