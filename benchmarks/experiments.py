"""Write docs/experiments.md from the manifests of published bundles; no number is typed.

    python benchmarks/experiments.py MODELS > docs/experiments.md

The page lists the newest bundle of each shipped experiment, if the experiment file did not change since.
"""

import sys
from collections import defaultdict
from pathlib import Path

from bundle.manifest import Manifest
from bundle.verify import open_bundle
from pyml.experiment.experiment import Experiment, read_experiments
from pyml.promotion.diagnosis import objections

REPO = Path(__file__).resolve().parent.parent
HEAD = """# Measured experiments

`benchmarks/experiments.py` takes every number from the `manifest.json` of a bundle; no number is typed. Accuracy and
macro F1 are those of the test set, which is not used to train or to choose the epoch. The same commit, file and machine
give the same weights; on another processor the last digits differ. If your data are not in `data`, use `--data-dir`.
"""


def main() -> None:
    """Print the page for the bundles in the directory that the command line names."""
    runs = newest(Path(sys.argv[1]))
    print(HEAD)
    by_machine: dict[str, list[tuple[str, Manifest]]] = defaultdict(list)
    for file, manifest in runs:
        versions = ", ".join(f"{name} {manifest.versions[name]}" for name in ("tensorflow", "keras", "python"))
        by_machine[f"{manifest.machine}; {versions}"].append((file, manifest))
    for machine, its_runs in by_machine.items():
        print(f"## {machine}\n")
        for dataset in dict.fromkeys(manifest.dataset for _, manifest in its_runs):
            print_table(dataset, [(file, manifest) for file, manifest in its_runs if manifest.dataset == dataset])


def newest(models: Path) -> list[tuple[str, Manifest]]:
    """Find the newest bundle of each shipped experiment, with its experiment file, in order of dataset and accuracy."""
    found: dict[str, tuple[str, Manifest]] = {}
    for path in sorted((models / "bundles").glob("[!.]*")):
        manifest = open_bundle(path).manifest
        file = file_of(manifest)
        if file and (manifest.name not in found or found[manifest.name][1].created_at < manifest.created_at):
            found[manifest.name] = (file, manifest)
    return sorted(found.values(), key=lambda run: (run[1].dataset, -run[1].metrics.accuracy))


def file_of(manifest: Manifest) -> str | None:
    """Return the shipped file that holds exactly the experiment of this bundle, or None."""
    trained = Experiment.model_validate(manifest.experiment)
    for path in sorted((REPO / "experiments").glob("*.json")):
        if path.name != "schema.json" and trained in read_experiments(path):
            return path.relative_to(REPO).as_posix()
    return None


def print_table(dataset: str, runs: list[tuple[str, Manifest]]) -> None:
    """Print the runs of one dataset."""
    print(f"### {dataset}: {runs[0][1].metrics.n:,} test samples, {len(runs[0][1].classes)} classes\n")
    print("| experiment | test accuracy | macro F1 | best epoch | seconds | parameters | command |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for file, manifest in runs:
        metrics = manifest.metrics
        print(
            f"| {manifest.name} | {metrics.accuracy:.4f} ({metrics.n_correct:,}) | {metrics.macro_f1:.4f} "
            f"| {manifest.best_epoch} of {manifest.epochs_trained} | {manifest.train_seconds:.0f} "
            f"| {manifest.parameters:,} | `pyml train {file}` |"
        )
    print()
    for _, manifest in runs:
        if reasons := objections(manifest.metrics, Experiment.model_validate(manifest.experiment).promote_if):
            print(f"{manifest.name} was not proposed: {' and '.join(reasons)}.\n")


if __name__ == "__main__":
    main()
