"""Diagnose a model from its metrics: whether it learned, the reasons against promotion, and misleading accuracy.

A model with objections is still published, but `proposal` does not propose it.
"""

import math
from collections.abc import Sequence

from bundle.history import Epoch
from bundle.manifest import Manifest, Metrics
from pyml.experiment.gate import Gate

STANDARD_ERRORS = 2  # a metric that is at least so many standard errors above chance shows learning
UNBALANCED = 2  # least ratio of samples between the largest and the smallest class of an unbalanced test set


def objections(metrics: Metrics, gate: Gate | None) -> tuple[str, ...]:
    """Give the reasons against promotion, each in a few words; empty if there are none."""
    found = ["it did not learn"] if did_not_learn(metrics) else []
    for name, wanted in (gate.model_dump(exclude_none=True) if gate else {}).items():
        value = getattr(metrics, name)
        if value is None:
            found.append(f"its {name} is not known, {wanted} is needed")
        elif name == "loss" and value > wanted:
            found.append(f"its loss {value:.6g} is above {wanted}")
        elif name != "loss" and value < wanted:
            found.append(f"its {name} {value:.6g} is below {wanted}")
    return tuple(found)


def did_not_learn(metrics: Metrics) -> bool:
    """Tell whether the predictions are no better than chance, both by mean recall and by AUROC.

    Neither metric depends on the sizes of the classes. A model that always predicts the same class has a mean recall of
    1 / classes and an AUROC of 0.5. Guessing has the same values within the standard error (for AUROC, the standard
    error of the Mann-Whitney U statistic).
    """
    sizes = [one.n for one in metrics.per_class if one.n]
    if len(sizes) < 2 or metrics.auroc is None:
        return False
    chance = 1 / len(sizes)
    recall_error = math.sqrt(sum(chance * (1 - chance) / n for n in sizes)) / len(sizes)
    auroc_errors = [math.sqrt((metrics.n + 1) / (12 * n * (metrics.n - n))) for n in sizes]
    return (
        metrics.macro_recall <= chance + STANDARD_ERRORS * recall_error
        and metrics.auroc <= 0.5 + STANDARD_ERRORS * sum(auroc_errors) / len(sizes)
    )


def likely_causes(metrics: Metrics, epochs: Sequence[Epoch], learning_rate: float) -> list[str]:
    """Give at most three likely causes why a model did not learn, the likeliest first."""
    first, last, highest = epochs[0], epochs[-1], max(epoch["loss"] for epoch in epochs)
    chance = 1 / len(metrics.per_class)
    guessing = math.log(len(metrics.per_class))  # the loss of equal probabilities
    causes = []
    if last["accuracy"] > (1 + chance) / 2:
        causes.append(
            f"it overfits (training accuracy {last['accuracy']:.3f}): there are too few samples, or the labels do not "
            "depend on the inputs"
        )
    elif highest > 1.5 * guessing:
        causes.append(
            f"the loss reached {highest:.3g}, guessing has {guessing:.3g}: lower the learning rate {learning_rate}"
        )
    elif abs(first["loss"] - last["loss"]) < 0.02 * first["loss"]:
        causes.append(
            f"the loss stayed at {last['loss']:.3g}: raise the learning rate {learning_rate}, or lower it if units "
            "died in the first steps"
        )
    if len(epochs) < 3:
        causes.append(
            "it trained for only 1 epoch" if len(epochs) == 1 else f"it trained for only {len(epochs)} epochs"
        )
    causes += ["the labels do not depend on the inputs", "the inputs have another scale than the first layers expect"]
    return causes[:3]


def warn(manifest: Manifest, epochs: Sequence[Epoch], learning_rate: float) -> list[str]:
    """Give the warnings about a model that a person should read before using its metrics; usually none."""
    metrics, found = manifest.metrics, []
    if did_not_learn(metrics):
        causes = "; ".join(likely_causes(metrics, epochs, learning_rate))
        found.append(
            f"did not learn: mean recall {metrics.macro_recall:.4f} and AUROC {metrics.auroc:.4f} are no better than "
            f"guessing among {len(manifest.classes)} classes; likely causes: {causes}"
        )
    misleading = imbalance(metrics, manifest.classes)
    return [*found, misleading] if misleading else found


def imbalance(metrics: Metrics, classes: Sequence[str]) -> str | None:
    """Give the warning that accuracy is misleading; None if the classes of the test set have similar sizes."""
    sizes = [(one.n, name) for one, name in zip(metrics.per_class, classes, strict=False) if one.n]
    (fewest, rare), (most, frequent) = min(sizes, default=(0, "")), max(sizes, default=(0, ""))
    if most < UNBALANCED * fewest or len(sizes) < 2:
        return None
    return (
        f"accuracy is misleading, because the classes are unbalanced ({most} {frequent!r}, {fewest} {rare!r}): a model "
        f"that always predicts {frequent!r} has accuracy {most / metrics.n:.4f}; use macro F1 {metrics.macro_f1:.4f} "
        f"or mean recall {metrics.macro_recall:.4f}, not accuracy {metrics.accuracy:.4f}"
    )
