"""The commands `train` and `all`: train experiments here, as a share, or on a Ray cluster, and propose the best."""

import logging
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bundle import BundleError
from pyml import PymlError
from pyml.cli_context import DataDir, Models, Quiet, make_console, make_settings, set_quiet

if TYPE_CHECKING:
    from bundle.verify import Bundle
    from pyml.config import Settings
    from pyml.experiment.experiment import Experiment

log = logging.getLogger("pyml")

ExperimentPaths = Annotated[list[Path], typer.Argument(metavar="EXPERIMENT...", help="Experiment files (JSON).")]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The group of the runs in W&B.", show_default="the names of the files, if several"
    ),
]
RequireClean = Annotated[bool, typer.Option("--require-clean", help="Stop if the git tree has uncommitted changes.")]
Promote = Annotated[
    bool, typer.Option("--promote", help="Propose the best model even if the current model has a higher accuracy.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Train published experiments again; publish a new bundle beside the old one.")
]
Share = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Train one of N shares of the experiments, and propose none. I counts from 0 to N - 1, because "
        "JOB_COMPLETION_INDEX of Kubernetes counts from 0. "
        "Afterwards the same command without --share proposes the best.",
    ),
]
TrainEngine = Enum("TrainEngine", {"RAY": "ray"})
Engine = Annotated[TrainEngine | None, typer.Option(help="ray: spread the experiments over a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The Ray cluster.", show_default="one on this machine")
]
AfterEach = Callable[[Path, bool], None]  # takes a bundle's directory and `quiet`


def train_command(
    experiments: ExperimentPaths,
    *,
    promote: Promote = False,
    force: Force = False,
    share: Share = None,
    require_clean: RequireClean = False,
    group: Group = None,
    models: Models = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    engine: Engine = None,
    address: Address = None,
) -> None:
    """Train experiments and publish their bundles. An experiment that is published already is not trained again.

    A file can hold one experiment or a grid. All experiments are checked before the first training. Several experiments
    are trained one after the other, as one group. For each dataset, the model that is best on the validation set is
    then proposed as the current model.
    """
    if share is not None and promote:
        raise PymlError("a share proposes no model: give --promote to the command without --share, after all shares")
    settings = make_settings(models, data_dir, group)
    if engine is None and address is not None:
        raise PymlError("--address needs --engine ray")
    if engine is not None and force:
        raise PymlError("--force and --engine exclude each other: a task that Ray repeats would train twice")
    if engine is not None and share is not None:
        raise PymlError("--share and --engine exclude each other: Ray spreads all experiments itself")
    _train(
        experiments,
        settings,
        promote=promote,
        force=force,
        share=share,
        require_clean=require_clean,
        quiet=quiet,
        on_ray=engine is not None,
        address=address,
    )


def all_command(
    experiments: ExperimentPaths,
    *,
    promote: Promote = False,
    force: Force = False,
    require_clean: RequireClean = False,
    group: Group = None,
    models: Models = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train experiments, test the published bundles, then propose the best bundle that passed its test."""
    settings = make_settings(models, data_dir, group)
    _train(
        experiments,
        settings,
        promote=promote,
        force=force,
        require_clean=require_clean,
        quiet=quiet,
        after_each=test_bundle,
    )


def _train(
    paths: list[Path],
    settings: "Settings",
    *,
    promote: bool,
    force: bool,
    require_clean: bool,
    quiet: bool,
    share: str | None = None,
    after_each: AfterEach | None = None,
    on_ray: bool = False,
    address: str | None = None,
) -> None:
    """Train all experiments, call `after_each` per bundle, propose the best. A failure does not stop the others.

    share: train one share only, and propose none; the group in W&B is that of all experiments.
    """
    from pyml.datasets.load import DatasetCache
    from pyml.experiment.experiment import read_experiments
    from pyml.promotion.proposal import Candidate, propose_best
    from pyml.provenance import check_clean
    from pyml.training.train import check_experiments, train

    set_quiet(quiet)
    given = [experiment for path in paths for experiment in read_experiments(path)]
    experiments = list({each.model_dump_json(): each for each in given}.values())  # without repetitions
    if len(experiments) > 1:
        group = settings.wandb_group or "+".join(dict.fromkeys(path.stem for path in paths))[:100]
        settings = settings.model_copy(update={"wandb_group": group})
    if share is not None:
        experiments = _take_share(experiments, share)
    if require_clean:
        check_clean(settings)
    datasets = DatasetCache(settings)
    check_experiments(experiments, settings, datasets)
    problems: dict[str, str] = {}
    if on_ray:
        from pyml.ray_engine import train_on_ray

        problems = train_on_ray(experiments, settings, datasets, address)
    failed: list[str] = []
    trained: list[Candidate] = []
    for experiment in experiments:
        try:
            if experiment.name in problems:
                raise PymlError(problems[experiment.name])
            bundle, _ = train(experiment, settings, force=force, datasets=datasets)
            if not quiet:
                _show_metrics(bundle)
            if after_each is not None:
                after_each(bundle.path, quiet)
            trained.append(Candidate(bundle, experiment.promote_if))
        except (PymlError, BundleError) as error:
            if len(experiments) == 1:
                raise
            log.error("%s", error)
            failed.append(experiment.name)
    if share is None:
        propose_best(settings.models, trained, promote=promote)
    if failed:
        raise PymlError(f"{len(failed)} of {len(experiments)} experiments failed: {', '.join(failed)}")


def _take_share(experiments: list["Experiment"], share: str) -> list["Experiment"]:
    from pyml.experiment.grid import take_share

    taken = take_share(experiments, share)
    if taken:
        log.info("share %s: %d of %d experiments, none is proposed", share, len(taken), len(experiments))
    else:
        log.info("share %s has nothing to train: there are more shares than experiments", share)
    return taken


def _show_metrics(bundle: "Bundle") -> None:
    from pyml.reports.summary import class_table, headline

    console = make_console()
    console.print(headline(bundle.manifest), highlight=False, soft_wrap=True)
    if bundle.manifest.metrics.per_class:
        console.print(class_table(bundle.manifest))


def test_bundle(path: Path, quiet: bool) -> None:
    """Measure a published bundle again, and show it. Raises PymlError when a metric differs from the manifest."""
    from pyml.evaluation.recheck import recheck
    from pyml.reports.summary import recheck_table

    checks = recheck(path)
    differing = [check.metric for check in checks if not check.agrees]
    if not quiet or differing:
        make_console().print(recheck_table(path.name, checks))
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise PymlError(f"the metrics of {path.name} differ from its manifest: {', '.join(differing[:5])}{more}")
