"""Load the dataset of an experiment: a known dataset, or the user's own files."""

from pyml import PymlError
from pyml.config import Settings
from pyml.datasets.builtin import load_digits, load_imdb, load_mnist
from pyml.datasets.dataset import Dataset
from pyml.datasets.download import DataDirectory
from pyml.datasets.local import load_arrays, load_images, load_texts
from pyml.experiment.data_spec import AnyData, Digits, ImageFolder, Imdb, Mnist, TextCsv


class DatasetCache:
    """Keep the dataset that was loaded last, because the experiments of a grid usually have the same dataset."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: tuple[AnyData, Dataset] | None = None

    def get(self, data: AnyData) -> Dataset:
        """Load a dataset, or give the kept one if it is the same. Raises the errors of load_dataset."""
        if self._last is None or self._last[0] != data:
            self._last = None  # free it first: two datasets can need more memory than there is
            self._last = (data, load_dataset(data, self._settings))
        return self._last[1]


def load_dataset(data: AnyData, settings: Settings) -> Dataset:
    """Load, prepare and split a dataset. Download a known dataset that is absent. Raises PymlError or BundleError."""
    directory = DataDirectory(settings.data_dir, settings.origin)
    try:
        match data:
            case Digits():
                return load_digits(data)
            case Mnist():
                return load_mnist(data, directory)
            case Imdb():
                return load_imdb(data, directory)
            case ImageFolder():
                memory_bytes = settings.memory_mb * 2**20
                return load_images(data, directory, memory_bytes=memory_bytes, scratch=settings.models)
            case TextCsv():
                return load_texts(data, directory)
            case _:
                return load_arrays(data, directory)
    except OSError as error:
        raise PymlError(f"dataset {data.name}: {error.filename} cannot be read ({error.strerror})") from error
