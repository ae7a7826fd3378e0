"""Alembic's entry point. It uses the connection and the transaction of `pypredict migrate`."""

from alembic import context

from pypredict import schema

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=schema.metadata,
    version_table_schema="ml",
    include_schemas=True,
    include_name=lambda name, kind, parents: kind != "schema" or name == "ml",
    include_object=lambda _, name, kind, *rest: not (kind == "table" and name == "alembic_version"),
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
