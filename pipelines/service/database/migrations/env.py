"""Environment of Alembic: migrations run in the connection, and the transaction, that the caller lends."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
context.run_migrations()
