"""A bundle's model, loaded and called, the same for evaluation and serving."""
