"""An experiment: one JSON file that says everything about a training."""
