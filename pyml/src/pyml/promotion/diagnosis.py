"""What the figures on the test set mean: whether a model learned, whether it may be promoted, when accuracy misleads.

A model that objections are raised against is published all the same, but `promotion` does not propose it.
"""

import math
from collections.abc import Sequence

from bundle.manifest import Manifest, Metrics
from pyml.evaluation.history import Epoch
from pyml.experiment.gate import Gate

STANDARD_ERRORS = 2  # a figure this many above chance, or more, is no coincidence
UNBALANCED = 2  # the largest class has so many times the samples of the smallest, or more


def objections(metrics: Metrics, gate: Gate | None) -> tuple[str, ...]:
    """Say why the model is not to be promoted, each reason in a few words; empty when nothing speaks against it."""
    found = ["it did not learn"] if did_not_learn(metrics) else []
    for name, wanted in (gate.model_dump(exclude_none=True) if gate else {}).items():
        figure = getattr(metrics, name)
        if figure is None:
            found.append(f"its {name} is not known, {wanted} is asked for")
        elif name == "loss" and figure > wanted:
            found.append(f"its loss {figure:.6g} is above {wanted}")
        elif name != "loss" and figure < wanted:
            found.append(f"its {name} {figure:.6g} is below {wanted}")
    return tuple(found)


def did_not_learn(metrics: Metrics) -> bool:
    """Tell whether the predictions cannot be told from chance: neither by mean recall, nor by AUROC.

    Both are independent of how often a class occurs: one answer for everything has a mean recall of 1 / classes and an
    AUROC of 0.5, guessing has both but for its standard error (of AUROC: that of the Mann-Whitney U statistic).
    """
    sizes = [figures.n for figures in metrics.per_class if figures.n]
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
    """Say what may be the matter with a model that did not learn, the likeliest first."""
    first, last, highest = epochs[0], epochs[-1], max(epoch["loss"] for epoch in epochs)
    chance = 1 / len(metrics.per_class)
    guessing = math.log(len(metrics.per_class))  # the loss of equal probabilities
    causes = []
    if last["accuracy"] > (1 + chance) / 2:
        causes.append(
            f"it knows its training samples by heart (accuracy {last['accuracy']:.3f}) and nothing that carries over: "
            "too few samples, or labels that do not follow from the inputs"
        )
    elif highest > 1.5 * guessing:
        causes.append(
            f"the loss was up to {highest:.3g}, guessing has {guessing:.3g}: lower the learning rate {learning_rate}"
        )
    elif abs(first["loss"] - last["loss"]) < 0.02 * first["loss"]:
        causes.append(
            f"the loss stayed at {last['loss']:.3g}: raise the learning rate {learning_rate}, or lower it if units "
            "died at once"
        )
    if len(epochs) < 3:
        causes.append(f"it trained for {len(epochs)} epoch{'s' * (len(epochs) > 1)} only")
    causes += ["labels that do not follow from the inputs", "inputs of another scale than the first layers expect"]
    return causes[:3]


def warn(manifest: Manifest, epochs: Sequence[Epoch], learning_rate: float) -> list[str]:
    """Say what a person should know before relying on the figures; mostly nothing."""
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
    """Say that accuracy misleads, where the test set's classes are of very different size."""
    sizes = [(figures.n, name) for figures, name in zip(metrics.per_class, classes, strict=False) if figures.n]
    (fewest, rare), (most, frequent) = min(sizes, default=(0, "")), max(sizes, default=(0, ""))
    if most < UNBALANCED * fewest or len(sizes) < 2:
        return None
    return (
        f"accuracy misleads, the classes are unbalanced ({most} {frequent!r}, {fewest} {rare!r}): always answering "
        f"{frequent!r} would have {most / metrics.n:.4f}; go by macro F1 {metrics.macro_f1:.4f} or mean recall "
        f"{metrics.macro_recall:.4f}, not by accuracy {metrics.accuracy:.4f}"
    )
