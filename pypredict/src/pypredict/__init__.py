"""The predict service: arrays into Postgres as BYTEA, predictions beside them, exactly once.

The walk: `source` (arrays from a bundle) -> `codec` (.npy bytes) -> `copyfmt` (COPY streams) -> `store` (SQL) ->
`worker` (claim, predict, finish) with `predictor` (the verified model) -> `report`. `schema` is contract 2.
"""


class PypredictError(Exception):
    """Base of this package's errors; str() is one sentence for a person."""
