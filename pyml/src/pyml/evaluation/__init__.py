"""Evaluate a model: metrics on the test set, the history of its epochs, and a second measurement."""
