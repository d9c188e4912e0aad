"""Show on a terminal what has come of a batch: a table of its deployments, and a line or two."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.amounts import usd
from orchestrator.batch.summary import DeploymentSum, Spread, Summary

_COLUMNS = ("calls", "failed", "tokens in", "tokens out", "cost", "p50", "p90", "p99")


def shown(summary: Summary) -> RenderableType:
    """The summary for people."""
    table = Table(box=None, pad_edge=False)
    table.add_column("deployment")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, one in sorted(summary.deployments.items()):
        table.add_row(Text(name), *_cells(one))
    lines = [Text(line) for line in (_rows_line(summary), _time_line(summary)) if line]
    return Group(*([table] if summary.deployments else []), *lines)


def _cells(one: DeploymentSum) -> tuple[str, ...]:
    return (
        f"{one.calls:,}",
        f"{one.failed:,}",
        f"{one.prompt_tokens:,}",
        f"{one.completion_tokens:,}",
        usd(one.cost_nanousd),
        *quantiles(one.seconds),
    )


def quantiles(spread: Spread) -> tuple[str, str, str]:
    """What half, nine tenths, and all but a hundredth do not exceed, in seconds."""
    half, most, nearly_all = (f"{spread.quantile(share):.3g} s" for share in (0.5, 0.9, 0.99))
    return (half, most, nearly_all) if spread.count else ("-", "-", "-")


def _rows_line(summary: Summary) -> str:
    """`1,000 rows: 990 complete, 10 failed (8 RateLimited, 2 InvalidRow); $1.20`."""
    statuses = ", ".join(f"{count:,} {name}" for name, count in summary.statuses.most_common())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.errors.most_common(5))
    repeated = f", {summary.repeated:,} repeated" if summary.repeated else ""
    why = f" ({kinds})" if kinds else ""
    rows = "row" if summary.rows == 1 else "rows"
    told = f": {statuses}" if statuses else ""
    return f"{summary.rows:,} {rows}{told}{why}{repeated}; {usd(summary.cost_nanousd)}"


def _time_line(summary: Summary) -> str:
    if not summary.seconds.count:
        return ""
    half, most, _ = quantiles(summary.seconds)
    return f"half of the rows took {half} or less, nine of ten {most} or less"
