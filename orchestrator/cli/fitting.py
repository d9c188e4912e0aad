"""Decide who of a panel can be asked at all: members without a key are left out, and said. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.panel import Member
from orchestrator.resolve import resolve


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request for those who can answer. `notes` is what the user is told; the receipt has it."""

    request: RequestConfig
    notes: tuple[str, ...] = ()


def fit(
    request: RequestConfig,
    config: OrchestratorConfig,
    patterns: Collection[str],
    keyless: Collection[str],
) -> Fitted:
    """Leave out members of a panel none of whose deployments has a key.

    Only while the others still make the quorum that the whole panel would have needed: below it
    everybody is asked, so that the answer is degraded for a cause that stands in the receipt.

    Raises:
        UnknownModel, InvalidRun: as the run itself would.
    """
    target = resolve(request, config, patterns)
    asked = [member for member in target.members if not _without_key(member, keyless)]
    left_out = [member.name for member in target.members if _without_key(member, keyless)]
    if target.is_plain or not left_out:
        return Fitted(request)
    if len(asked) < target.enough(len(target.members)):
        able = ", ".join(member.name for member in asked)
        hint = f"of {len(target.members)} members only these have a key: {able}; -m asks one alone"
        return Fitted(request, (hint,) if asked else ())
    changes: dict[str, object] = {"members": tuple(_base(member) for member in asked)}
    notes = [f"not asked, because no key is set: {', '.join(left_out)}"]
    if _without_key(target.synthesizers[0], keyless):
        stand_in = _stand_in(target.synthesizers, asked, keyless)
        changes["synthesizer"] = stand_in
        notes.append(f"{stand_in} writes in place of {target.synthesizers[0].name}")
    return Fitted(request.model_copy(update=changes), tuple(notes))


def _without_key(member: Member, keyless: Collection[str]) -> bool:
    return all(deployment in keyless for deployment in member.deployments)


def _stand_in(
    synthesizers: Sequence[Member], asked: Sequence[Member], keyless: Collection[str]
) -> str:
    """The first configured synthesizer with a key, else the heaviest member."""
    able = [member for member in synthesizers if not _without_key(member, keyless)]
    return _base(able[0] if able else max(asked, key=lambda member: member.weight))


def _base(member: Member) -> str:
    """The configured name of a member: `gpt` of `gpt#2`."""
    return member.name.partition("#")[0]
