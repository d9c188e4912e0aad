"""What alembic runs around the revisions: on the connection of the ledger that asked for them."""

from alembic import context

from orchestrator.ledger_schema import VERSION_TABLE, metadata


def run() -> None:
    """Run what was asked for, inside the transaction that is open on the connection."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,  # SQLite alters a table by making it anew
    )
    context.run_migrations()


if __name__ == "env_py":  # alembic's name for this file; whoever else imports it wants nothing run
    run()
