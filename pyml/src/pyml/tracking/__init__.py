"""Record a training for Weights & Biases: write the record locally, upload it by a second process, verify it."""
