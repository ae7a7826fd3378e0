"""The format in which the trainer gives a model to the predict service (contract 1 in docs/architecture.md).

A bundle is a directory on the shared volume. It appears there with all its files at once:

    models/bundles/<bundle_id>/   model.h5  manifest.json  test_set.npz  predictions.csv  split.csv  ...
    models/current/<dataset>.json {"bundle_id": ..., "sha256": ..., ...}   the trainer's proposal, one per dataset

`manifest` describes a bundle, `publish` writes it, `verify` checks it before use, `inputs` prepares the inputs of a
model, `inference` loads a model and calls it. This package uses neither Weights & Biases nor Postgres.
"""

__version__ = "0.1.0"  # of all packages


class BundleError(Exception):
    """A bundle or one of its files is missing, incomplete or changed, or differs from the manifest."""
