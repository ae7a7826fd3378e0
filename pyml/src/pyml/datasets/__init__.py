"""The samples of an experiment: found, read, prepared, split."""
