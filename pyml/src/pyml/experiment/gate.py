"""The `promote_if` part of an experiment file: the metrics that a model needs to be proposed."""

from typing import Annotated, Self

from pydantic import Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from pyml.experiment.data_spec import Part

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Gate(Part):
    """The metrics on the test set that a model needs to be proposed: minimum values, for `loss` a maximum."""

    accuracy: Share | None = None
    macro_precision: Share | None = None
    macro_recall: Share | None = None
    macro_f1: Share | None = None
    auroc: Share | None = None
    gini: Annotated[FiniteFloat, Field(ge=-1, le=1)] | None = None
    average_precision: Share | None = None
    loss: Annotated[FiniteFloat, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise PydanticCustomError("empty_gate", 'name at least one metric, for example {"accuracy": 0.98}')
        return self
