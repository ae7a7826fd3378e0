"""`history.json`: the metrics of each epoch of a training.

    [{"epoch": 1, "seconds": 0.81, "accuracy": 0.71, "loss": 0.92, "val_accuracy": 0.9, "val_loss": 0.31}, ...]

Epochs count from 1. `seconds` is the time of the epoch with its validation. The first and the last epoch also have
val_auroc, the AUROC of the validation set.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from bundle.document import FewKeys

Epoch = dict[str, float]
MAX_HISTORY_BYTES = 8 * 2**20  # 20,000 epochs


def _check_number(epoch: Epoch) -> Epoch:
    if "epoch" not in epoch:
        raise PydanticCustomError("epoch", "it has no key epoch, the number of the epoch")
    return epoch


HISTORY: TypeAdapter[list[Epoch]] = TypeAdapter(
    Annotated[list[Annotated[Epoch, FewKeys, AfterValidator(_check_number)]], Field(fail_fast=True)]
)
