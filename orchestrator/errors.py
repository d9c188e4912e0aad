"""What can go wrong in the orchestrator itself; a provider's faults are `adapters.ProviderError`.

OrchestratorError
  ConfigError                      the configuration cannot be used; `.problems` lists why
  PatternError                     a pattern file cannot be used, or its template failed
  UnknownModel                     a name that is no deployment, route, panel or pattern/panel
    UnknownPattern                 a name that is no pattern
  InvalidRun                       a request that contradicts itself or the configuration
  NoDeploymentLeft                 every deployment that could serve the call failed
  QuorumNotMet                     too few members gave a usable answer
    AllRefused                     since every one of them says that the request is wrong
  DeadlineExceeded                 the run's time ended before one answer existed
  BudgetExceeded                   a limit of money, tokens, calls or time would be exceeded
    UnknownPrice                   money is capped, and nobody knows what the deployment costs
  DeploymentBusy                   it may not be called now; `retry_after_s` says when
    BreakerOpen                    it failed too often and is left alone for a while
    RateExceeded                   its own rate or concurrency leaves no room before the deadline
  LedgerError                      the ledger cannot be opened, read or written
    ReservationClosed              a reservation is settled or released a second time
  CacheError                       the cache cannot be looked into or emptied
  JournalError                     a journal cannot be written, or resumed from
  BatchError                       what a batch has come to cannot be written, or read back
    BatchInUse                     another process is at this very output
  KeysError                        the file of the gateway's keys cannot be used, or lacks a key
  Diverged                         asked to go on with an answer, a model began another one
"""

from collections.abc import Sequence

from orchestrator.amounts import Amount, Dimension, Scope


class OrchestratorError(Exception):
    """The orchestrator cannot do what was asked; the message says what to do next."""


class ConfigError(OrchestratorError):
    """A configuration cannot be used. One line a problem: `file:line:col: message`.

    Attributes:
        problems: Every problem found, in the order of the file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class PatternError(OrchestratorError):
    """A pattern file cannot be used, or its template failed. One line a problem.

    Attributes:
        problems: Every problem found, as `file:line:col: message` where there is a place to name.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class UnknownModel(OrchestratorError):
    """A name that nothing in the configuration answers to."""


class UnknownPattern(UnknownModel):
    """A run is to go by a pattern that there is none of."""


class InvalidRun(OrchestratorError):
    """The request contradicts itself or the configuration."""


class NoDeploymentLeft(OrchestratorError):
    """Every deployment that could serve the call failed; `__cause__` is the last failure.

    Attributes:
        retry_after_s: When one of them may be called again, where that is known.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuorumNotMet(OrchestratorError):
    """Too few members of a panel gave a usable answer."""


class AllRefused(QuorumNotMet):
    """Every member of a panel was sent the request back as wrong: another one is to be made."""


class DeadlineExceeded(OrchestratorError):
    """The run's time ended before there was one answer to give."""


class BudgetExceeded(OrchestratorError):
    """A reservation does not fit into a budget.

    Attributes:
        scope: Whose budget it is, with its limits.
        dimension: Which of the limits.
        spent: What has been spent of it.
        held: What is reserved for calls that are under way.
        needed: What this call could use up.
    """

    def __init__(
        self,
        message: str,
        *,
        scope: Scope | None = None,
        dimension: Dimension | None = None,
        spent: Amount = Amount(),
        held: Amount = Amount(),
        needed: Amount = Amount(),
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.dimension = dimension
        self.spent = spent
        self.held = held
        self.needed = needed


class UnknownPrice(BudgetExceeded):
    """Money is limited, and the price of the deployment is not known."""


class DeploymentBusy(OrchestratorError):
    """A deployment may not be called now. Nothing was sent.

    Attributes:
        deployment: Its configured name.
        retry_after_s: When it may be, as far as that is known.
    """

    def __init__(
        self, message: str, *, deployment: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.deployment = deployment
        self.retry_after_s = retry_after_s


class BreakerOpen(DeploymentBusy):
    """The deployment has failed too often; it is left alone for a while."""


class RateExceeded(DeploymentBusy):
    """The deployment's rate or concurrency leaves no room before the deadline."""


class LedgerError(OrchestratorError):
    """The ledger cannot be opened, read or written; no call is made without it."""


class CacheError(OrchestratorError):
    """The cache cannot be looked into or emptied. No run fails of that: it goes on without."""


class ReservationClosed(LedgerError):
    """A reservation is not pending any more: nothing has been changed."""


class JournalError(OrchestratorError):
    """A run cannot be journaled, or cannot be resumed from its journal."""


class BatchError(OrchestratorError):
    """What a batch has come to cannot be written, or read back; what was written before stands."""


class BatchInUse(BatchError):
    """Another process is at this very output; two would pay for the same rows twice."""


class KeysError(OrchestratorError):
    """The file of the gateway's keys cannot be used, or has no such key."""


class Diverged(OrchestratorError):
    """Asked to go on with an answer that broke off, a model began another answer instead."""
