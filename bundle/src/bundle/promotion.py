"""The rule by which a new model replaces the old one. Trainer and predict service share it."""

from bundle.manifest import Manifest


def is_worse(new: Manifest, before: Manifest) -> bool:
    """Return whether `new` has a lower accuracy than `before` on the same test set."""
    return new.test_sha256 == before.test_sha256 and new.metrics.accuracy < before.metrics.accuracy


def compare_accuracy(new: Manifest, before: Manifest) -> str:
    """Compare the accuracy of `new` with that of `before`, in one sentence for a person."""
    if new.test_sha256 != before.test_sha256:
        return f"{before.bundle_id} was measured on another test set, so the two accuracies cannot be compared"
    change = f"{new.metrics.accuracy:.4f}, {before.bundle_id} has {before.metrics.accuracy:.4f}"
    return f"its accuracy on the same test set is {change}"
