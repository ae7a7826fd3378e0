"""Contract 2: the tables of schema `ml`, as SQLAlchemy Core.

This is what Alembic compares a database with (`alembic check`). Rules that the database can keep stand here: keys,
CHECKs, NOT NULLs, comments. Views, functions, roles and grants are plain SQL in db/, reapplied after each migration.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL

REVISION = "0.1.0"  # the newest migration in db/migrations, named by its release: what this code was written for

NAMES = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
metadata = MetaData(schema="ml", naming_convention=NAMES)


def _created_at() -> Column[object]:
    return Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="when the row's transaction began, by the server's clock",
    )


model = Table(
    "model",
    metadata,
    Column("model_id", BigInteger, Identity(), primary_key=True, comment="number of the model"),
    Column("sha256", LargeBinary, nullable=False, comment="hash of model.h5; two bundles may hold equal weights"),
    Column(
        "bundle_id",
        Text,
        nullable=False,
        unique=True,
        comment="identity of the model: the directory of its bundle on the models volume",
    ),
    Column("dataset", Text, nullable=False, comment="dataset that the model was trained on"),
    Column("prep_sha256", LargeBinary, nullable=False, comment="hash of preprocessing, dtype and shape of one input"),
    Column("name", Text, nullable=False, comment="name of the experiment"),
    Column("input_dtype", Text, nullable=False, comment="dtype of one input: uint8, int32 or float32"),
    Column("input_shape", ARRAY(Integer), nullable=False, comment="shape of one input, without the job axis"),
    Column("classes", ARRAY(Text), nullable=False, comment="class names; prediction.class_no counts from 0 into it"),
    Column("metrics", JSONB, nullable=False, comment="the manifest's figures on the test set"),
    Column("manifest", JSONB, nullable=False, comment="the whole manifest: experiment, git commit, versions, W&B run"),
    Column("state", Text, nullable=False, comment="available, serving (at most one per dataset) or retired"),
    _created_at(),
    CheckConstraint("length(sha256) = 32 and length(prep_sha256) = 32", name="hashes"),
    CheckConstraint("state in ('available', 'serving', 'retired')", name="state"),
    Index("model_serving_idx", "dataset", unique=True, postgresql_where=text("state = 'serving'")),
    comment="A published model, registered after its bundle was verified; nothing is predicted for an available one.",
)

promotion = Table(
    "promotion",
    metadata,
    Column("promotion_id", BigInteger, Identity(), primary_key=True, comment="number of the entry"),
    Column("dataset", Text, nullable=False, comment="dataset whose serving model it is about"),
    Column("action", Text, nullable=False, comment="promoted, declined, rolled back or retired"),
    Column("from_model_id", BigInteger, ForeignKey(model.c.model_id), comment="model that served before; NULL: none"),
    Column(
        "to_model_id",
        BigInteger,
        ForeignKey(model.c.model_id),
        comment="model that serves from now on, NULL: none; of a declined proposal: the model that does not",
    ),
    Column("why", Text, nullable=False, comment="the reason in words"),
    Column("proposed_at", DateTime(timezone=True), comment="when the trainer proposed it; NULL: not the trainer"),
    _created_at(),
    CheckConstraint("action in ('promoted', 'declined', 'rolled back', 'retired')", name="action"),
    CheckConstraint("(action = 'retired') = (to_model_id is null)", name="to_model"),
    Index("promotion_dataset_idx", "dataset"),
    comment="History of which model serves a dataset.",
)

chunk = Table(
    "chunk",
    metadata,
    Column("chunk_id", BigInteger, Identity(), primary_key=True, comment="number of the chunk"),
    Column("dataset", Text, nullable=False, comment="dataset that the inputs belong to"),
    Column("prep_sha256", LargeBinary, nullable=False, comment="hash of preprocessing, dtype and shape of one input"),
    Column("first_row", Integer, nullable=False, comment="position of the first input in its source, from 0"),
    Column("n_inputs", Integer, nullable=False, comment="number of inputs in the chunk"),
    Column("dtype", Text, nullable=False, comment="dtype of one input: uint8, int32 or float32"),
    Column("shape", ARRAY(Integer), nullable=False, comment="shape of one input"),
    Column("classes", ARRAY(Text), comment="label names; input.label_no counts from 0 into it; NULL when unlabelled"),
    Column("source", Text, nullable=False, comment="where the inputs came from"),
    Column("content_sha256", LargeBinary, comment="hash of arrays and labels: the same content twice is one chunk"),
    _created_at(),
    UniqueConstraint("dataset", "prep_sha256", "content_sha256"),
    CheckConstraint("n_inputs >= 1 and first_row >= 0", name="counts"),
    CheckConstraint("dtype in ('uint8', 'int32', 'float32')", name="dtype"),
    CheckConstraint(
        "coalesce(array_ndims(shape), 0) = 1 and array_position(shape, null) is null and 0 < all (shape)", name="shape"
    ),
    CheckConstraint("length(prep_sha256) = 32 and length(content_sha256) = 32", name="hashes"),
    comment="A closed set of inputs, loaded in one transaction; the unit of work.",
)

test_set = Table(
    "test_set",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("chunk_id", BigInteger, ForeignKey(chunk.c.chunk_id), nullable=False, comment="the chunk"),
    PrimaryKeyConstraint("model_id", "chunk_id"),
    comment="Which chunks are a model's own test set: its accuracy in SQL is counted over these.",
)

input_ = Table(
    "input",
    metadata,
    Column("input_id", BigInteger, Identity(), primary_key=True, comment="number of the input"),
    Column("chunk_id", BigInteger, ForeignKey(chunk.c.chunk_id), nullable=False, comment="the chunk"),
    Column("sample_no", Integer, nullable=False, comment="position in the chunk, from 0"),
    Column("label_no", Integer, comment="number into chunk.classes, from 0; NULL when unlabelled"),
    Column("payload", LargeBinary, nullable=False, comment="the array as the bytes of a .npy file (version 1.0)"),
    UniqueConstraint("chunk_id", "sample_no"),
    CheckConstraint("octet_length(payload) <= 67108864", name="payload_size"),
    CheckConstraint(r"substring(payload from 1 for 8) = '\x934e554d50590100'::bytea", name="payload_npy"),
    CheckConstraint("sample_no >= 0 and label_no >= 0", name="numbers"),
    comment="One array and its label.",
)

input_name = Table(
    "input_name",
    metadata,
    Column("chunk_id", BigInteger, nullable=False, comment="the chunk"),
    Column("sample_no", Integer, nullable=False, comment="position in the chunk, from 0"),
    Column("name", Text, nullable=False, comment="name of the file in its folder, or the place in its file"),
    PrimaryKeyConstraint("chunk_id", "sample_no"),
    ForeignKeyConstraint(["chunk_id", "sample_no"], ["ml.input.chunk_id", "ml.input.sample_no"]),
    comment="Where an input came from within its source; rows of an array file have none, their number says it.",
)

job = Table(
    "job",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("chunk_id", BigInteger, ForeignKey(chunk.c.chunk_id), nullable=False, comment="the chunk"),
    Column("state", Text, nullable=False, server_default="pending", comment="pending, running or done"),
    Column("attempt", Integer, nullable=False, server_default="0", comment="fencing token: counts the claims"),
    Column("failures", Integer, nullable=False, server_default="0", comment="claims that ended in a fault or a death"),
    Column("worker", Text, comment="who holds or held the lease"),
    Column("lease_until", DateTime(timezone=True), comment="a running job may be retaken after this"),
    Column("run_after", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="not before this"),
    Column("last_error", Text, comment="why the last attempt failed"),
    Column("in_flight", BigInteger, comment="the input tried alone, committed before it runs (row-by-row work)"),
    Column("done_at", DateTime(timezone=True), comment="when its predictions were committed"),
    PrimaryKeyConstraint("model_id", "chunk_id"),
    CheckConstraint("state in ('pending', 'running', 'done')", name="state"),
    CheckConstraint("(state = 'running') = (lease_until is not null)", name="lease"),
    CheckConstraint("(state = 'done') = (done_at is not null)", name="done"),
    Index("job_open_idx", "run_after", postgresql_where=text("state <> 'done'")),
    Index("job_chunk_id_idx", "chunk_id"),
    comment="One model times one chunk: who works on it, and until when.",
)

prediction = Table(
    "prediction",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("input_id", BigInteger, ForeignKey(input_.c.input_id), nullable=False, comment="the input"),
    Column("class_no", Integer, nullable=False, comment="most probable class: number into model.classes, from 0"),
    Column("score", REAL, nullable=False, comment="probability of that class"),
    Column("probs", ARRAY(REAL), nullable=False, comment="probability of every class, in the order of model.classes"),
    Column(
        "in_training",
        Boolean,
        comment="whether the model was trained or chosen on this very content; NULL for inputs without a label",
    ),
    _created_at(),
    PrimaryKeyConstraint("model_id", "input_id"),
    CheckConstraint("score between 0 and 1.0001", name="score"),
    Index("prediction_input_id_idx", "input_id"),
    comment="What a model said of an input; written once, together with the job's 'done'.",
)

prediction_error = Table(
    "prediction_error",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("input_id", BigInteger, ForeignKey(input_.c.input_id), nullable=False, comment="the input"),
    Column("reason", Text, nullable=False, comment="short code of the cause"),
    Column("detail", Text, nullable=False, comment="the cause in words"),
    _created_at(),
    PrimaryKeyConstraint("model_id", "input_id"),
    CheckConstraint(
        "reason in ('corrupt', 'wrong_dtype', 'wrong_shape', 'not_finite', 'bad_output', 'model_error', 'crash',"
        " 'too_large')",
        name="reason",
    ),
    comment="An input that a model could not predict, and why; the other outcome of a prediction.",
)

suspect = Table(
    "suspect",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("input_id", BigInteger, ForeignKey(input_.c.input_id), nullable=False, comment="the input"),
    Column("deaths", Integer, nullable=False, comment="how often a worker died with this input alone in flight"),
    PrimaryKeyConstraint("model_id", "input_id"),
    CheckConstraint("deaths >= 1", name="deaths"),
    comment="Inputs under suspicion of killing the worker; two deaths alone make a crash.",
)

vocabulary = Table(
    "vocabulary",
    metadata,
    Column("prep_sha256", LargeBinary, primary_key=True, comment="the preprocessing that the words belong to"),
    Column("words", ARRAY(Text), nullable=False, comment="token number (from 0) to word"),
    comment="Words of a text preprocessing, so that SQL can show a text.",
)

ping = Table(
    "ping",
    metadata,
    Column("ping_id", BigInteger, Identity(), primary_key=True, comment="number of the round trip"),
    Column("line", Text, nullable=False, comment="a line of text"),
    Column("payload", LargeBinary, nullable=False, comment="a small array as the bytes of a .npy file"),
    _created_at(),
    comment="Round trips of `pypredict ping`: what was stored, and read back equal.",
)
