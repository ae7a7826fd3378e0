# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The data of a model, and its mistakes
#
# This notebook looks at the data that a published model was trained on, then at its confusion matrix. Train a model
# first, for example with `make run`. `make analysis` runs the notebook and writes `.local/analysis.html`.
#
# `analysis.py` and `analysis.ipynb` hold the same cells. Change `analysis.py`, then `make notebook` writes the other.

# %%
import csv
import io
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bundle.inputs.preprocessing import RESERVED_WORDS, TextPreprocessing
from bundle.manifest import PREDICTIONS_FILE
from bundle.verify import open_current
from pyml.config import read_settings
from pyml.datasets.load import load_dataset
from pyml.datasets.samples import parts
from pyml.experiment.experiment import Experiment

plt.rcParams["text.parse_math"] = False  # the name of a class may contain $

# %% [markdown]
# ## What to look at
#
# `ANALYSIS_DATASET` is the name of a dataset: `digits`, `imdb`, or one of yours. The notebook takes the model that the
# trainer proposes for it, in `models/current`. The data are loaded again, in the way that the model's manifest says.

# %%
DATASET = os.environ.get("ANALYSIS_DATASET", "digits")

if Path.cwd().name == "notebooks":  # Jupyter starts here; the paths of the settings begin one folder up
    os.chdir("..")
settings = read_settings()  # PYML_MODELS, PYML_DATA_DIR, ...
bundle = open_current(settings.models, settings.models / "current" / f"{DATASET}.json")
manifest = bundle.manifest
dataset = load_dataset(Experiment.model_validate(manifest.experiment).data, settings)
classes, train = dataset.classes, dataset.train

is_text = isinstance(dataset.preprocessing, TextPreprocessing)
has_colours = len(dataset.input.shape) == 3 and dataset.input.shape[2] == 3
is_colour = has_colours and dataset.input.dtype == "uint8"  # other arrays may have any range of values
is_image = is_colour or (len(dataset.input.shape) == 3 and dataset.input.shape[2] == 1)

print(f"model {manifest.bundle_id}, accuracy {manifest.metrics.accuracy} on {manifest.metrics.n} test samples")
print(f"one sample: {dataset.input}")
if dataset.fingerprint == manifest.data_sha256:
    print("the data are those of the training")
else:
    print("the data are NOT those of the training: the files of the dataset have changed")

# %% [markdown]
# ## How many samples has each class?
#
# If one class has many more samples than the others, a model can reach a high accuracy by always giving this class.

# %%
splits = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
counts = {name: np.bincount(split.y, minlength=len(classes)) for name, split in splits.items()}

plt.figure(figsize=(8, 3.5))
below = np.zeros(len(classes), np.int64)
for name, count in counts.items():
    plt.bar(classes, count, bottom=below, label=name)
    below += count
    print(f"{name}: {dict(zip(classes, count.tolist(), strict=True))}")
plt.title("Samples of each class")
plt.xlabel("class")
plt.ylabel("samples")
plt.legend()
plt.show()

# %% [markdown]
# ## What does the average image of each class look like?
#
# The average is taken over the training samples, for each pixel. A sharp average means that the images of a class are
# alike; a blurred one means that they differ, or that the objects have different places.

# %%
SHOWN = 20  # classes


def mean_image(label: int) -> npt.NDArray[np.float64]:
    """Return the mean of a class's training images, (height, width, channels)."""
    images = np.asarray(train.x[np.flatnonzero(train.y == label)])
    return np.asarray(images.mean(axis=0, dtype=np.float64))


if is_image:
    shown = [label for label in range(len(classes)) if counts["training"][label] > 0][:SHOWN]
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure, places = plt.subplots(rows, columns, figsize=(1.8 * columns, 2.1 * rows), squeeze=False)
    for place in places.flat:
        place.axis("off")
    for place, label in zip(places.flat, shown, strict=False):
        mean = mean_image(label)
        place.imshow(mean / 255 if is_colour else mean, cmap=None if is_colour else "gray")
        place.set_title(classes[label])
    figure.suptitle("The average image of each class")
    figure.tight_layout()
    plt.show()
    print(f"average images: {len(shown)}, one for each class")
else:
    print("average images: left out, for the samples are no gray images and no colour images of uint8")

# %% [markdown]
# ## Which colours has each class?
#
# Each chart shows how often the values of red, green and blue occur, from 0 (dark) to 255 (light). If the charts of two
# classes differ much, the model may learn the background instead of the object: grass is green, sand is not.

# %%
BINS = 32


def colour_shares(label: int) -> npt.NDArray[np.float64]:
    """Return the share of a class's pixels in each bin, (3 colours, BINS)."""
    images = np.asarray(train.x[np.flatnonzero(train.y == label)])
    counted = [np.histogram(images[..., colour], bins=BINS, range=(0, 256))[0] for colour in range(3)]
    return np.array(counted) / images[..., 0].size


if is_colour:
    figure, places = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 2.8), sharey=True, squeeze=False)
    for place, label in zip(places.flat, shown, strict=True):
        shares = colour_shares(label)
        for colour, share in zip(("red", "green", "blue"), shares, strict=True):
            place.plot(np.arange(BINS) * 256 / BINS, 100 * share, color=colour, label=colour)
        place.set_title(classes[label])
        place.set_xlabel("value")
        dark = shares[:, : BINS // 4].sum(axis=1)
        print(f"{classes[label]}: below 64 are {dark[0]:.0%} of red, {dark[1]:.0%} of green, {dark[2]:.0%} of blue")
    places[0, 0].set_ylabel("% of the pixels")
    places[0, -1].legend()
    figure.suptitle("Colours of each class")
    figure.tight_layout()
    plt.show()
else:
    print("colour histograms: left out, for the samples are no colour images of uint8")

# %% [markdown]
# ## Which words are the most common, and which the least?
#
# The words are counted in the training samples, as the model gets them: without the words that have no number, and
# without what was cut from long texts.
#
# Look for `br` in the list of `imdb`. It is no word of the reviewers. The reviews were copied from web pages, where
# `<br />` starts a new line. The punctuation was removed, and `br` was left. It takes places among the words that the
# model reads (400 of each review), and says nothing. Remove such marks from your own texts before you train on them.

# %%
COMMON = 20

if is_text:
    occurrences = np.zeros(dataset.n_words or 0, np.int64)  # by token number
    for part in parts(train.x):
        occurrences += np.bincount(part.ravel(), minlength=len(occurrences))
    n_reserved = len(RESERVED_WORDS)
    order = n_reserved + np.argsort(-occurrences[n_reserved:], kind="stable")
    common = [(dataset.words[number], int(occurrences[number])) for number in order[:COMMON]]
    rare = [(dataset.words[number], int(occurrences[number])) for number in order[-COMMON:]]

    plt.figure(figsize=(8, 4))
    plt.barh([word for word, _ in common][::-1], [n for _, n in common][::-1])
    plt.title(f"The {len(common)} most common words")
    plt.xlabel("occurrences in the training samples")
    plt.ylabel("word")
    plt.show()
    print("most common:", ", ".join(f"{word} {n}" for word, n in common))
    print("least common:", ", ".join(f"{word} {n}" for word, n in rare))
    if "br" in dict(common):
        print(f"br is among the {len(common)} most common words: it is what is left of the HTML line break <br />")
else:
    print("words: left out, for the samples are no texts")

# %% [markdown]
# ## Which classes does the model confuse?
#
# The same confusion matrix can be counted in three places:
#
# - in the bundle: `predictions.csv` has label and prediction of each test sample;
# - in PostgreSQL: the view `ml.confusion` counts the predictions of the predict service;
# - in Weights & Biases: the run has a copy of `predictions.csv`.
#
# Each row is a label, each column a prediction. What is not on the diagonal is a mistake.


# %%
def confusion_matrix(triples: Iterable[tuple[str, str, int]]) -> npt.NDArray[np.int64]:
    """Make a matrix (n_classes, n_classes) of label, predicted class and their count."""
    number = {name: label for label, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for label, predicted, n in triples:
        matrix[number[label], number[predicted]] += n
    return matrix


def count_predictions(text: str) -> npt.NDArray[np.int64]:
    """Count the rows of a predictions.csv."""
    return confusion_matrix((row["label"], row["predicted"], 1) for row in csv.DictReader(io.StringIO(text)))


def draw(matrix: npt.NDArray[np.int64], source: str) -> None:
    """Draw a confusion matrix. Numbers are written in it if there are at most 20 classes."""
    plt.figure(figsize=(5, 4.2))
    plt.imshow(matrix, cmap="Blues")
    plt.title(f"Confusion matrix from {source}")
    plt.xlabel("prediction")
    plt.ylabel("label")
    plt.xticks(range(len(classes)), classes, rotation=90)
    plt.yticks(range(len(classes)), classes)
    if len(classes) <= SHOWN:
        for (label, predicted), n in np.ndenumerate(matrix):
            if n:
                colour = "white" if n > matrix.max() / 2 else "black"
                plt.text(predicted, label, str(n), ha="center", va="center", color=colour)
    plt.show()
    print(f"{source}: {matrix.sum()} test samples, {matrix.trace()} correct")


matrices = {"the bundle": count_predictions(bundle.read(PREDICTIONS_FILE).decode())}
draw(matrices["the bundle"], "the bundle")

# %% [markdown]
# ### From PostgreSQL
#
# `make db` prints the variables that say where the database is (`PGHOST`, `PGPORT`, `PGDATABASE`, `PGPASSFILE`). The
# notebook logs in as `reader`, who can change nothing.

# %%
CONFUSION = """
    SELECT c.label, c.predicted, c.n FROM ml.confusion c JOIN ml.model m USING (model_id)
    WHERE m.bundle_id = :bundle_id AND c.in_test_set
"""


def postgres_counts() -> list[tuple[str, str, int]]:
    """Read label, predicted class and count from the database."""
    engine = sa.create_engine("postgresql+psycopg2://", connect_args={"user": "reader", "connect_timeout": 5})
    with engine.connect() as connection:
        rows = connection.execute(sa.text(CONFUSION), {"bundle_id": manifest.bundle_id})
        return [(row.label, row.predicted, row.n) for row in rows]


if "PGHOST" not in os.environ:
    print("PostgreSQL: left out, for PGHOST is not set; make db prints the variables")
else:
    try:
        found = postgres_counts()
        if found:
            matrices["PostgreSQL"] = confusion_matrix(found)
            draw(matrices["PostgreSQL"], "PostgreSQL")
        else:
            print(f"PostgreSQL: left out, for it has no test set of {manifest.bundle_id}; pypredict load stores it")
    except sa.exc.DBAPIError as error:  # no connection, no schema, or no right to read it
        print(f"PostgreSQL: left out, for it cannot be read ({' '.join(str(error.orig).split())})")

# %% [markdown]
# ### From Weights & Biases
#
# It needs a login (`WANDB_API_KEY`, or `wandb login`), and a run that was uploaded: while the model was trained, or
# later with `pyml sync`.


# %%
def wandb_token() -> bool:
    """Tell whether there is a token, in the environment or in ~/.netrc."""
    import requests.utils
    import wandb

    return settings.wandb_api_key is not None or bool(requests.utils.get_netrc_auth(wandb.setup().settings.base_url))


def wandb_predictions() -> str:
    """Download predictions.csv of the model's run. Raises the errors of the SDK."""
    import wandb

    owner = f"{settings.wandb_entity}/" if settings.wandb_entity else ""
    run = wandb.Api(timeout=20).run(f"{owner}{settings.wandb_project}/{manifest.tracked_run.id}")
    (file,) = [file for file in run.files() if file.name == PREDICTIONS_FILE]
    with tempfile.TemporaryDirectory() as folder, file.download(root=folder) as downloaded:
        return str(downloaded.read())


if manifest.tracked_run.id is None:
    print("Weights & Biases: left out, for the training was not recorded")
elif not wandb_token():
    print("Weights & Biases: left out, for nobody is logged in; set WANDB_API_KEY")
else:
    try:
        matrices["Weights & Biases"] = count_predictions(wandb_predictions())
        draw(matrices["Weights & Biases"], "Weights & Biases")
    except Exception as error:  # the SDK raises the errors of its HTTP client, which are of many kinds
        print(f"Weights & Biases: left out, for the run cannot be read ({error}); pyml sync uploads it")

# %% [markdown]
# ### Do they agree?

# %%
first = matrices["the bundle"]
for source, matrix in matrices.items():
    agrees = "the same counts as the bundle" if np.array_equal(matrix, first) else "OTHER COUNTS THAN THE BUNDLE"
    print(f"{source}: {agrees}")

mistakes = [(int(n), label, predicted) for (label, predicted), n in np.ndenumerate(first) if label != predicted and n]
for n, label, predicted in sorted(mistakes, reverse=True)[:5]:
    print(f"{classes[label]} was taken for {classes[predicted]}: {n} of {first[label].sum()}")
