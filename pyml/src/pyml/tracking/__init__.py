"""The record of a training for Weights & Biases: written locally, uploaded by a second process, verified."""
