"""What Manyhands costs per task: every figure is a ratio against the bare engine, measured in the same run."""
