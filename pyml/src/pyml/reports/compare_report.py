"""Show a comparison: a table in the terminal, learning curves as PNG, or both in one HTML file without other files."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bundle.page import printable_value, read_style
from bundle.whole_file import write_whole
from pyml import PymlError
from pyml.reports.compare import COLUMNS, CURVES, Cell, Column, Comparison

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group
    from rich.table import Table

STYLES = ("-", "--", ":", "-.")  # line styles; each is used for ten colours
LEGEND_COLUMNS = 3
LOG_FROM = 50  # least ratio between the largest and the smallest value for a logarithmic axis
COLUMN_WIDTH = 16  # letters in the terminal
LEGEND = "Below each value: the difference to the baseline (Δ); for learning curves also to the first epoch (↦)."
OTHER_DATA = "* other arrays than the baseline (another split or preprocessing): test metrics are not comparable."


def make_tables(comparison: Comparison, width: int) -> "Iterator[Table]":
    """Make the terminal's table of one dataset's runs; several tables if it is wider than width letters."""
    from rich.console import Group
    from rich.table import Table

    names = [run.name if comparison.same_data(run) else f"{run.name} *" for run in comparison.runs]
    names_width = min(max(map(len, names)), 40) + 4
    at_once = max((width - names_width) // COLUMN_WIDTH, 1)
    for start in range(0, len(COLUMNS), at_once):
        part = slice(start, start + at_once)
        runs = "1 run" if len(comparison.runs) == 1 else f"{len(comparison.runs)} runs"
        title = f"{comparison.dataset}: {runs}, baseline {comparison.baseline.name}"
        table = Table(title=None if start else title, show_lines=True)
        table.add_column("run", overflow="fold")
        for column in COLUMNS[part]:
            table.add_column(column.title, justify="right", no_wrap=True)
        for run, name in zip(comparison.runs, names, strict=True):
            remarks = [] if start else run.remarks
            cells = zip(comparison.cells(run)[part], COLUMNS[part], strict=True)
            rich_cells = [_rich_cell(cell, column) for cell, column in cells]
            table.add_row(Group(name, *remarks), *rich_cells)
        yield table


def comparison_document(comparison: Comparison) -> dict[str, object]:
    """Give a comparison for a JSON document. Each metric has its value, to_baseline and to_first."""
    runs = [
        {
            "bundle_id": run.name,
            "experiment": run.manifest.name,
            "created_at": run.manifest.created_at,
            "same_data": comparison.same_data(run),
            "remarks": run.remarks,
            "metrics": dict(zip((column.title for column in COLUMNS), comparison.cells(run), strict=True)),
        }
        for run in comparison.runs
    ]
    return {"dataset": comparison.dataset, "baseline": comparison.baseline.name, "runs": runs}


def draw_curves(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the learning curves of all runs into one PNG file, with one row of plots for each dataset."""
    _replace(path, _render(comparisons, "png"))


def write_html(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write tables and learning curves to one HTML file. It needs no other file, no script and no network."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pyml.reports", "."),
        autoescape=True,
        finalize=printable_value,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("comparison.html").render(
        comparisons=comparisons,
        columns=COLUMNS,
        legend=caption(comparisons),
        number=_number,
        differences=_differences,
        curves=_svg,
        style=Markup(read_style()),  # noqa: S704 - our own file
    )
    _replace(path, page.encode())


def _svg(comparison: Comparison) -> "Markup":
    from markupsafe import Markup

    svg = _render([comparison], "svg").decode()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - matplotlib escapes the names


def _render(comparisons: Sequence[Comparison], file_format: Literal["png", "svg"]) -> bytes:
    import matplotlib as mpl

    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if file_format == "svg" else None
    buffer = io.BytesIO()
    with mpl.rc_context({"text.parse_math": False, "svg.hashsalt": "pyml"}):
        _figure(comparisons).savefig(buffer, format=file_format, metadata=metadata)
    return buffer.getvalue()


def _figure(comparisons: Sequence[Comparison]) -> "Figure":
    from matplotlib.figure import Figure

    heights = [3.6 + 0.22 * (1 + (len(comparison.runs) - 1) // LEGEND_COLUMNS) for comparison in comparisons]  # inches
    figure = Figure((15, sum(heights)), dpi=100, layout="constrained")
    parts = figure.subfigures(len(comparisons), 1, squeeze=False, height_ratios=heights)
    for comparison, part in zip(comparisons, parts[:, 0], strict=True):
        part.suptitle(comparison.dataset)
        axes = part.subplots(1, len(CURVES))
        for curve, one in zip(CURVES, axes, strict=True):
            _draw(comparison, curve, one)
        handles, labels = axes[0].get_legend_handles_labels()
        part.legend(handles, labels, loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    return figure


def _draw(comparison: Comparison, curve: str, axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for number, run in enumerate(comparison.runs):
        points = [(epoch["epoch"], epoch[curve]) for epoch in run.epochs if curve in epoch]
        colour, width = ("black", 2.2) if run is comparison.baseline else (f"C{(number - 1) % 10}", 1.4)
        marker = "o" if len(points) == 1 else ""  # a line needs two points
        axes.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            color=colour,
            lw=width,
            marker=marker,
            linestyle=STYLES[max(number - 1, 0) // 10 % len(STYLES)],
            label=run.name,
        )
    values = [epoch[curve] for run in comparison.runs for epoch in run.epochs if curve in epoch]
    if values and 0 < min(values) < max(values) / LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(curve, fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _rich_cell(cell: Cell, column: Column) -> "Group":
    from rich.console import Group

    styles = {"better": "green", "worse": "red", "": "dim"}
    below = (f"[{styles[how]}]{text}[/]" for text, how in _differences(cell, column))
    return Group(_number(cell.value, column), *below)


def _differences(cell: Cell, column: Column) -> list[tuple[str, str]]:
    """Give each difference as text, and its style: "better", "worse" or ""."""
    found = []
    for sign, difference in (("Δ", cell.to_baseline), ("↦", cell.to_first)):
        if difference is not None:
            neutral = column.higher is None or not round(difference, column.digits)
            how = "" if neutral else "better" if (difference > 0) == column.higher else "worse"
            found.append((f"{sign} {difference:+,.{column.digits}f}", how))
    return found


def _number(value: float | None, column: Column) -> str:
    return "–" if value is None else f"{value:,.{column.digits}f}"


def caption(comparisons: Sequence[Comparison]) -> str:
    """Give the explanation of the signs in the tables."""
    same = all(comparison.same_data(run) for comparison in comparisons for run in comparison.runs)
    return LEGEND if same else f"{LEGEND} {OTHER_DATA}"


def _replace(path: Path, content: bytes) -> None:
    """Write a complete file. Raises PymlError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise PymlError(f"{path} cannot be written ({error.strerror}); name a file that can be written") from error
