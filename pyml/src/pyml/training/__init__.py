"""Train the model of an experiment and publish it as a bundle."""
