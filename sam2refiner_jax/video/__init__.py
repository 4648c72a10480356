"""Videos: frames, the memory of them, and tracking through it."""
