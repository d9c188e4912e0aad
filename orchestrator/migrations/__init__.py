"""The history of the ledger's schema, run by alembic. New databases are made without it."""
