"""What can go wrong in the orchestrator itself; a provider's faults are `adapters.ProviderError`.

OrchestratorError
  ConfigError                      the configuration cannot be used; `.problems` lists why
  PatternError                     a pattern file cannot be used, or its template failed
  UnknownModel                     a name that is no deployment, route, panel or pattern/panel
  InvalidRun                       a request that contradicts itself or the configuration
  NoDeploymentLeft                 every deployment that could serve the call failed
  QuorumNotMet                     too few members gave a usable answer
  DeadlineExceeded                 the run's time ended before one answer existed
"""

from collections.abc import Sequence


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


class InvalidRun(OrchestratorError):
    """The request contradicts itself or the configuration."""


class NoDeploymentLeft(OrchestratorError):
    """Every deployment that could serve the call failed; `__cause__` is the last failure."""


class QuorumNotMet(OrchestratorError):
    """Too few members of a panel gave a usable answer."""


class DeadlineExceeded(OrchestratorError):
    """The run's time ended before there was one answer to give."""
