"""How an answer is printed: as it streams, as text, as a Markdown document, as JSON."""

import dataclasses
import json
import sys
from typing import Any, Literal

import click

from orchestrator.amounts import NANO, usd
from orchestrator.cli.progress import spent
from orchestrator.cli.text import count, neutralise, one_line, seconds
from orchestrator.responses import AttemptRecord, OrchestratorResponse, Receipt

Format = Literal["text", "markdown", "json"]
FORMATS: tuple[Format, ...] = ("text", "markdown", "json")


class AnswerStream:
    """Writes the answer to stdout piece by piece; `finish` ends the line."""

    def __init__(self) -> None:
        self.wrote = False
        self._at_line_start = True

    def write(self, text: str) -> None:
        harmless = neutralise(text, terminal=True)
        if harmless:
            self.wrote = True
            self._at_line_start = harmless.endswith("\n")
            click.echo(harmless, nl=False)  # click flushes

    def finish(self) -> None:
        if not self._at_line_start:
            self._at_line_start = True
            click.echo()


def print_answer(response: OrchestratorResponse, form: Format, *, simulated: bool) -> None:
    """Print a whole answer on stdout, and nothing else there."""
    if form == "json":
        click.echo(json.dumps(as_object(response, simulated=simulated), indent=2))
        return
    print_text(as_markdown(response) if form == "markdown" else response.content)


def print_text(text: str) -> None:
    """Print what a model wrote on stdout, harmless to a terminal, and a whole last line."""
    harmless = neutralise(text, terminal=sys.stdout.isatty())
    click.echo(harmless, nl=not harmless.endswith("\n"))


def as_object(response: OrchestratorResponse, *, simulated: bool) -> dict[str, Any]:
    """The answer for a program: what `--json` prints."""
    receipt = response.receipt
    return {
        "content": response.content,
        "status": response.status,
        "causes": list(response.causes),
        "missing": list(receipt.missing),
        "simulated": simulated,
        "run_id": receipt.run_id,
        "model": receipt.model,
        "pattern": receipt.pattern,
        "finish_reason": response.finish_reason,
        "reasoning": response.reasoning,
        "tool_calls": [dataclasses.asdict(call) for call in response.tool_calls],
        "members": [dataclasses.asdict(member) for member in response.model_responses.values()],
        "calls": receipt.calls,
        "usage": {
            **dataclasses.asdict(receipt.usage),
            "total_tokens": receipt.usage.total_tokens,
        },
        "cost_nanousd": receipt.cost_nanousd,
        "cost_usd": receipt.cost_nanousd / NANO,
        "unpriced": list(receipt.unpriced),
        "shrunk": list(receipt.shrunk),
        "elapsed_s": receipt.elapsed_s,
        "notes": list(receipt.notes),
    }


def as_markdown(response: OrchestratorResponse) -> str:
    """The answer as a document: the question, the answer, who was asked, what is to be known."""
    receipt = response.receipt
    causes = [f"> **{receipt.status}**: {one_line(cause, 400)}" for cause in receipt.causes]
    rows = [_markdown_row(attempt) for attempt in first_drafts(receipt)]
    table = ["| member | model | result | tokens | time |", "|---|---|---|---:|---:|", *rows]
    notes = [f"- {one_line(note, 400)}" for note in receipt.notes]
    summary = (
        f"{receipt.model or 'default'} · {receipt.pattern or 'one model'} · "
        f"{count(receipt.calls, 'call')} · {count(receipt.usage.total_tokens, 'token')} · "
        f"{spent(receipt)} · {seconds(receipt.elapsed_s)} · run `{receipt.run_id}`"
    )
    blocks = (
        f"# {one_line(receipt.prompt, 200)}",
        "\n".join(causes),
        response.content.strip(),
        "---",
        summary,
        "\n".join(table) if rows else "",
        "\n".join(notes),
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def first_drafts(receipt: Receipt) -> tuple[AttemptRecord, ...]:
    """The calls of the first stage: what every member of the panel made of the question."""
    return receipt.stages[0].attempts if receipt.stages else ()


def outcome(attempt: AttemptRecord) -> str:
    """What came of a call, in a word or two: `ok`, `not usable`, `RateLimited`."""
    if attempt.status == "ok":
        return "ok" if attempt.usable else "not usable"
    return attempt.error or attempt.status


def call_cost(attempt: AttemptRecord) -> str:
    """What a call cost this run: `$0.0123`, `~$0.01` for tokens we had to count, `?` if unknown."""
    if not attempt.is_paid:
        return "-"
    if attempt.cost_nanousd is None:
        return "?" if attempt.usage.total_tokens else "-"
    return ("~" if attempt.usage.estimated else "") + usd(attempt.cost_nanousd)


def _markdown_row(attempt: AttemptRecord) -> str:
    cells = (
        attempt.member,
        f"{attempt.provider}/{attempt.model}",
        outcome(attempt),
        f"{attempt.usage.total_tokens:,}",
        seconds(attempt.elapsed_s),
    )
    return "| " + " | ".join(one_line(cell, 100).replace("|", "\\|") for cell in cells) + " |"
