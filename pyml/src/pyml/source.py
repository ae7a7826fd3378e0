"""Where the samples of an experiment come from: a data set known by name, or files of one's own."""

from pyml import PymlError
from pyml.bypath import load_arrays, load_images, load_texts
from pyml.config import Settings
from pyml.data import AnyData, Digits, ImageFolder, Imdb, Mnist, TextCsv
from pyml.dataset import Dataset
from pyml.named import load_digits, load_imdb, load_mnist


class Shelf:
    """Keeps the last data set that was loaded, since the experiments of a grid mostly share one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: tuple[AnyData, Dataset] | None = None

    def take(self, data: AnyData) -> Dataset:
        """Load a data set, or give it again. Raises as load_dataset does."""
        if self._last is None or self._last[0] != data:
            self._last = None  # two may be more than memory holds
            self._last = (data, load_dataset(data, self._settings))
        return self._last[1]


def load_dataset(data: AnyData, settings: Settings) -> Dataset:
    """Load, prepare and split a data set; a known one that is absent is downloaded. Raises PymlError or BundleError."""
    try:
        match data:
            case Digits():
                return load_digits(data)
            case Mnist():
                return load_mnist(data, settings)
            case Imdb():
                return load_imdb(data, settings)
            case ImageFolder():
                return load_images(data, settings)
            case TextCsv():
                return load_texts(data, settings)
            case _:
                return load_arrays(data, settings)
    except OSError as error:
        raise PymlError(f"data set {data.name}: {error.filename} cannot be read ({error.strerror})") from error
