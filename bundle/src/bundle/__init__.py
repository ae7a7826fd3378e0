"""The hand-over between the trainer and the predict service (contract 1 in docs/architecture.md).

A bundle is a directory that appears whole on the shared volume:

    models/bundles/<bundle_id>/   model.h5  manifest.json  test_set.npz  predictions.csv  split.csv  ...
    models/current/<dataset>.json {"bundle_id": ..., "sha256": ..., ...}   the trainer's proposal, one per dataset

`manifest` is what a bundle says of itself, `publish` writes it, `verify` distrusts it, `inputs` prepares what a model
takes, `inference` loads a model and calls it. This package knows neither Weights & Biases nor Postgres.
"""

__version__ = "0.1.0"  # of all packages


class BundleError(Exception):
    """A bundle, or a file of one, is missing, torn, tampered with or not what its manifest says."""
