"""From an experiment and its dataset to a published bundle."""
