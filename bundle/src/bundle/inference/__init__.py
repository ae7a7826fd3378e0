"""Load and call a bundle's model, in the same way for evaluation and for serving."""
