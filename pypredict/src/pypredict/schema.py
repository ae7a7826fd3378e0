"""Contract 2: the tables of schema `ml`, as SQLAlchemy Core.

Alembic compares a database with this module (`alembic check`). It has every rule that the database can keep: keys,
CHECKs, NOT NULLs, comments. Views, functions, triggers, roles and grants are plain SQL in db/, applied after each
migration.
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

REVISION = "0.1.0"  # the migration that this code needs, the newest in db/migrations; it is named after its release

NAMES = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
# The code refuses each class name over 255 characters; a CHECK can only look at all of them together.
CLASSES_CHECK = "length(array_to_string(classes, '')) <= 255 * cardinality(classes)"
metadata = MetaData(schema="ml", naming_convention=NAMES)


def _created_at() -> Column[object]:
    return Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="start of the row's transaction, by the server's clock",
    )


model = Table(
    "model",
    metadata,
    Column("model_id", BigInteger, Identity(), primary_key=True, comment="number of the model"),
    Column("sha256", LargeBinary, nullable=False, comment="hash of model.h5; two bundles may hold equal weights"),
    Column("serving_sha256", LargeBinary, nullable=False, comment="hash of model.tflite, the file that predicts"),
    Column(
        "bundle_id",
        Text,
        nullable=False,
        unique=True,
        comment="id of the model's bundle, and name of its directory; identifies the model",
    ),
    Column("dataset", Text, nullable=False, comment="dataset of the training"),
    Column("prep_sha256", LargeBinary, nullable=False, comment="hash of preprocessing, dtype and shape of one input"),
    Column("name", Text, nullable=False, comment="name of the experiment"),
    Column("input_dtype", Text, nullable=False, comment="dtype of one input: uint8, int32 or float32"),
    Column("input_shape", ARRAY(Integer), nullable=False, comment="shape of one input, without the batch axis"),
    Column(
        "classes", ARRAY(Text), nullable=False, comment="class names; prediction.class_no is an index into them, from 0"
    ),
    Column("metrics", JSONB, nullable=False, comment="the metrics on the test set, from the manifest"),
    Column(
        "manifest",
        JSONB,
        nullable=False,
        comment="the whole manifest, with experiment, git commit, versions and W&B run",
    ),
    Column("state", Text, nullable=False, comment="available, serving (at most one per dataset) or retired"),
    _created_at(),
    CheckConstraint("length(sha256) = 32 and length(serving_sha256) = 32 and length(prep_sha256) = 32", name="hashes"),
    CheckConstraint("state in ('available', 'serving', 'retired')", name="state"),
    CheckConstraint(CLASSES_CHECK, name="classes"),
    Index("model_serving_idx", "dataset", unique=True, postgresql_where=text("state = 'serving'")),
    comment="A published model, registered after its bundle was verified. An available model predicts nothing.",
)

promotion = Table(
    "promotion",
    metadata,
    Column("promotion_id", BigInteger, Identity(), primary_key=True, comment="number of the entry"),
    Column("dataset", Text, nullable=False, comment="dataset whose serving model changed"),
    Column("action", Text, nullable=False, comment="promoted, declined, rolled back or retired"),
    Column("from_model_id", BigInteger, ForeignKey(model.c.model_id), comment="model that served before; NULL: none"),
    Column(
        "to_model_id",
        BigInteger,
        ForeignKey(model.c.model_id),
        comment="model that serves from now on; NULL: none. If declined: the refused model",
    ),
    Column("why", Text, nullable=False, comment="the reason in words"),
    Column("proposed_at", DateTime(timezone=True), comment="time of the trainer's proposal; NULL: by a person"),
    _created_at(),
    CheckConstraint("action in ('promoted', 'declined', 'rolled back', 'retired')", name="action"),
    CheckConstraint("(action = 'retired') = (to_model_id is null)", name="to_model"),
    Index("promotion_dataset_idx", "dataset"),
    comment="History of the serving models of each dataset.",
)

chunk = Table(
    "chunk",
    metadata,
    Column("chunk_id", BigInteger, Identity(), primary_key=True, comment="number of the chunk"),
    Column("dataset", Text, nullable=False, comment="dataset of the inputs"),
    Column("prep_sha256", LargeBinary, nullable=False, comment="hash of preprocessing, dtype and shape of one input"),
    Column("first_row", Integer, nullable=False, comment="position of the first input in its source, from 0"),
    Column("n_inputs", Integer, nullable=False, comment="number of inputs in the chunk"),
    Column("dtype", Text, nullable=False, comment="dtype of one input: uint8, int32 or float32"),
    Column("shape", ARRAY(Integer), nullable=False, comment="shape of one input"),
    Column(
        "classes", ARRAY(Text), comment="label names; input.label_no is an index into them, from 0; NULL: no labels"
    ),
    Column("source", Text, nullable=False, comment="file, folder or bundle of the inputs"),
    Column("content_sha256", LargeBinary, comment="hash of arrays and labels; equal content is stored as one chunk"),
    _created_at(),
    UniqueConstraint("dataset", "prep_sha256", "content_sha256"),
    CheckConstraint("n_inputs >= 1 and first_row >= 0", name="counts"),
    CheckConstraint("dtype in ('uint8', 'int32', 'float32')", name="dtype"),
    CheckConstraint(
        "coalesce(array_ndims(shape), 0) = 1 and array_position(shape, null) is null and 0 < all (shape)", name="shape"
    ),
    CheckConstraint("length(prep_sha256) = 32 and length(content_sha256) = 32", name="hashes"),
    CheckConstraint(CLASSES_CHECK, name="classes"),
    CheckConstraint("length(source) <= 4096", name="source"),
    comment="A fixed set of inputs, loaded in one transaction; the unit of work.",
)

test_set = Table(
    "test_set",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("chunk_id", BigInteger, ForeignKey(chunk.c.chunk_id), nullable=False, comment="the chunk"),
    PrimaryKeyConstraint("model_id", "chunk_id"),
    comment="The chunks of a model's own test set; its accuracy in SQL is counted over them.",
)

input_ = Table(
    "input",
    metadata,
    Column("input_id", BigInteger, Identity(), primary_key=True, comment="number of the input"),
    Column("chunk_id", BigInteger, nullable=False, comment="the chunk; db/references.sql checks that it exists"),
    Column("sample_no", Integer, nullable=False, comment="position in the chunk, from 0"),
    Column("label_no", Integer, comment="index into chunk.classes, from 0; NULL: no label"),
    Column("payload", LargeBinary, nullable=False, comment="the array as the bytes of a .npy file (version 1.0)"),
    UniqueConstraint("chunk_id", "sample_no"),
    CheckConstraint("octet_length(payload) <= 67108864", name="payload_size"),
    CheckConstraint(r"substring(payload from 1 for 8) = '\x934e554d50590100'::bytea", name="payload_npy"),
    CheckConstraint("sample_no >= 0 and label_no >= 0", name="numbers"),
    comment="One array, with its label if there is one.",
)

input_name = Table(
    "input_name",
    metadata,
    Column("chunk_id", BigInteger, nullable=False, comment="the chunk"),
    Column("sample_no", Integer, nullable=False, comment="position in the chunk, from 0"),
    Column("name", Text, nullable=False, comment="path of the file in its folder, or place in the file"),
    PrimaryKeyConstraint("chunk_id", "sample_no"),
    ForeignKeyConstraint(["chunk_id", "sample_no"], ["ml.input.chunk_id", "ml.input.sample_no"]),
    CheckConstraint("length(name) <= 4096", name="name"),
    comment="The name of an input within its source. Rows of an array file have no name, only a number.",
)

job = Table(
    "job",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("chunk_id", BigInteger, ForeignKey(chunk.c.chunk_id), nullable=False, comment="the chunk"),
    Column("state", Text, nullable=False, server_default="pending", comment="pending, running or done"),
    Column("attempt", Integer, nullable=False, server_default="0", comment="fencing token: the number of claims"),
    Column(
        "failures",
        Integer,
        nullable=False,
        server_default="0",
        comment="number of claims that ended with an error or the worker's death",
    ),
    Column("worker", Text, comment="worker that holds or held the lease"),
    Column(
        "lease_until",
        DateTime(timezone=True),
        comment="end of the lease; another worker may claim the job after this time",
    ),
    Column(
        "run_after",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="the job may be claimed after this time",
    ),
    Column("last_error", Text, comment="why the last attempt failed"),
    Column("in_flight", BigInteger, comment="the input that is predicted alone now; committed before its prediction"),
    Column("done_at", DateTime(timezone=True), comment="time of the commit of its predictions"),
    Column("runtime", Text, comment="interpreter that predicted it, with its version"),
    Column("processor", Text, comment="kind of processor that predicted it; on another kind, bits may differ"),
    PrimaryKeyConstraint("model_id", "chunk_id"),
    CheckConstraint("state in ('pending', 'running', 'done')", name="state"),
    CheckConstraint("(state = 'running') = (lease_until is not null)", name="lease"),
    CheckConstraint("(state = 'done') = (done_at is not null)", name="done"),
    CheckConstraint("state <> 'done' or (runtime is not null and processor is not null)", name="replay"),
    Index("job_open_idx", "run_after", postgresql_where=text("state <> 'done'")),
    Index("job_chunk_id_idx", "chunk_id"),
    comment="One model times one chunk, with its state, worker and lease.",
)

prediction = Table(
    "prediction",
    metadata,
    Column("model_id", BigInteger, nullable=False, comment="the model; db/references.sql checks that its job is done"),
    Column("input_id", BigInteger, nullable=False, comment="the input; db/references.sql checks that it exists"),
    Column("class_no", Integer, nullable=False, comment="most probable class: index into model.classes, from 0"),
    Column("score", REAL, nullable=False, comment="probability of that class"),
    Column("probs", ARRAY(REAL), nullable=False, comment="probability of every class, in the order of model.classes"),
    Column(
        "in_training",
        Boolean,
        comment="true: the same content was in the training or validation part; NULL: input without a label",
    ),
    _created_at(),
    PrimaryKeyConstraint("model_id", "input_id"),
    CheckConstraint("score between 0 and 1.0001", name="score"),
    comment="The prediction of a model for an input; written once, in one transaction with the job's 'done'.",
)

prediction_error = Table(
    "prediction_error",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("input_id", BigInteger, ForeignKey(input_.c.input_id), nullable=False, comment="the input"),
    Column("reason", Text, nullable=False, comment="short code of the reason"),
    Column("detail", Text, nullable=False, comment="the reason in words"),
    _created_at(),
    PrimaryKeyConstraint("model_id", "input_id"),
    CheckConstraint(
        "reason in ('corrupt', 'wrong_dtype', 'wrong_shape', 'not_finite', 'bad_output', 'model_error', 'crash',"
        " 'too_large')",
        name="reason",
    ),
    comment="An input that a model could not predict, with the reason; stored instead of a prediction.",
)

suspect = Table(
    "suspect",
    metadata,
    Column("model_id", BigInteger, ForeignKey(model.c.model_id), nullable=False, comment="the model"),
    Column("input_id", BigInteger, ForeignKey(input_.c.input_id), nullable=False, comment="the input"),
    Column("deaths", Integer, nullable=False, comment="how often a worker died while it predicted this input alone"),
    PrimaryKeyConstraint("model_id", "input_id"),
    CheckConstraint("deaths >= 1", name="deaths"),
    comment="Inputs that may kill the worker. After two deaths alone, an input becomes a crash.",
)

vocabulary = Table(
    "vocabulary",
    metadata,
    Column("prep_sha256", LargeBinary, primary_key=True, comment="hash of the preprocessing with these words"),
    Column("words", ARRAY(Text), nullable=False, comment="word of each token number, from 0"),
    comment="The words of a text preprocessing, to show texts in SQL.",
)

ping = Table(
    "ping",
    metadata,
    Column("ping_id", BigInteger, Identity(), primary_key=True, comment="number of the round trip"),
    Column("line", Text, nullable=False, comment="a line of text"),
    Column("payload", LargeBinary, nullable=False, comment="a small array as the bytes of a .npy file"),
    _created_at(),
    comment="Round trips of `pypredict ping`: the stored text and array.",
)
