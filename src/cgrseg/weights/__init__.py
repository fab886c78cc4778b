"""Where numbers come from and go to: the weights file, foreign checkpoints, models by name."""
