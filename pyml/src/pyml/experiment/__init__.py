"""Read and validate an experiment: one JSON file that describes a whole training."""
