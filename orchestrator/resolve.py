"""Decide what a request's names mean: who is asked, by which pattern, and who writes. No calls."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.config import OrchestratorConfig, PanelConfig, RequestConfig
from orchestrator.errors import InvalidRun, UnknownModel, UnknownPattern
from orchestrator.panel import Member, majority
from orchestrator.patterns import Pattern
from orchestrator.yaml_source import suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request asks for, with every name resolved.

    Attributes:
        name: The name the caller used, or the default that stood in for it.
        pattern: The pattern's name; empty for a plain call of a deployment or route.
        members: Who is asked.
        synthesizers: Who decides and writes: the first, and who follows if it fails.
        quorum: Usable answers wanted; None means a majority of those asked.
        grace_s: How long the others are waited for then.
    """

    name: str
    pattern: str
    members: tuple[Member, ...]
    synthesizers: tuple[Member, ...] = ()
    quorum: int | None = None
    grace_s: float = 0.0

    @property
    def is_plain(self) -> bool:
        return not self.pattern

    def enough(self, asked: int) -> int:
        """How many usable answers of so many asked are enough."""
        return min(self.quorum or majority(asked), asked)


def resolve(
    request: RequestConfig, config: OrchestratorConfig, patterns: Collection[str]
) -> Target:
    """Resolve a request's names against a configuration.

    Raises:
        UnknownModel: a name that nothing is called.
        InvalidRun: names that contradict each other.
    """
    name = request.model or (None if request.members else default_name(config))
    pattern, base = _split(name, config) if name else (None, None)
    if pattern and request.pattern and pattern != request.pattern:
        raise InvalidRun(
            f"model {name!r} and pattern {request.pattern!r} name two patterns; keep one"
        )
    wanted = request.pattern or pattern
    if base is not None and base not in config.panels:
        member = _member(base, config, patterns)
        if request.members:
            raise InvalidRun(f"'members' replaces those of a panel, and {base!r} is none")
        target = _single(request, config, name or base, member, wanted)
    elif request.members and len(request.members) == 1 and base is None and wanted is None:
        member = _member(request.members[0], config, patterns)
        target = _single(request, config, member.name, member, None)
    else:
        target = _panel(request, config, name or "", config.panels.get(base or ""), wanted)
    if target.pattern and target.pattern not in patterns:
        kind = UnknownPattern if request.pattern else UnknownModel
        raise kind(
            f"Unknown pattern {target.pattern!r}{suggestion(target.pattern, patterns)}; "
            f"there are: {_listed(sorted(patterns))}"
        )
    return target


def default_name(config: OrchestratorConfig) -> str:
    """What is asked when nothing is named: the first panel, else route, else deployment."""
    for names in (config.panels, config.routes, config.models):
        for name in names:
            return name
    raise UnknownModel("No model is configured; add one with add_model or in the configuration")


def _split(name: str, config: OrchestratorConfig) -> tuple[str | None, str]:
    """The pattern and the name behind it, of `critique/council` or plain `council`."""
    if "/" not in name or name in config.models:
        return None, name
    pattern, _, base = name.partition("/")
    return pattern, base


def _single(
    request: RequestConfig,
    config: OrchestratorConfig,
    name: str,
    member: Member,
    pattern: str | None,
) -> Target:
    if pattern is None and request.synthesizer is not None:
        raise InvalidRun(f"{name!r} is asked alone: there is nothing to synthesize")
    writer = _member(request.synthesizer, config) if request.synthesizer else member
    return Target(
        name=name,
        pattern=pattern or "",
        members=(member,),
        synthesizers=(writer,) if pattern else (),
    )


def _panel(
    request: RequestConfig,
    config: OrchestratorConfig,
    name: str,
    panel: PanelConfig | None,
    pattern: str | None,
) -> Target:
    names = request.members or (panel.members if panel else ())
    members = numbered([_member(member, config) for member in names])
    writer = request.synthesizer or (panel.synthesizer if panel else None)
    if writer is None:
        writer = max(members, key=lambda member: member.weight).name.partition("#")[0]
    writers = (writer, *(panel.fallback_synthesizers if panel else ()))
    return Target(
        name=name or ",".join(names),
        pattern=pattern or (panel.pattern if panel else PanelConfig(members=names).pattern),
        members=members,
        synthesizers=tuple(_member(one, config) for one in dict.fromkeys(writers)),
        quorum=panel.quorum if panel else None,
        grace_s=(panel or PanelConfig(members=names)).grace_s,
    )


def _member(name: str, config: OrchestratorConfig, patterns: Collection[str] = ()) -> Member:
    """A deployment, or a route with all its deployments in order, as one member."""
    if name in config.models:
        return Member(name=name, deployments=(name,), weight=config.models[name].weight)
    if name in config.routes:
        route = config.routes[name]
        deployments = tuple(dict.fromkeys((*route.models, *route.fallback)))
        gone = [one for one in deployments if one not in config.models]
        if gone:
            raise UnknownModel(f"Route {name!r} leads to {_listed(gone)}, which is not configured")
        return Member(
            name=name,
            deployments=deployments,
            weight=config.models[deployments[0]].weight,
            route=name,
        )
    raise UnknownModel(_unknown(name, config, patterns))


def _unknown(name: str, config: OrchestratorConfig, patterns: Collection[str]) -> str:
    known = (*config.panels, *config.routes, *config.models)
    message = f"Unknown model {name!r}{suggestion(name, known)}"
    if name in patterns and config.panels:
        return f"{message}; {name!r} is a pattern: write '{name}/{next(iter(config.panels))}'"
    return f"{message}; configured: {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def numbered(members: Sequence[Member]) -> tuple[Member, ...]:
    """The members, those that stand there more than once numbered: `gpt#1`, `gpt#2`.

    Whoever has a number already gets a new one: no name may stand there twice.
    """
    names = [member.name.partition("#")[0] for member in members]
    counts = Counter(names)
    seen: Counter[str] = Counter()
    result = []
    for name, member in zip(names, members, strict=True):
        sample = seen[name]
        seen[name] += 1
        own = f"{name}#{sample + 1}" if counts[name] > 1 else member.name
        result.append(replace(member, name=own, sample=sample))
    return tuple(result)


def seats(pattern: Pattern, target: Target) -> tuple[Member, ...]:
    """Who is asked in the first stage: the members, in turn where there are samples or roles."""
    first, members = pattern.stages[0], target.members
    if first.samples:
        count = max(first.samples, len(members))
        return numbered([members[place % len(members)] for place in range(count)])
    if first.roles:
        return numbered(
            [
                replace(members[place % len(members)], role=role)
                for place, role in enumerate(first.roles)
            ]
        )
    return members
