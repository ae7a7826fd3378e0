"""Chunks that only SQL can insert: a shape has to be one, and inputs too large to read have a reason.

Revision: 0002, after 0001.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

OLD = "'corrupt', 'wrong_dtype', 'wrong_shape', 'not_finite', 'bad_output', 'model_error', 'crash'"


SHAPE = "coalesce(array_ndims(shape), 0) = 1 and array_position(shape, null) is null and 0 < all (shape)"


def upgrade() -> None:
    _replace(f"{OLD}, 'too_large'")
    op.create_check_constraint(op.f("chunk_shape_check"), "chunk", SHAPE, schema="ml")


def downgrade() -> None:
    _replace(OLD)
    op.drop_constraint(op.f("chunk_shape_check"), "chunk", schema="ml")


def _replace(reasons: str) -> None:
    name = op.f("prediction_error_reason_check")
    op.drop_constraint(name, "prediction_error", schema="ml")
    op.create_check_constraint(name, "prediction_error", f"reason in ({reasons})", schema="ml")
