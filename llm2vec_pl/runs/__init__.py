"""What surrounds training: checkpoints, resuming, what a run leaves, and what stops a bad one."""
