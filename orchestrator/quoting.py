"""Quote a run: walk the stages as they would run, and bound every prompt and every answer. Pure.

No answer exists yet, so a prompt that will show some is built with a mark in place of each, and
every mark is charged for the longest text that can stand there.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from adapters.base import BaseAdapter, prompt_text
from adapters.config import ModelConfig
from adapters.factory import create_adapter
from adapters.prices import Capacity, Price, capacity_of, price_of
from adapters.types import CompletionRequest, Message, Usage
from orchestrator.amounts import Scope
from orchestrator.budget import (
    Ask,
    Call,
    Ladder,
    Plan,
    Quote,
    StageQuote,
    Standing,
    Untouched,
    fit,
    stage_quote,
    total_quote,
)
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import BudgetExceeded, InvalidRun, OrchestratorError
from orchestrator.fences import Fences, shorten
from orchestrator.limits import (
    counts_tokens,
    deployment_scopes,
    run_caps,
    shared_scopes,
    usual_limit,
)
from orchestrator.panel import Member
from orchestrator.patterns import Pattern, Stage, Step, steps
from orchestrator.prompts import (
    View,
    conversation,
    draft_request,
    note_request,
    plain_request,
    question_text,
    stage_messages,
    without_tools,
    written_request,
)
from orchestrator.resolve import Target, resolve, seats
from orchestrator.synthesis import Draft

# What is expected of answers nobody has given yet. Guesses, and nothing rests on them but the
# expected figures: half of what is allowed, and no more than a page and a half.
EXPECTED_SHARE = 2
EXPECTED_TOKENS = 800
EXPECTED_FIRST_S = 1.0
EXPECTED_TOKENS_PER_S = 60.0
BYTES_IN_TOKEN = 4  # of a usual text in a usual tokenizer

# What a text can come to in a prompt that a model has written in so many tokens. In bytes: cl100k
# puts 4.2 into a token of prose, code and tables in the median of four-kilobyte pieces, and 6.2 at
# most. A prompt that is long enough is counted, at its densest place and times the margin.
BYTES_IN_TOKEN_BOUND = 8
COUNTED_SPREAD = 2
COUNTED_BYTES = 4096
ITEM_TOKENS = 40  # a question made for an `each: items` stage, as expected
LEFT_OUT_TOKENS = 64  # the line that says how much of a text was left out
CONTINUE_TOKENS = 600  # what asks the next deployment to go on with an answer that was begun
JSON_SPREAD = 2  # how much longer merged fields may be than the objects they were merged from

_NONCE = "0" * 32
_FIRST_MARK = 0xE000  # of a private area: what a template has of it is charged as well
_MARK = re.compile("[\ue000-\uf8ff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a quote rests on.

    Attributes:
        bound: The most tokens a deployment's prompt can come to.
        price: What a deployment charges for such a request; None if nobody knows.
        capacity: How much a deployment can take and give.
        call_s: How long a deployment's calls take at present, as far as that is known.
    """

    bound: Callable[[str, CompletionRequest], int]
    price: Callable[[ModelConfig, CompletionRequest], Price | None]
    capacity: Callable[[ModelConfig], Capacity] = capacity_of
    call_s: Callable[[str], float | None] = lambda _: None


def list_basis(config: OrchestratorConfig) -> Basis:
    """The configuration and the price list. litellm is not imported for it."""
    adapters: dict[str, BaseAdapter] = {}

    def bound(deployment: str, request: CompletionRequest) -> int:
        if deployment not in adapters:
            adapters[deployment] = create_adapter(config.models[deployment], deployment=deployment)
        return adapters[deployment].bound_prompt(request, margin=config.budgets.margin)

    return Basis(bound=bound, price=lambda model, request: price_of(model, request=request))


# A quote.


def quote(
    target: Target,
    pattern: Pattern | None,
    request: RequestConfig,
    config: OrchestratorConfig,
    *,
    plan: Plan | None = None,
    basis: Basis | None = None,
    time_s: float | None = None,
) -> Quote:
    """What a run may cost.

    Args:
        target: Whom the request asks, as it was resolved.
        pattern: The stages; None where a deployment, a route or a bare panel is asked.
        request: What is asked.
        config: Who there is and what is allowed.
        plan: What has given way; by default nothing.
        basis: Prices, sizes and speeds; by default the price list's.
        time_s: The run's deadline, where it is not the request's or the configuration's own.

    Raises:
        InvalidRun: the request holds no question.
        PatternError: a template failed.
    """
    if plan is None:
        plan = plan_of(target)
    walk = _Walk(
        target=planned(target, plan),
        request=request,
        config=config,
        basis=basis or list_basis(config),
        at_most=plan.max_tokens,
        time_s=time_s or request.time_s or config.timeouts.run_s,
    )
    return total_quote(
        target.name,
        target.pattern,
        plan,
        _pattern_stages(walk, pattern) if pattern else [_only_stage(walk)],
        limit_s=walk.time_s,
        unlimited=walk.unlimited,
    )


def plan_of(target: Target) -> Plan:
    """What was asked for, nothing given way."""
    return Plan(
        members=tuple(member.name for member in target.members),
        synthesizers=tuple(member.name for member in target.synthesizers),
    )


def planned(target: Target, plan: Plan) -> Target:
    """The target with the members and synthesizers of a plan.

    Raises:
        InvalidRun: the plan is older than the configuration, and asks somebody who is gone.
    """
    writers = _writers(target)
    known = {member.name for member in target.members}
    gone = [name for name in plan.members if name not in known]
    gone += [name for name in plan.synthesizers if name not in writers]
    if gone:
        raise InvalidRun(f"{', '.join(map(repr, gone))} was to be asked, and is not any more")
    return replace(
        target,
        members=tuple(member for member in target.members if member.name in plan.members),
        synthesizers=tuple(writers[name] for name in plan.synthesizers),
    )


def _writers(target: Target) -> dict[str, Member]:
    """Everybody who could write: the synthesizers, then the members, the heaviest first."""
    writers = {member.name: member for member in target.synthesizers}
    for member in sorted(target.members, key=lambda member: -member.weight):
        plain = replace(member, name=member.name.partition("#")[0], sample=0)
        writers.setdefault(plain.name, plain)
    return writers


def fitted_quote(
    target: Target,
    pattern: Pattern | None,
    request: RequestConfig,
    config: OrchestratorConfig,
    standings: Sequence[Standing],
    *,
    basis: Basis | None = None,
    time_s: float | None = None,
) -> Quote:
    """The quote of the run as it fits into its budgets; `plan` and `shrunk` say what gave way.

    Raises:
        UnknownPrice: money is limited, and nobody knows what a deployment costs.
        BudgetExceeded: it does not fit, however much gives way.
        InvalidRun: the request holds no question.
        PatternError: a template failed.
    """
    basis = basis or list_basis(config)
    ladder = Ladder(
        steps=config.budgets.shrink,
        weights={member.name: member.weight for member in target.members},
        least_members=_least_members(target, pattern),
        min_tokens=config.budgets.min_tokens,
        writers=_other_writers(target, config, basis) if target.pattern else (),
    )
    return fit(
        plan_of(target),
        lambda plan: quote(target, pattern, request, config, plan=plan, basis=basis, time_s=time_s),
        standings,
        ladder,
    )


def _least_members(target: Target, pattern: Pattern | None) -> int:
    return max(target.enough(len(target.members)), pattern.min_members if pattern else 1)


def _other_writers(
    target: Target, config: OrchestratorConfig, basis: Basis
) -> list[tuple[str, ...]]:
    """Who may write instead of the synthesizer, in the operator's order, with who may follow.

    Nobody whose price is not known, and after nobody anyone who could be dearer.
    """
    rates = {name: _rates(member, config, basis) for name, member in _writers(target).items()}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    asked = [member.name for member in target.synthesizers]

    def may_follow(other: str, first: str) -> bool:
        pairs = zip(known[other], known[first], strict=True)
        return other != first and all(one <= two for one, two in pairs)

    return [
        (first, *(other for other in asked if other in known and may_follow(other, first)))
        for first in known
        if first not in asked[:1]
    ]


def _rates(member: Member, config: OrchestratorConfig, basis: Basis) -> tuple[int, int] | None:
    """What many tokens of prompt, and of an answer, cost at the dearest of its deployments."""
    request = CompletionRequest(messages=())
    prices = [basis.price(config.models[name], request) for name in member.deployments]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None
    return (
        max(price.worst_nanousd(100_000, 0) for price in known),
        max(price.worst_nanousd(0, 100_000) for price in known),
    )


def worst_cases(
    config: OrchestratorConfig, patterns: Mapping[str, Pattern], *, basis: Basis | None = None
) -> list[str]:
    """The panels that `budgets.per_run` leaves no room for, not even for one short question."""
    caps = config.budgets.per_run.caps
    if caps.is_empty:
        return []
    standing = Untouched(scope=Scope(kind="run", caps=caps))
    found = []
    for name in config.panels:
        request = RequestConfig(prompt="What is the capital of France?", model=name)
        try:
            target = resolve(request, config, patterns)
            fitted_quote(target, patterns[target.pattern], request, config, [standing], basis=basis)
        except BudgetExceeded as error:
            found.append(f"panels.{name}: not even a short question fits: {error}")
        except OrchestratorError:
            continue  # a pattern or a name that cannot be used is a problem of its own
    return found


# The walk.


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Length:
    """The tokens a text has come out of a model in."""

    bound: int = 0
    expected: int = 0

    def __add__(self, other: "_Length") -> "_Length":
        return _Length(bound=self.bound + other.bound, expected=self.expected + other.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A request, and what will stand in it that nobody has written yet.

    Attributes:
        request: With a mark for each text that is not there.
        known_bytes: How long it is without those.
        questions: How often the question is shown.
        texts: What the models' texts in it come to, as tokens of a prompt.
        is_answer: Whether what comes is handed on as it comes, so that another deployment may go
            on with what one has begun.
        format_is_ours: Whether a deployment that refuses the response format may be asked
            without it.
    """

    request: CompletionRequest
    known_bytes: int
    questions: int = 0
    texts: _Length = _Length()
    is_answer: bool = False
    format_is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """What a caller sees of the others, as long as it can be; the longest first."""

    role: str = ""
    own: _Length | None = None
    others: tuple[_Length, ...] = ()
    drafts: tuple[_Length, ...] = ()
    notes: tuple[_Length, ...] = ()
    ranking: str = ""
    item: _Length | None = None


@dataclass(kw_only=True)
class _Walk:
    """What stays the same from stage to stage."""

    target: Target
    request: RequestConfig
    config: OrchestratorConfig
    basis: Basis
    at_most: int | None
    time_s: float
    unlimited: list[str] = field(default_factory=list)
    question: str = ""
    prompts: dict[tuple[str, _Sight], _Prompt] = field(default_factory=dict)
    _question_bounds: dict[str, int] = field(default_factory=dict)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        return conversation(self.request)

    def question_bound(self, deployment: str) -> int:
        """The most the question alone can come to in a prompt."""
        if deployment not in self._question_bounds:
            alone = CompletionRequest(messages=[{"role": "user", "content": self.question}])
            self._question_bounds[deployment] = self.basis.bound(deployment, alone)
        return self._question_bounds[deployment]


@dataclass(slots=True, kw_only=True)
class _Board:
    """What the stages so far have made: whose drafts, whose notes, and how long they can be.

    Attributes:
        drafts: The latest of each member. A draft by a synthesizer is nobody's: whoever follows
            it leaves one beside it.
        notes: What may be shown as `previous`, by author: a later stage's in place of an earlier
            one's, unless it is skipped.
        listed: The text that the questions of an `each: items` stage are read from.
        writers: How many drafts are by synthesizers.
        is_decided: Whether there may be a ranking to tell of.
    """

    drafts: dict[str, _Length] = field(default_factory=dict)
    notes: list[dict[str, _Length]] = field(default_factory=list)
    listed: _Length = _Length()
    writers: int = 0
    is_decided: bool = False


def _only_stage(walk: _Walk) -> StageQuote:
    """A run without a pattern: the one call of a plain run, or the drafts of a bare panel."""
    if walk.target.is_plain:
        request = plain_request(walk.request, walk.messages)
    else:
        request = draft_request(walk.request, without_tools(walk.messages), is_answer=True)
    prompt = _Prompt(request=request, known_bytes=_bytes(request), is_answer=walk.target.is_plain)
    asks = [
        Ask(member=member.name, options=(_calls(walk, (member,), prompt),))
        for member in walk.target.members
    ]
    name = "answer" if walk.target.is_plain else "drafts"
    return stage_quote(name, asks, limit_s=walk.time_s)


def _pattern_stages(walk: _Walk, pattern: Pattern) -> list[StageQuote]:
    walk.question = shorten(question_text(walk.messages), pattern.question_characters)
    board = _Board()
    stages = []
    for step in steps(pattern):
        asks = _asks(walk, pattern, board, step)
        # A vote needs a judge only where no two drafts agree word for word.
        is_likely = step.stage.unless is None and step.stage.combine != "vote"
        stages.append(stage_quote(step.name, asks, limit_s=walk.time_s, is_likely=is_likely))
        _keep(walk, pattern, board, step, asks)
    return stages


def _asks(walk: _Walk, pattern: Pattern, board: _Board, step: Step) -> list[Ask]:
    """The calls of a stage, as many as it can make."""
    stage, target = step.stage, walk.target
    if stage.each == "items":
        return _item_asks(walk, pattern, board, step)
    if stage.by:
        prompt = _prompt(walk, pattern, board, step)
        row = _calls(walk, target.synthesizers, prompt)
        return [Ask(member=target.synthesizers[0].name, options=(row,))]
    if stage.each is None:
        return []
    by_one = pattern.stages[0].by is not None
    callers = target.members if by_one else seats(pattern, target)
    return [
        Ask(
            member=caller.name,
            options=(_calls(walk, (caller,), _prompt(walk, pattern, board, step, caller=caller)),),
        )
        for caller in callers
    ]


def _item_asks(walk: _Walk, pattern: Pattern, board: _Board, step: Step) -> list[Ask]:
    """One question each of a list. Who gets which depends on who wrote before."""
    target = walk.target
    authors = set(board.drafts)
    if board.writers:
        authors.add(target.synthesizers[0].name)
    others = [member for member in target.members if member.name not in authors]
    asked = others or list(target.members)
    prompt = _prompt(walk, pattern, board, step, item=_item(board, step.stage))
    asks = []
    for place in range(step.stage.max_items):
        first = asked[place % len(asked)]
        rest = [member for member in target.members if member is not first]
        options = tuple(_calls(walk, (member,), prompt) for member in (first, *rest))
        asks.append(Ask(member=first.name, options=options))
    return asks


def _item(board: _Board, stage: Stage) -> _Length:
    """How long the questions can be that are read from a list.

    However it is cut, together they are no longer than it is, and they come to the most in their
    prompts where all are as long.
    """
    return _Length(bound=-(-board.listed.bound // stage.max_items), expected=ITEM_TOKENS)


def _keep(walk: _Walk, pattern: Pattern, board: _Board, step: Step, asks: Sequence[Ask]) -> None:
    """Put what a stage may have made on the board."""
    stage = step.stage
    made = {ask.member: _answer_of(ask) for ask in asks}
    if stage.combine == "fields":
        merged = _total(made.values() or board.drafts.values())
        board.listed = _Length(bound=merged.bound * JSON_SPREAD, expected=merged.expected)
        board.notes.append({"": board.listed})
    elif stage.combine is not None:
        board.is_decided = True
    elif stage.each == "items":
        item = _item(board, stage)
        board.notes.append({f"#{n}": item + _answer_of(ask) for n, ask in enumerate(asks)})
    elif stage.product == "notes":
        board.notes.append(made)
    elif stage.by:
        board.writers = min(board.writers + 1, len(walk.target.synthesizers))
        board.drafts[f"#{board.writers}"] = _total(made.values())
    else:
        board.drafts |= made


def _answer_of(ask: Ask) -> _Length:
    """How long what is answered to this can be, whoever answers."""
    return _Length(
        bound=max(call.completion_bound for row in ask.options for call in row),
        expected=ask.options[0][0].completion_expected,
    )


def _total(lengths: Iterable[_Length]) -> _Length:
    return sum(lengths, _Length())


# Prompts.


def _prompt(
    walk: _Walk,
    pattern: Pattern,
    board: _Board,
    step: Step,
    *,
    caller: Member | None = None,
    item: _Length | None = None,
) -> _Prompt:
    """The longest prompt that a stage may send somebody: with notes and ranking, or without.

    A template may say more where there is nothing to show, so each case is looked at. Who sees
    texts of the same lengths is sent the same.
    """
    sight = _sight(board, step.stage, caller, item)
    if (step.name, sight) not in walk.prompts:
        cases = [
            _case(walk, pattern, step, replace(sight, notes=notes, ranking=ranking))
            for notes in dict.fromkeys((sight.notes, ()))
            for ranking in dict.fromkeys((sight.ranking, ""))
        ]
        longest = max(cases, key=lambda case: case.known_bytes + case.texts.bound)
        walk.prompts[step.name, sight] = longest
    return walk.prompts[step.name, sight]


def _sight(board: _Board, stage: Stage, caller: Member | None, item: _Length | None) -> _Sight:
    mine = caller.name if caller else None
    sees = stage.sees

    def of(texts: Mapping[str, _Length], *, but: str | None = None) -> tuple[_Length, ...]:
        return tuple(sorted((texts[name] for name in texts if name != but), reverse=True))

    notes = max(board.notes, key=lambda by: _total(by.values()), default={})
    return _Sight(
        role=caller.role if caller else "",
        own=board.drafts.get(mine) if mine and "own" in sees else None,
        others=of(board.drafts, but=mine) if "others" in sees else (),
        drafts=of(board.drafts) if "all" in sees else (),
        notes=of(notes, but=mine) if "previous" in sees else (),
        ranking=_longest_ranking(board) if board.is_decided else "",
        item=item,
    )


def _case(walk: _Walk, pattern: Pattern, step: Step, sight: _Sight) -> _Prompt:
    stage = step.stage
    texts: list[_Length] = []

    def mark(length: _Length) -> str:
        texts.append(length)
        return chr(_FIRST_MARK + len(texts))

    def draft(length: _Length) -> Draft:
        return Draft(member="", label="AA", text=mark(length), finish_reason="length")

    view = View(
        question=chr(_FIRST_MARK),
        label="AA",
        role=sight.role,
        round=step.round,
        rounds=stage.rounds,
        structured=walk.request.response_format is not None,
        own=draft(sight.own) if sight.own else None,
        others=tuple(map(draft, sight.others)),
        drafts=tuple(map(draft, sight.drafts)),
        notes=tuple(map(mark, sight.notes)),
        ranking=sight.ranking,
        item=mark(sight.item) if sight.item else None,
    )
    messages = stage_messages(pattern, stage, view, Fences(_NONCE), walk.messages)
    marks = _MARK.findall(messages[-1]["content"]) if stage.prompt else []
    places = [ord(found) - _FIRST_MARK for found in marks]
    shown = [texts[place - 1] for place in places if 0 < place <= len(texts)]
    is_answer = stage.combine == "write"
    request = _request(walk, pattern, stage, messages)
    questions = places.count(0)
    return _Prompt(
        request=request,
        known_bytes=_bytes(request) + questions * len(walk.question.encode("utf-8", "replace")),
        questions=questions,
        texts=_shown(walk.config.budgets.margin, shown, pattern.draft_characters),
        is_answer=is_answer,
        format_is_ours=not is_answer and stage.product != "drafts",
    )


def _bytes(request: CompletionRequest) -> int:
    """How long a prompt is that is known."""
    return len(prompt_text(request).encode("utf-8", "replace"))


def _request(
    walk: _Walk, pattern: Pattern, stage: Stage, messages: Sequence[Message]
) -> CompletionRequest:
    if stage.combine == "write":
        return written_request(walk.request, messages)
    if stage.product == "drafts":
        is_answer = pattern.stages[-1].combine != "write"
        return draft_request(walk.request, messages, stage, is_answer=is_answer)
    return note_request(walk.request, messages, stage)


def _longest_ranking(board: _Board) -> str:
    """As long as any line that says who was ranked where, or how many agree."""
    return "AA 0.00, " * len(board.drafts) + "no two agree word for word; a judge found AA picked"


def _shown(margin: float, texts: Sequence[_Length], characters: int | None = None) -> _Length:
    """What texts come to in a prompt that shows so many characters of each.

    A character is a token in the scripts that tokenizers know least, give or take the margin.
    """
    cut = None if characters is None else math.ceil(characters * margin) + LEFT_OUT_TOKENS
    spread = math.ceil(COUNTED_SPREAD * margin)

    def most(length: int) -> int:
        return length if cut is None else min(length, cut)

    measured = sum(most(text.bound * BYTES_IN_TOKEN_BOUND) for text in texts)
    counted = sum(most(text.bound * spread) for text in texts)
    expected = (text.expected for text in texts)
    if characters is not None:
        expected = (min(tokens, characters // BYTES_IN_TOKEN) for tokens in expected)
    return _Length(bound=min(measured, COUNTED_BYTES + counted), expected=sum(expected))


# Calls.


def _calls(walk: _Walk, members: Sequence[Member], prompt: _Prompt) -> tuple[Call, ...]:
    """Every deployment that may answer, in the order in which they are tried."""
    return tuple(
        _call(walk, name, prompt, tries=_tries(walk.config, member, prompt))
        for member in members
        for name in member.deployments
    )


def _tries(config: OrchestratorConfig, member: Member, prompt: _Prompt) -> int:
    """How often one deployment may be sent a call: retries, simpler forms, a hedge."""
    route = config.routes.get(member.name.partition("#")[0])
    has_own_format = prompt.format_is_ours and prompt.request.response_format is not None
    may_hedge = route is not None and route.hedge
    return config.retry.attempts + has_own_format + prompt.is_answer + may_hedge


def _call(walk: _Walk, deployment: str, prompt: _Prompt, *, tries: int) -> Call:
    model, basis = walk.config.models[deployment], walk.basis
    request = prompt.request
    longest = _longest_answer(walk, deployment, model, request)
    expected = min(-(-longest // EXPECTED_SHARE), EXPECTED_TOKENS)
    count = _answers_wanted(request)
    asked = basis.bound(deployment, request) + prompt.texts.bound
    if prompt.questions:
        asked += prompt.questions * walk.question_bound(deployment)
    again = asked
    if prompt.is_answer:
        begun = _shown(walk.config.budgets.margin, [_Length(bound=longest)])
        again += begun.bound + CONTINUE_TOKENS
    likely = Usage(
        prompt_tokens=prompt.known_bytes // BYTES_IN_TOKEN + prompt.texts.expected,
        completion_tokens=expected * count,
    )
    price = basis.price(model, request)
    call_s = basis.call_s(deployment)
    return Call(
        deployment=deployment,
        prompt_bound=asked,
        prompt_expected=likely.prompt_tokens,
        completion_bound=longest * count,
        completion_expected=likely.completion_tokens,
        full_nanousd=None if price is None else price.worst_nanousd(asked, longest * count),
        expected_nanousd=None if price is None else price.cost_nanousd(likely),
        retry_bound=again,
        retry_nanousd=None if price is None else price.worst_nanousd(again, longest * count),
        tries=tries,
        full_s=min(walk.config.timeouts.total_s, walk.time_s),
        expected_s=call_s or EXPECTED_FIRST_S + expected / EXPECTED_TOKENS_PER_S,
    )


def _longest_answer(
    walk: _Walk, deployment: str, model: ModelConfig, request: CompletionRequest
) -> int:
    """The tokens of the longest answer; `budgets.max_tokens` where nobody knows of a limit."""
    budgets = walk.config.budgets
    capacity = walk.basis.capacity(model)
    able = capacity.max_output_tokens
    limit = request.max_tokens or model.max_tokens
    if limit is None and _is_limited(walk.config, walk.request, deployment):
        limit = usual_limit(budgets, capacity)
    if limit is None and able is None and walk.at_most is None:
        walk.unlimited.append(deployment)
    longest = limit or able or budgets.max_tokens
    return min(longest, walk.at_most or longest)


def _is_limited(config: OrchestratorConfig, request: RequestConfig, deployment: str) -> bool:
    """Whether money or tokens of such a call are limited, and so the length of its answer."""
    budgets = config.budgets
    shared = shared_scopes(
        budgets, run_caps(budgets, request), "", request.tenant, request.tenant_windows
    )
    return counts_tokens((*shared, *deployment_scopes(budgets, deployment)))


def _answers_wanted(request: CompletionRequest) -> int:
    """How many answers one call is charged for."""
    wanted = request.extra.get("n")
    return wanted if isinstance(wanted, int) and wanted > 1 else 1
