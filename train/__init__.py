"""Training: data, prompts, losses, the step, the loop, and planning for pods."""
