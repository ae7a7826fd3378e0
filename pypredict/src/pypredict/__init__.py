"""The predict service: store arrays in Postgres as BYTEA, predict each of them exactly once, store the predictions.

The pipeline: `source` (read inputs) -> `codec` (.npy bytes) -> `binary_copy` (COPY streams) -> `store` (SQL) ->
`worker` (claim, predict, finish) with `models` (verified models) -> `report`. `schema` is contract 2.
"""


class PypredictError(Exception):
    """Base of this package's errors; str() is one sentence for a person."""
