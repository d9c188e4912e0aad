"""Write what has come of a batch as one page that needs nothing else: no script, no network."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from orchestrator.amounts import usd
from orchestrator.batch.charts import Bar, bars, columns
from orchestrator.batch.files import atomically
from orchestrator.batch.showing import quantiles
from orchestrator.batch.summary import RATIO, TENTHS, DeploymentSum, Spread, Summary

MOST_BARS = 24  # of one chart; the others stand in the table
MOST_COLUMNS = 40

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #57606a; --line: #d0d7de;
  --bar: #0b62c4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9da7b3;
  --line: #30363d; --bar: #58a6ff } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2.2rem }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem }
dt { color: var(--faint); font-size: 0.85rem } dd { margin: 0; font-size: 1.1rem;
  overflow-wrap: anywhere }
svg { width: 100%; height: auto; display: block; margin: 0.8rem 0 }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink) }
svg .label, svg .last { text-anchor: end } svg .between { text-anchor: middle }
svg .tick { fill: var(--faint) } svg .bar { fill: var(--bar) } svg .axis { stroke: var(--line) }
div { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.9rem 0.3rem 0; text-align: right }
th:first-child, td:first-child { text-align: left }
p.note { color: var(--faint) }
"""
_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"


def write_report(
    summary: Summary,
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str] | None = None,
    replace: bool = False,
) -> None:
    """Write the page.

    Args:
        summary: What is told.
        path: Where it is to be.
        title: What the batch is called.
        facts: What else is to stand above the charts: who was asked, of what.
        replace: Whether it may take the place of a file of ours.

    Raises:
        OutputError: it cannot be written there.
    """
    with atomically(path, replace=replace) as file:
        file.write(page(summary, title=title, facts=facts or {}).encode("utf-8", "replace"))


def page(summary: Summary, *, title: str, facts: Mapping[str, str]) -> str:
    """The page. Its size depends on how many deployments there are, not on how many rows."""
    shown = _text(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{shown}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{shown}</h1>{_facts(summary, facts)}</header><main>"
        f"{_section('Cost', _cost(summary))}{_section('Latency', _latency(summary))}"
        f"{_section('Agreement', _agreement(summary))}{_section('Errors', _errors(summary))}"
        "</main></body></html>\n"
    )


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _text(text: str) -> str:
    """Text that is read and nothing else."""
    return escape(_CONTROLS.sub("\ufffd", text))


def _section(name: str, content: str) -> str:
    place = name.lower()
    return f'<section aria-labelledby="{place}"><h2 id="{place}">{name}</h2>{content}</section>'


def _facts(summary: Summary, facts: Mapping[str, str]) -> str:
    read, written = summary.tokens
    told = {
        **facts,
        "Rows": f"{summary.rows:,}",
        **{name.capitalize(): f"{count:,}" for name, count in sorted(summary.statuses.items())},
        "Repeated": f"{summary.repeated:,}",
        "Calls": f"{summary.calls:,}",
        "Tokens read": f"{read:,}",
        "Tokens written": f"{written:,}",
        "Cost": usd(summary.cost_nanousd),
    }
    pairs = (
        f"<div><dt>{_text(name)}</dt><dd>{_text(said)}</dd></div>" for name, said in told.items()
    )
    return f"<dl>{''.join(pairs)}</dl>"


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        f"{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return (
        f"<div><table><caption>{_text(caption)}</caption><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _note(said: str) -> str:
    return f'<p class="note">{_text(said)}</p>'


# Sections.


def _cost(summary: Summary) -> str:
    dearest = sorted(summary.deployments.items(), key=lambda one: (-one[1].cost_nanousd, one[0]))
    told = [
        Bar(label=_plain(name), value=one.cost_nanousd, told=usd(one.cost_nanousd))
        for name, one in dearest[:MOST_BARS]
    ]
    rows = [
        (name, f"{one.calls:,}", f"{one.failed:,}", f"{one.prompt_tokens:,}",
         f"{one.completion_tokens:,}", usd(one.cost_nanousd))
        for name, one in dearest
    ]  # fmt: skip
    head = ("Deployment", "Calls", "Failed", "Tokens read", "Tokens written", "Cost")
    each = _note(f"A row cost {_money(summary.nanousd)}.") if summary.nanousd.count else ""
    return (
        bars("chart-cost", "What each deployment cost", told)
        + each
        + _table("What each deployment did", head, rows)
    )


def _money(spread: Spread) -> str:
    mean, most = usd(round(spread.mean)), usd(round(spread.most))
    return f"{mean} on average, {usd(round(spread.quantile(0.5)))} in the middle, {most} at most"


def _latency(summary: Summary) -> str:
    spread = summary.seconds
    told, below = _binned(spread)
    rows = [("all rows", *_times(spread))]
    rows += [(name, *_times(one.seconds)) for name, one in _by_name(summary)]
    head = ("Of", "Half", "Nine of ten", "99 of 100", "Longest")
    return (
        columns("chart-latency", "How many rows took how long", told, below=below)
        + _table("How long rows, and the calls of each deployment, took", head, rows)
        + _note("Quantiles are at most 2.5 % off.")
    )


def _times(spread: Spread) -> tuple[str, ...]:
    return (*quantiles(spread), f"{spread.most:.3g} s" if spread.count else "-")


def _by_name(summary: Summary) -> list[tuple[str, DeploymentSum]]:
    return sorted(summary.deployments.items())


def _binned(spread: Spread) -> tuple[list[Bar], list[str]]:
    """Columns of equal ratio from the shortest time to the longest, and what stands below them."""
    if not spread.counts:
        return [], ["no row was asked"]
    first, last = min(spread.counts), max(spread.counts)
    width = -(-(last - first + 1) // MOST_COLUMNS)
    found = []
    for low in range(first, last + 1, width):
        count = sum(spread.counts[bucket] for bucket in range(low, low + width))
        label = f"{_bound(spread, low - 1)} to {_bound(spread, low + width - 1)}"
        found.append(Bar(label=label, value=count, told=f"{count:,} rows"))
    end = first - 1 + width * len(found)
    return found, [_bound(spread, bucket) for bucket in (first - 1, (first - 1 + end) // 2, end)]


def _bound(spread: Spread, bucket: int) -> str:
    """The end of a bucket."""
    return f"{spread.least * RATIO**bucket if bucket >= 0 else 0:.3g} s"


def _agreement(summary: Summary) -> str:
    judged = sum(summary.agreement)
    step = 100 // TENTHS
    told = [
        Bar(label=f"{place * step} to {(place + 1) * step} %", value=count, told=f"{count:,} rows")
        for place, count in enumerate(summary.agreement)
    ]
    said = "Nothing that was asked counts how many drafts agree."
    if judged:
        mean = 100 * summary.agreement_total / judged
        said = (
            f"Of {judged:,} rows, {mean:.0f} % of the drafts agree on average. It says how many say"
            " the same, not how likely that is right."
        )
    title = "How many rows had how many of their drafts agree"
    return columns("chart-agreement", title, told, below=["0 %", "50 %", "100 %"]) + _note(said)


def _errors(summary: Summary) -> str:
    common = summary.errors.most_common()
    told = [
        Bar(label=_plain(kind), value=count, told=f"{count:,}")
        for kind, count in common[:MOST_BARS]
    ]
    drawn = bars("chart-errors", "Why rows have no answer", told)
    if not common:
        return drawn + _note("Every row has an answer." if summary.rows else "No row was asked.")
    rows = [(kind, f"{count:,}", f"{100 * count / summary.rows:.2f} %") for kind, count in common]
    return drawn + _table("Rows without an answer", ("Error", "Rows", "Part of all"), rows)


def _plain(text: str) -> str:
    return _CONTROLS.sub("\ufffd", text)
