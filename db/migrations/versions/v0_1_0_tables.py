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
        sa.Column("dataset", sa.Text(), nullable=False, comment="dataset of the inputs"),
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
            comment="label names; input.label_no is an index into them, from 0; NULL: no labels",
        ),
        sa.Column("source", sa.Text(), nullable=False, comment="file, folder or bundle of the inputs"),
        sa.Column(
            "content_sha256",
            sa.LargeBinary(),
            nullable=True,
            comment="hash of arrays and labels; equal content is stored as one chunk",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="start of the row's transaction, by the server's clock",
        ),
        sa.CheckConstraint("dtype in ('uint8', 'int32', 'float32')", name=op.f("chunk_dtype_check")),
        sa.CheckConstraint(
            "coalesce(array_ndims(shape), 0) = 1 and array_position(shape, null) is null and 0 < all (shape)",
            name=op.f("chunk_shape_check"),
        ),
        sa.CheckConstraint("length(prep_sha256) = 32 and length(content_sha256) = 32", name=op.f("chunk_hashes_check")),
        sa.CheckConstraint("n_inputs >= 1 and first_row >= 0", name=op.f("chunk_counts_check")),
        sa.CheckConstraint(
            "length(array_to_string(classes, '')) <= 255 * cardinality(classes)", name=op.f("chunk_classes_check")
        ),
        sa.CheckConstraint("length(source) <= 4096", name=op.f("chunk_source_check")),
        sa.PrimaryKeyConstraint("chunk_id", name=op.f("chunk_pkey")),
        sa.UniqueConstraint(
            "dataset", "prep_sha256", "content_sha256", name=op.f("chunk_dataset_prep_sha256_content_sha256_key")
        ),
        schema="ml",
        comment="A fixed set of inputs, loaded in one transaction; the unit of work.",
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
            "serving_sha256", sa.LargeBinary(), nullable=False, comment="hash of model.tflite, the file that predicts"
        ),
        sa.Column(
            "bundle_id",
            sa.Text(),
            nullable=False,
            comment="id of the model's bundle, and name of its directory; identifies the model",
        ),
        sa.Column("dataset", sa.Text(), nullable=False, comment="dataset of the training"),
        sa.Column(
            "prep_sha256",
            sa.LargeBinary(),
            nullable=False,
            comment="hash of preprocessing, dtype and shape of one input",
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="name of the experiment"),
        sa.Column("input_dtype", sa.Text(), nullable=False, comment="dtype of one input: uint8, int32 or float32"),
        sa.Column(
            "input_shape", sa.ARRAY(sa.Integer()), nullable=False, comment="shape of one input, without the batch axis"
        ),
        sa.Column(
            "classes",
            sa.ARRAY(sa.Text()),
            nullable=False,
            comment="class names; prediction.class_no is an index into them, from 0",
        ),
        sa.Column(
            "metrics",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the metrics on the test set, from the manifest",
        ),
        sa.Column(
            "manifest",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="the whole manifest, with experiment, git commit, versions and W&B run",
        ),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="available, serving (at most one per dataset) or retired"
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="start of the row's transaction, by the server's clock",
        ),
        sa.CheckConstraint("state in ('available', 'serving', 'retired')", name=op.f("model_state_check")),
        sa.CheckConstraint(
            "length(sha256) = 32 and length(serving_sha256) = 32 and length(prep_sha256) = 32",
            name=op.f("model_hashes_check"),
        ),
        sa.CheckConstraint(
            "length(array_to_string(classes, '')) <= 255 * cardinality(classes)", name=op.f("model_classes_check")
        ),
        sa.PrimaryKeyConstraint("model_id", name=op.f("model_pkey")),
        sa.UniqueConstraint("bundle_id", name=op.f("model_bundle_id_key")),
        schema="ml",
        comment="A published model, registered after its bundle was verified. An available model predicts nothing.",
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
            comment="start of the row's transaction, by the server's clock",
        ),
        sa.PrimaryKeyConstraint("ping_id", name=op.f("ping_pkey")),
        schema="ml",
        comment="Round trips of `pypredict ping`: the stored text and array.",
    )
    op.create_table(
        "vocabulary",
        sa.Column(
            "prep_sha256", sa.LargeBinary(), nullable=False, comment="hash of the preprocessing with these words"
        ),
        sa.Column("words", sa.ARRAY(sa.Text()), nullable=False, comment="word of each token number, from 0"),
        sa.PrimaryKeyConstraint("prep_sha256", name=op.f("vocabulary_pkey")),
        schema="ml",
        comment="The words of a text preprocessing, to show texts in SQL.",
    )
    op.create_table(
        "input",
        sa.Column(
            "input_id", sa.BigInteger(), sa.Identity(always=False), nullable=False, comment="number of the input"
        ),
        sa.Column(
            "chunk_id", sa.BigInteger(), nullable=False, comment="the chunk; db/references.sql checks that it exists"
        ),
        sa.Column("sample_no", sa.Integer(), nullable=False, comment="position in the chunk, from 0"),
        sa.Column("label_no", sa.Integer(), nullable=True, comment="index into chunk.classes, from 0; NULL: no label"),
        sa.Column(
            "payload", sa.LargeBinary(), nullable=False, comment="the array as the bytes of a .npy file (version 1.0)"
        ),
        sa.CheckConstraint(
            "substring(payload from 1 for 8) = '\\x934e554d50590100'::bytea", name=op.f("input_payload_npy_check")
        ),
        sa.CheckConstraint("octet_length(payload) <= 67108864", name=op.f("input_payload_size_check")),
        sa.CheckConstraint("sample_no >= 0 and label_no >= 0", name=op.f("input_numbers_check")),
        sa.PrimaryKeyConstraint("input_id", name=op.f("input_pkey")),
        sa.UniqueConstraint("chunk_id", "sample_no", name=op.f("input_chunk_id_sample_no_key")),
        schema="ml",
        comment="One array, with its label if there is one.",
    )
    op.create_table(
        "job",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("chunk_id", sa.BigInteger(), nullable=False, comment="the chunk"),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False, comment="pending, running or done"),
        sa.Column(
            "attempt", sa.Integer(), server_default="0", nullable=False, comment="fencing token: the number of claims"
        ),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="number of claims that ended with an error or the worker's death",
        ),
        sa.Column("worker", sa.Text(), nullable=True, comment="worker that holds or held the lease"),
        sa.Column(
            "lease_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="end of the lease; another worker may claim the job after this time",
        ),
        sa.Column(
            "run_after",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="the job may be claimed after this time",
        ),
        sa.Column("last_error", sa.Text(), nullable=True, comment="why the last attempt failed"),
        sa.Column(
            "in_flight",
            sa.BigInteger(),
            nullable=True,
            comment="the input that is predicted alone now; committed before its prediction",
        ),
        sa.Column(
            "done_at", sa.DateTime(timezone=True), nullable=True, comment="time of the commit of its predictions"
        ),
        sa.Column("runtime", sa.Text(), nullable=True, comment="interpreter that predicted it, with its version"),
        sa.Column(
            "processor",
            sa.Text(),
            nullable=True,
            comment="kind of processor that predicted it; on another kind, bits may differ",
        ),
        sa.CheckConstraint("(state = 'done') = (done_at is not null)", name=op.f("job_done_check")),
        sa.CheckConstraint("(state = 'running') = (lease_until is not null)", name=op.f("job_lease_check")),
        sa.CheckConstraint(
            "state <> 'done' or (runtime is not null and processor is not null)", name=op.f("job_replay_check")
        ),
        sa.CheckConstraint("state in ('pending', 'running', 'done')", name=op.f("job_state_check")),
        sa.ForeignKeyConstraint(["chunk_id"], ["ml.chunk.chunk_id"], name=op.f("job_chunk_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("job_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "chunk_id", name=op.f("job_pkey")),
        schema="ml",
        comment="One model times one chunk, with its state, worker and lease.",
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
        sa.Column("dataset", sa.Text(), nullable=False, comment="dataset whose serving model changed"),
        sa.Column("action", sa.Text(), nullable=False, comment="promoted, declined, rolled back or retired"),
        sa.Column("from_model_id", sa.BigInteger(), nullable=True, comment="model that served before; NULL: none"),
        sa.Column(
            "to_model_id",
            sa.BigInteger(),
            nullable=True,
            comment="model that serves from now on; NULL: none. If declined: the refused model",
        ),
        sa.Column("why", sa.Text(), nullable=False, comment="the reason in words"),
        sa.Column(
            "proposed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="time of the trainer's proposal; NULL: by a person",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="start of the row's transaction, by the server's clock",
        ),
        sa.CheckConstraint("(action = 'retired') = (to_model_id is null)", name=op.f("promotion_to_model_check")),
        sa.CheckConstraint(
            "action in ('promoted', 'declined', 'rolled back', 'retired')", name=op.f("promotion_action_check")
        ),
        sa.ForeignKeyConstraint(["from_model_id"], ["ml.model.model_id"], name=op.f("promotion_from_model_id_fkey")),
        sa.ForeignKeyConstraint(["to_model_id"], ["ml.model.model_id"], name=op.f("promotion_to_model_id_fkey")),
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("promotion_pkey")),
        schema="ml",
        comment="History of the serving models of each dataset.",
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
        comment="The chunks of a model's own test set; its accuracy in SQL is counted over them.",
    )
    op.create_table(
        "input_name",
        sa.Column("chunk_id", sa.BigInteger(), nullable=False, comment="the chunk"),
        sa.Column("sample_no", sa.Integer(), nullable=False, comment="position in the chunk, from 0"),
        sa.Column("name", sa.Text(), nullable=False, comment="path of the file in its folder, or place in the file"),
        sa.ForeignKeyConstraint(
            ["chunk_id", "sample_no"],
            ["ml.input.chunk_id", "ml.input.sample_no"],
            name=op.f("input_name_chunk_id_sample_no_fkey"),
        ),
        sa.CheckConstraint("length(name) <= 4096", name=op.f("input_name_name_check")),
        sa.PrimaryKeyConstraint("chunk_id", "sample_no", name=op.f("input_name_pkey")),
        schema="ml",
        comment="The name of an input within its source. Rows of an array file have no name, only a number.",
    )
    op.create_table(
        "prediction",
        sa.Column(
            "model_id",
            sa.BigInteger(),
            nullable=False,
            comment="the model; db/references.sql checks that its job is done",
        ),
        sa.Column(
            "input_id", sa.BigInteger(), nullable=False, comment="the input; db/references.sql checks that it exists"
        ),
        sa.Column(
            "class_no", sa.Integer(), nullable=False, comment="most probable class: index into model.classes, from 0"
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
            comment="true: the same content was in the training or validation part; NULL: input without a label",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="start of the row's transaction, by the server's clock",
        ),
        sa.CheckConstraint("score between 0 and 1.0001", name=op.f("prediction_score_check")),
        sa.PrimaryKeyConstraint("model_id", "input_id", name=op.f("prediction_pkey")),
        schema="ml",
        comment="The prediction of a model for an input; written once, in one transaction with the job's 'done'.",
    )
    op.create_table(
        "prediction_error",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("input_id", sa.BigInteger(), nullable=False, comment="the input"),
        sa.Column("reason", sa.Text(), nullable=False, comment="short code of the reason"),
        sa.Column("detail", sa.Text(), nullable=False, comment="the reason in words"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="start of the row's transaction, by the server's clock",
        ),
        sa.CheckConstraint(
            "reason in ('corrupt', 'wrong_dtype', 'wrong_shape', 'not_finite', 'bad_output', 'model_error', 'crash', 'too_large')",
            name=op.f("prediction_error_reason_check"),
        ),
        sa.ForeignKeyConstraint(["input_id"], ["ml.input.input_id"], name=op.f("prediction_error_input_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("prediction_error_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "input_id", name=op.f("prediction_error_pkey")),
        schema="ml",
        comment="An input that a model could not predict, with the reason; stored instead of a prediction.",
    )
    op.create_table(
        "suspect",
        sa.Column("model_id", sa.BigInteger(), nullable=False, comment="the model"),
        sa.Column("input_id", sa.BigInteger(), nullable=False, comment="the input"),
        sa.Column(
            "deaths",
            sa.Integer(),
            nullable=False,
            comment="how often a worker died while it predicted this input alone",
        ),
        sa.CheckConstraint("deaths >= 1", name=op.f("suspect_deaths_check")),
        sa.ForeignKeyConstraint(["input_id"], ["ml.input.input_id"], name=op.f("suspect_input_id_fkey")),
        sa.ForeignKeyConstraint(["model_id"], ["ml.model.model_id"], name=op.f("suspect_model_id_fkey")),
        sa.PrimaryKeyConstraint("model_id", "input_id", name=op.f("suspect_pkey")),
        schema="ml",
        comment="Inputs that may kill the worker. After two deaths alone, an input becomes a crash.",
    )

    # Arrays hardly compress; uncompressed out-of-line storage reads faster and lets substring() fetch a slice.
    op.execute("ALTER TABLE ml.input ALTER COLUMN payload SET STORAGE EXTERNAL")


def downgrade() -> None:
    raise RuntimeError("revision 0.1.0 is the first; drop the schema ml to go back before it")
