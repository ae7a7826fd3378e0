"""The tables of contract 2.

Revision: 0.1.0, the first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0.1.0"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "chunk",
        sa.Column(
            "chunk_id", sa.BigInteger(), sa.Identity(always=False), nullable=False, comment="number of the chunk"
        ),
        sa.Column("dataset", sa.Text(), nullable=False, comment="dataset that the inputs belong to"),
        sa.Column(
            "prep_sha256",
            sa.LargeBinary(),
            nullable=False,
            comment="hash of preprocessing, dtype and shape of one input",
        ),
        sa.Column(
            "first_row", sa.Integer(), nullable=False, comment="position of the first input in its source, from 0"
        ),
        sa.Column("n_inputs", sa.Integer(), nullable=False, comment="number of inputs in the chunk"),
        sa.Column("dtype", sa.Text(), nullable=False, comment="dtype of one input: uint8, int32 or float32"),
        sa.Column("shape", sa.ARRAY(sa.Integer()), nullable=False, comment="shape of one input"),
        sa.Column(
            "classes",
            sa.ARRAY(sa.Text()),
            nullable=True,
            comment="label names; input.label_no counts from 0 into it; NULL when unlabelled",
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="where the inputs came from"),
        sa.Column(
            "content_sha256",
            sa.LargeBinary(),
            nullable=True,
            comment="hash of arrays and labels: the same content twice is one chunk",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the row's transaction began, by the server's clock",
        ),
        sa.CheckConstraint("dtype in ('uint8', 'int32', 'float32')", name=op.f("chunk_dtype_check")),
        sa.CheckConstraint(
            "coalesce(array_ndims(shape), 0) = 1 and array_position(shape, null) is null and 0 < all (shape)",
            name=op.f("chunk_shape_check"),
        ),
        sa.CheckConstraint("length(prep_sha256) = 32 and length(content_sha256) = 32", name=op.f("chunk_hashes_check")),
        sa.CheckConstraint("n_inputs >= 1 and first_row >= 0", name=op.f("chunk_counts_check")),
        sa.PrimaryKeyConstraint("chunk_id", name=op.f("chunk_pkey")),
        sa.UniqueConstraint(
            "dataset", "prep_sha256", "content_sha256", name=op.f("chunk_dataset_prep_sha256_content_sha256_key")
        ),
        schema="ml",
        comment="A closed set of inputs, loaded in one transaction; the unit of work.",
    )
    op.create_table(
        "model",
        sa.Column(
            "model_id", sa.BigInteger(), sa.Identity(always=False), nullable=False, comment="number of the model"
        ),
        sa.Column(
            "sha256", sa.LargeBinary(), nullable=False, comment="hash of model.h5; two bundles may hold equal weights"
        ),
        sa.Column(
            "bundle_id",
            sa.Text(),
            nullable=False,
            comment="identity of the model: the directory of its bundle on the models volume",
        ),
        sa.Column("dataset", sa.Text(), nullable=False, comment="dataset that the model was trained on"),
        sa.Column(
            "prep_sha256",
            sa.LargeBinary(),
            nullable=False,
            comment="hash of preprocessing, dtype and shape of one input",
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="name of the experiment"),
        sa.Column("input_dtype", sa.Text(), nullable=False, comment="dtype of one input: uint8, int32 or float32"),
        sa.Column(
            "input_shape", sa.ARRAY(sa.Integer()), nullable=False, comment="shape of one input, without the job axis"
        ),
        sa.Column(
            "classes",
            sa.ARRAY(sa.Text()),
            nullable=False,
            comment="class names; prediction.class_no counts from 0 into it",
        ),
        sa.Column(
            "metrics",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the manifest's figures on the test set",
        ),
        sa.Column(
            "manifest",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the whole manifest: experiment, git commit, versions, W&B run",
        ),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="available, serving (at most one per dataset) or retired"
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the row's transaction began, by the server's clock",
        ),
        sa.CheckConstraint("state in ('available', 'serving', 'retired')", name=op.f("model_state_check")),
        sa.CheckConstraint("length(sha256) = 32 and length(prep_sha256) = 32", name=op.f("model_hashes_check")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("model_pkey")),
        sa.UniqueConstraint("bundle_id", name=op.f("model_bundle_id_key")),
        schema="ml",
        comment="A published model, registered after its bundle was verified; nothing is predicted for an available one.",
    )
    op.create_index(
        "model_serving_idx",
        "model",
        ["dataset"],
        unique=True,
        schema="ml",
        postgresql_where=sa.text("state = 'serving'"),
    )
    op.create_table(
        "ping",
        sa.Column(
            "ping_id", sa.BigInteger(), sa.Identity(always=False), nullable=False, comment="number of the round trip"
        ),
        sa.Column("line", sa.Text(), nullable=False, comment="a line of text"),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="a small array as the bytes of a .npy file"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the row's transaction began, by the server's clock",
        ),
        sa.PrimaryKeyConstraint("ping_id", name=op.f("ping_pkey")),
        schema="ml",
        comment="Round trips of `pypredict ping`: what was stored, and read back equal.",
    )
    op.create_table(
        "vocabulary",
        sa.Column(
            "prep_sha256", sa.LargeBinary(), nullable=False, comment="the preprocessing that the words belong to"
        ),
        sa.Column("words", sa.ARRAY(sa.Text()), nullable=False, comment="token number (from 0) to word"),
        sa.PrimaryKeyConstraint("prep_sha256", name=op.f("vocabulary_pkey")),
        schema="ml",
        comment="Words of a text preprocessing, so that SQL can show a text.",
    )
    op.create_table(
        "input",
        sa.Column(
            "input_id", sa.BigInteger(), sa.Identity(always=False), nullable=False, comment="number of the input"
        ),
        sa.Column("chunk_id", sa.BigInteger(), nullable=False, comment="the chunk"),
        sa.Column("sample_no", sa.Integer(), nullable=False, comment="position in the chunk, from 0"),
        sa.Column(
            "label_no", sa.Integer(), nullable=True, comment="number into chunk.classes, from 0; NULL when unlabelled"
        ),
        sa.Column(
            "payload", sa.LargeBinary(), nullable=False, comment="the array as the bytes of a .npy file (version 1.0)"
        ),
        sa.CheckConstraint(
            "substring(payload from 1 for 8) = '\\x934e554d50590100'::bytea", name=op.f("input_payload_npy_check")
        ),
        sa.CheckConstraint("octet_length(payload) <= 67108864", name=op.f("input_payload_size_check")),
        sa.CheckConstraint("sample_no >= 0 and label_no >= 0", name=op.f("input_numbers_check")),
        sa.ForeignKeyConstraint(["chunk_id"], ["ml.chunk.chunk_id"], name=op.f("input_chunk_id_fkey")),
        sa.PrimaryKeyConstraint("input_id", name=op.f("input_pkey")),
        sa.UniqueConstraint("chunk_id", "sample_no", name=op.f("input_chunk_id_sample_no_key")),
        schema="ml",
        comment="One array and its label.",
    )
    op.create_table(
        "job",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("chunk_id", sa.BigInteger(), nullable=False, comment="the chunk"),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False, comment="pending, running or done"),
        sa.Column(
            "attempt", sa.Integer(), server_default="0", nullable=False, comment="fencing token: counts the claims"
        ),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="claims that ended in a fault or a death",
        ),
        sa.Column("worker", sa.Text(), nullable=True, comment="who holds or held the lease"),
        sa.Column(
            "lease_until", sa.DateTime(timezone=True), nullable=True, comment="a running job may be retaken after this"
        ),
        sa.Column(
            "run_after",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="not before this",
        ),
        sa.Column("last_error", sa.Text(), nullable=True, comment="why the last attempt failed"),
        sa.Column(
            "in_flight",
            sa.BigInteger(),
            nullable=True,
            comment="the input tried alone, committed before it runs (row-by-row work)",
        ),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True, comment="when its predictions were committed"),
        sa.CheckConstraint("(state = 'done') = (done_at is not null)", name=op.f("job_done_check")),
        sa.CheckConstraint("(state = 'running') = (lease_until is not null)", name=op.f("job_lease_check")),
        sa.CheckConstraint("state in ('pending', 'running', 'done')", name=op.f("job_state_check")),
        sa.ForeignKeyConstraint(["chunk_id"], ["ml.chunk.chunk_id"], name=op.f("job_chunk_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("job_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "chunk_id", name=op.f("job_pkey")),
        schema="ml",
        comment="One model times one chunk: who works on it, and until when.",
    )
    op.create_index("job_chunk_id_idx", "job", ["chunk_id"], unique=False, schema="ml")
    op.create_index(
        "job_open_idx", "job", ["run_after"], unique=False, schema="ml", postgresql_where=sa.text("state <> 'done'")
    )
    op.create_table(
        "promotion",
        sa.Column(
            "promotion_id", sa.BigInteger(), sa.Identity(always=False), nullable=False, comment="number of the entry"
        ),
        sa.Column("dataset", sa.Text(), nullable=False, comment="dataset whose serving model it is about"),
        sa.Column("action", sa.Text(), nullable=False, comment="promoted, declined, rolled back or retired"),
        sa.Column("from_model_id", sa.BigInteger(), nullable=True, comment="model that served before; NULL: none"),
        sa.Column(
            "to_model_id",
            sa.BigInteger(),
            nullable=True,
            comment="model that serves from now on, NULL: none; of a declined proposal: the model that does not",
        ),
        sa.Column("why", sa.Text(), nullable=False, comment="the reason in words"),
        sa.Column(
            "proposed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the trainer proposed it; NULL: not the trainer",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the row's transaction began, by the server's clock",
        ),
        sa.CheckConstraint("(action = 'retired') = (to_model_id is null)", name=op.f("promotion_to_model_check")),
        sa.CheckConstraint(
            "action in ('promoted', 'declined', 'rolled back', 'retired')", name=op.f("promotion_action_check")
        ),
        sa.ForeignKeyConstraint(["from_model_id"], ["ml.model.model_id"], name=op.f("promotion_from_model_id_fkey")),
        sa.ForeignKeyConstraint(["to_model_id"], ["ml.model.model_id"], name=op.f("promotion_to_model_id_fkey")),
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("promotion_pkey")),
        schema="ml",
        comment="History of which model serves a dataset.",
    )
    op.create_index("promotion_dataset_idx", "promotion", ["dataset"], unique=False, schema="ml")
    op.create_table(
        "test_set",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("chunk_id", sa.BigInteger(), nullable=False, comment="the chunk"),
        sa.ForeignKeyConstraint(["chunk_id"], ["ml.chunk.chunk_id"], name=op.f("test_set_chunk_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("test_set_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "chunk_id", name=op.f("test_set_pkey")),
        schema="ml",
        comment="Which chunks are a model's own test set: its accuracy in SQL is counted over these.",
    )
    op.create_table(
        "input_name",
        sa.Column("chunk_id", sa.BigInteger(), nullable=False, comment="the chunk"),
        sa.Column("sample_no", sa.Integer(), nullable=False, comment="position in the chunk, from 0"),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="name of the file in its folder, or the place in its file"
        ),
        sa.ForeignKeyConstraint(
            ["chunk_id", "sample_no"],
            ["ml.input.chunk_id", "ml.input.sample_no"],
            name=op.f("input_name_chunk_id_sample_no_fkey"),
        ),
        sa.PrimaryKeyConstraint("chunk_id", "sample_no", name=op.f("input_name_pkey")),
        schema="ml",
        comment="Where an input came from within its source; rows of an array file have none, their number says it.",
    )
    op.create_table(
        "prediction",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("input_id", sa.BigInteger(), nullable=False, comment="the input"),
        sa.Column(
            "class_no", sa.Integer(), nullable=False, comment="most probable class: number into model.classes, from 0"
        ),
        sa.Column("score", sa.REAL(), nullable=False, comment="probability of that class"),
        sa.Column(
            "probs",
            sa.ARRAY(sa.REAL()),
            nullable=False,
            comment="probability of every class, in the order of model.classes",
        ),
        sa.Column(
            "in_training",
            sa.Boolean(),
            nullable=True,
            comment="whether the model was trained or chosen on this very content; NULL for inputs without a label",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the row's transaction began, by the server's clock",
        ),
        sa.CheckConstraint("score between 0 and 1.0001", name=op.f("prediction_score_check")),
        sa.ForeignKeyConstraint(["input_id"], ["ml.input.input_id"], name=op.f("prediction_input_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("prediction_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "input_id", name=op.f("prediction_pkey")),
        schema="ml",
        comment="What a model said of an input; written once, together with the job's 'done'.",
    )
    op.create_index("prediction_input_id_idx", "prediction", ["input_id"], unique=False, schema="ml")
    op.create_table(
        "prediction_error",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("input_id", sa.BigInteger(), nullable=False, comment="the input"),
        sa.Column("reason", sa.Text(), nullable=False, comment="short code of the cause"),
        sa.Column("detail", sa.Text(), nullable=False, comment="the cause in words"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when the row's transaction began, by the server's clock",
        ),
        sa.CheckConstraint(
            "reason in ('corrupt', 'wrong_dtype', 'wrong_shape', 'not_finite', 'bad_output', 'model_error', 'crash', 'too_large')",
            name=op.f("prediction_error_reason_check"),
        ),
        sa.ForeignKeyConstraint(["input_id"], ["ml.input.input_id"], name=op.f("prediction_error_input_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("prediction_error_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "input_id", name=op.f("prediction_error_pkey")),
        schema="ml",
        comment="An input that a model could not predict, and why; the other outcome of a prediction.",
    )
    op.create_table(
        "suspect",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("input_id", sa.BigInteger(), nullable=False, comment="the input"),
        sa.Column(
            "deaths", sa.Integer(), nullable=False, comment="how often a worker died with this input alone in flight"
        ),
        sa.CheckConstraint("deaths >= 1", name=op.f("suspect_deaths_check")),
        sa.ForeignKeyConstraint(["input_id"], ["ml.input.input_id"], name=op.f("suspect_input_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("suspect_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "input_id", name=op.f("suspect_pkey")),
        schema="ml",
        comment="Inputs under suspicion of killing the worker; two deaths alone make a crash.",
    )

    # Arrays hardly compress; uncompressed out-of-line storage reads faster and lets substring() fetch a slice.
    op.execute("ALTER TABLE ml.input ALTER COLUMN payload SET STORAGE EXTERNAL")


def downgrade() -> None:
    raise RuntimeError("revision 0.1.0 is the first; drop the schema ml to go back before it")
