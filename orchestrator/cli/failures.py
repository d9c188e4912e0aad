"""What an error means to the person at the keyboard: one line, what to do next, an exit code."""

from collections.abc import Mapping
from typing import IO, Any, NoReturn

import click
from pydantic import ValidationError

from adapters import errors as provider_errors
from adapters.config import MissingVariable
from orchestrator import errors
from orchestrator.cli.notes import wrapped
from orchestrator.cli.text import neutralise

FAILED, USAGE, BUDGET, INTERRUPTED = 1, 2, 3, 130

# The first row that fits gives the next step; a message that already says it has none.
NEXT_STEPS: tuple[tuple[type[Exception], str], ...] = (
    (provider_errors.AuthenticationFailed, "`orchestrator check` shows which key is read"),
    (provider_errors.PermissionDenied, "`orchestrator check` shows which key is read"),
    (provider_errors.ContextWindowExceeded, "shorten the prompt or lower --max-tokens"),
    (provider_errors.QuotaExhausted, "top up the account, or choose another model with -m"),
    (provider_errors.ConnectionFailed, "check the network and api_base"),
    (errors.DeadlineExceeded, "on the command line that is --max-time; -m chooses faster models"),
    (errors.UnknownPrice, ""),
    (
        errors.BudgetExceeded,
        "`orchestrator plan` shows what a run needs, `orchestrator usage` what is spent",
    ),
    (errors.BreakerOpen, "`orchestrator models` shows why; -m chooses another model"),
    (errors.RateExceeded, "--max-time allows a longer wait; -m chooses another model"),
    (errors.LedgerError, "ledger.url in the configuration says where it is"),
    (errors.CacheError, "cache.folder in the configuration chooses another folder"),
    (MissingVariable, "set it, or run with --simulate"),
)
WITHOUT_KEYS = "`orchestrator check` shows the keys; --simulate runs without any"
ANOTHER_FOLDER = "ORCHESTRATOR_HOME names another folder for them"
USAGE_ERRORS = (
    errors.ConfigError,
    errors.PatternError,
    errors.UnknownModel,
    errors.InvalidRun,
    errors.BatchInUse,
    errors.KeysError,
    MissingVariable,
)


class Failure(click.ClickException):
    """An error as it is shown: `Error: ...` on stderr, then exit code 1."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(neutralise(message, terminal=True))  # a provider may have worded it

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(wrapped(f"Error: {self.format_message()}"), file=file, err=file is None)


class Misuse(Failure):
    """The same for what the user or the configuration got wrong: exit code 2."""

    exit_code = USAGE


class Unaffordable(Failure):
    """The same for what does not fit into a budget: exit code 3."""

    exit_code = BUDGET


def explain(error: Exception) -> Failure:
    """The failure to show for any error that reaches the edge; a bug of ours is called one."""
    if isinstance(error, (errors.ConfigError, errors.PatternError)) and error.problems:
        what = "configuration" if isinstance(error, errors.ConfigError) else "pattern"
        return Misuse("\n".join((f"the {what} cannot be used", *error.problems)))
    if isinstance(
        error, (errors.OrchestratorError, provider_errors.ProviderError, MissingVariable)
    ):
        return _kind(error)(_with_next_step(error))
    if isinstance(error, OSError) and error.filename is not None:
        return Misuse(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}")
    if isinstance(error, OSError):
        return Failure((error.strerror or str(error) or type(error).__name__).lower())
    return Failure(
        f"unexpected {type(error).__name__}: {error}. This is a fault in orchestrator itself; "
        "run again with ORCHESTRATOR_DEBUG=1 to see where"
    )


def _kind(error: Exception) -> type[Failure]:
    if isinstance(error, errors.BudgetExceeded):
        return Unaffordable
    return Misuse if isinstance(error, USAGE_ERRORS) else Failure


def refuse(error: ValidationError) -> NoReturn:
    """Turn pydantic's report on options into a usage error that repeats no value."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    raise click.UsageError("; ".join(_problem_line(problem) for problem in problems)) from None


def _problem_line(problem: Mapping[str, Any]) -> str:
    """`temperature: Input should be less than or equal to 2`."""
    where = ".".join(str(part) for part in problem["loc"])
    said = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def _names_a_key(message: str) -> bool:
    """Whether a failure of several models has to do with their keys."""
    named = (provider_errors.AuthenticationFailed, provider_errors.PermissionDenied)
    return any(kind.__name__ in message for kind in named)


def _with_next_step(error: Exception) -> str:
    message = " ".join(str(error).split())
    step = next((step for kind, step in NEXT_STEPS if isinstance(error, kind)), "")
    if isinstance(error, (errors.QuorumNotMet, errors.NoDeploymentLeft)) and _names_a_key(message):
        step = WITHOUT_KEYS
    if isinstance(error, errors.JournalError) and "cannot be written" in message:
        step = ANOTHER_FOLDER
    said = (*filter(None, [step]), *getattr(error, "__notes__", ()))
    return "; ".join((message.rstrip("."), *said)) if said else message
