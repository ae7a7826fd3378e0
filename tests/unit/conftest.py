"""Hypothesis sets no time limit for an example: a busy machine can stop any test for a moment."""

from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
