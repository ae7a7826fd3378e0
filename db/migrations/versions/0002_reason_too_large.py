"""A reason for inputs of a chunk that no worker reads: too_large.

Revision: 0002, after 0001.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

OLD = "'corrupt', 'wrong_dtype', 'wrong_shape', 'not_finite', 'bad_output', 'model_error', 'crash'"


def upgrade() -> None:
    _replace(f"{OLD}, 'too_large'")


def downgrade() -> None:
    _replace(OLD)


def _replace(reasons: str) -> None:
    name = op.f("prediction_error_reason_check")
    op.drop_constraint(name, "prediction_error", schema="ml")
    op.create_check_constraint(name, "prediction_error", f"reason in ({reasons})", schema="ml")
