"""Whether a model is proposed to serve its dataset, and what speaks against it."""
