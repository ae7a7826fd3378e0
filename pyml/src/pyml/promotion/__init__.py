"""Decide whether a model is proposed for serving, and give the reasons against it."""
