"""`orchestrator schema`: the JSON Schema of the configuration file."""

import json

import click

from orchestrator.config import json_schema

EPILOG = """\b
Examples:
  orchestrator schema > orchestrator.schema.json

\b
First line of orchestrator.yaml, for editors with a YAML language server:
  # yaml-language-server: $schema=orchestrator.schema.json
"""


@click.command(epilog=EPILOG)
def command() -> None:
    """Print the JSON Schema of the configuration file.

    Editors use it to complete keys and to mark mistakes while orchestrator.yaml is written.
    Names across sections (a panel's members, a route's models) are checked by
    `orchestrator check` alone.
    """
    click.echo(json.dumps(json_schema(), indent=2))
