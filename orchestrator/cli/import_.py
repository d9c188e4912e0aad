"""`orchestrator import`: another system's configuration file, turned into ours."""

import json
from pathlib import Path

import click

from orchestrator.cli import options
from orchestrator.cli.notes import note
from orchestrator.cli.text import count
from orchestrator.importing import Imported, import_config
from orchestrator.yaml_source import read_file

EPILOG = """\b
Examples:
  orchestrator import litellm.yaml > orchestrator.yaml
  orchestrator import litellm.yaml -o orchestrator.yaml
  orchestrator import models.json --json

\b
No key is copied: the result refers to variables of the environment, and says which to set.
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there instead of to stdout; a file that is there already is kept.",
)
@click.option("--force", is_flag=True, help="With -o: write over a file that is there.")
@options.json_option
def command(file: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Turn a litellm proxy's configuration, or an older one, into ours.

    FILE is the config.yaml of a litellm proxy, or an older {name: {provider, api_key,
    parameters}}, in YAML or JSON. The result is YAML; whatever has no equivalent here is told on
    stderr, and in comments of the result where it belongs.
    """
    if force and output is None:
        raise click.UsageError("--force is for -o")
    made = import_config(read_file(file), str(file))
    if output is not None:
        _write(output, made.text, force=force)
    if as_json:
        click.echo(json.dumps(_report(made, output), indent=2))
        return
    if output is None:
        click.echo(made.text, nl=False)
    for one in made.notes:
        note(str(one))
    for variable, models in made.variables.items():
        note(f"set {variable} in the environment, for {', '.join(models)}")
    if output is not None:
        told = f"{output}: written, with {count(len(made.notes), 'note')}"
        click.echo(f"{told}; `orchestrator check {output}` is next", err=True)


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(
            f"{path} is there already; choose another name, or --force to write over it"
        ) from None


def _report(made: Imported, output: Path | None) -> dict[str, object]:
    return {
        "kind": made.kind,
        "output": None if output is None else str(output),
        "yaml": made.text,
        "variables": {name: list(models) for name, models in made.variables.items()},
        "notes": [
            {"where": one.where, "line": one.line, "message": one.message} for one in made.notes
        ],
    }
