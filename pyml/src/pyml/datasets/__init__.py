"""Find, read, prepare and split the samples of an experiment."""
