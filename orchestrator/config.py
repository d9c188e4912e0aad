"""The configuration: its shape, its defaults, where it is found, and how it is read."""

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from adapters.config import ENV_REFERENCE, MissingVariable, ModelConfig, resolve_references
from adapters.types import EmbeddingRequest, Limits, Message
from orchestrator.amounts import Caps, Every, nanousd
from orchestrator.cross_checks import DATABASES, cross_check, wrong_database, wrong_redis
from orchestrator.errors import ConfigError
from orchestrator.yaml_check import Vocabulary, validate
from orchestrator.yaml_source import (
    Loc,
    MappingNode,
    Problem,
    ScalarNode,
    YamlSource,
    read_file,
    read_yaml,
)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Money = Annotated[Decimal, Field(gt=0, le=10**9, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10**15)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Tenant = Annotated[str, Field(max_length=256)]
Tag = Annotated[str, Field(min_length=1, max_length=64)]
MOST_MEMBERS = 32  # of a panel, whoever puts it together


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RouteConfig(_Strict):
    """A name callers ask for and the ordered deployments behind it."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    fallback: tuple[str, ...] = ()
    strategy: Literal["priority", "weighted", "cheapest", "fastest", "least_busy"] = "priority"
    hedge: bool = False


class PanelConfig(_Strict):
    """Deployments asked together, and how their answers become one."""

    members: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_MEMBERS)]
    pattern: str = "compare"
    synthesizer: str | None = None  # default: the member with the highest weight, first of equals
    fallback_synthesizers: tuple[str, ...] = ()
    quorum: Annotated[int, Field(ge=1)] | None = None  # usable answers wanted; default: a majority
    grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0


class TimeoutsConfig(_Strict):
    """The four clocks of a call, and the deadline of a whole run."""

    connect_s: Seconds = 5.0
    first_content_s: Seconds = 15.0
    gap_s: Seconds = 15.0
    total_s: Seconds = 120.0
    run_s: Seconds = 300.0

    def limits(self) -> Limits:
        return Limits(
            connect_s=self.connect_s,
            first_content_s=self.first_content_s,
            gap_s=self.gap_s,
            total_s=self.total_s,
        )


class CapsConfig(_Strict):
    """How much may be used up; what is not given is not limited."""

    money_usd: Money | None = None
    tokens: Count | None = None
    calls: Count | None = None
    time_s: Seconds | None = None

    @cached_property
    def caps(self) -> Caps:
        """The same in the integers that are counted."""
        return Caps(
            money_nanousd=None if self.money_usd is None else nanousd(self.money_usd),
            tokens=self.tokens,
            calls=self.calls,
            time_ms=None if self.time_s is None else int(self.time_s * 1000),
        )


class WindowConfig(CapsConfig):
    """A limit that holds for a time by the clock in UTC, and then begins anew.

    `name` narrows it to one key or one deployment; without it every one has a limit of its own.
    """

    scope: Literal["key", "deployment", "global"]
    every: Every
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class TenantWindow(CapsConfig):
    """A limit of one tenant's own for a time, beside those of `budgets.windows`."""

    every: Every


ShrinkStep = Literal["members", "max_tokens", "synthesizer"]


class BudgetsConfig(_Strict):
    """What runs may cost, and what gives way when a run does not fit."""

    per_run: CapsConfig = CapsConfig()
    windows: tuple[WindowConfig, ...] = ()
    shrink: tuple[ShrinkStep, ...] = ("members", "max_tokens", "synthesizer")
    max_tokens: Count = 8192
    min_tokens: Count = 256
    margin: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False)] = 1.5

    @cached_property
    def _by_scope(self) -> dict[str, list[WindowConfig]]:
        found: dict[str, list[WindowConfig]] = {}
        for window in self.windows:
            found.setdefault(window.scope, []).append(window)
        return found

    def windows_of(
        self, scope: Literal["key", "deployment", "global"], name: str
    ) -> list[WindowConfig]:
        """The windows that somebody's calls count in; one with the very name goes before others."""
        found = self._by_scope.get(scope)
        if not found:
            return []
        general = {window.every: window for window in found if window.name is None}
        own = {window.every: window for window in found if window.name == name}
        return list((general | own).values())


class RetryConfig(_Strict):
    """How often a call is tried again, and how long is waited before."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    budget_ratio: Ratio = 0.1
    fallback_ratio: Ratio = 0.2
    burst: Annotated[int, Field(ge=1)] = 10
    base_s: Seconds = 0.5
    cap_s: Seconds = 8.0
    hedge_ratio: Ratio = 0.05
    hedge_min_s: Seconds = 0.2


class BreakerConfig(_Strict):
    """When a deployment is left alone for a while, and how it comes back."""

    failures: Count = 5
    open_s: Seconds = 30.0
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    calls: Count = 20
    window_s: Seconds = 60.0
    probe_s: Seconds = 180.0  # longer than a call may take: an earlier end would not be heard


class CacheConfig(_Strict):
    """Whether equal calls are answered from disk, for how long, in how much room."""

    ttl_s: Seconds = 3600.0
    size_mb: Count = 1024
    folder: str | None = None  # relative to the file; default: a folder in `state_dir()`


class LedgerConfig(_Strict):
    """Where spending is kept, and for how long. A password in `url` is better `${NAME}`."""

    url: SecretStr | None = None  # default: a file in `state_dir()`
    hold_s: Seconds = 900.0
    keep_days: Count = 400


class LimitsConfig(_Strict):
    """Where rates are counted for all processes. A password in `url` is better `${NAME}`."""

    url: SecretStr
    timeout_s: Seconds = 0.25  # how long Redis may take; past it each process counts its share


class ServerConfig(_Strict):
    """How the gateway takes requests. The address it listens on is the command line's."""

    hosts: tuple[str, ...] = ()  # names it may be asked under, beside those it listens on
    body_mb: Annotated[int, Field(ge=1, le=1024)] = 10
    header_kb: Annotated[int, Field(ge=1, le=1024)] = 16
    max_tokens: Count = 131_072  # the longest answer that may be asked for
    requests: Count = 1000  # answered at a time; one more is told to come again
    read_s: Seconds = 30.0  # how long a body may take to come
    heartbeat_s: Seconds = 15.0  # how often a stream with nothing to say shows that it is alive
    drain_s: Seconds = 30.0  # how long requests under way may go on once it is to end


class OrchestratorConfig(_Strict):
    """A whole configuration file.

    Without `ledger`, spending is counted in memory, and only where a budget asks for it. Without
    `cache`, no answer is kept. Without `limits`, rates are counted by each process for itself.
    """

    models: Annotated[dict[Name, ModelConfig], Field(min_length=1)]
    routes: dict[Name, RouteConfig] = Field(default_factory=dict)
    panels: dict[Name, PanelConfig] = Field(default_factory=dict)
    budgets: BudgetsConfig = BudgetsConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    cache: CacheConfig | None = None
    ledger: LedgerConfig | None = None
    limits: LimitsConfig | None = None
    server: ServerConfig = ServerConfig()
    patterns_dir: str | None = None  # more patterns, beside the built-in ones; relative to the file


class RequestConfig(_Strict):
    """One run. `model` names a deployment, a route, a panel, or `pattern/panel`.

    Either `prompt` or `messages` is given. `members` replaces the panel's members for this run.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    system: str | None = None
    model: str | None = None  # default: the only panel, else the first one
    pattern: str | None = None
    members: Annotated[tuple[str, ...], Field(max_length=MOST_MEMBERS)] | None = None
    synthesizer: str | None = None
    tools: tuple[dict[str, object], ...] | None = None
    tool_choice: str | dict[str, object] | None = None
    response_format: dict[str, object] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None  # of the shuffles, and passed to providers that take one
    reasoning_effort: str | None = None
    time_s: Seconds | None = None  # the run's deadline; default: timeouts.run_s
    max_cost_usd: Money | None = None  # of the whole run, beside budgets.per_run
    max_run_tokens: Count | None = None  # of all calls of the run together
    max_calls: Count | None = None
    tenant: Tenant = ""  # on whose behalf: budgets of scope key, and cached answers, are by tenant
    tenant_windows: tuple[TenantWindow, ...] = ()  # never what a caller over the wire says
    tags: Annotated[tuple[Tag, ...], Field(max_length=16)] = ()  # for the records of usage
    cache: Literal["use", "refresh", "off"] = "use"  # refresh: ask anew, and keep that
    notes: tuple[str, ...] = ()  # what the caller wants to stand in the receipt beside the rest
    extra: dict[str, object] = Field(default_factory=dict)


# Where it is found.


def find_config(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The configuration file to use: the one asked for, else the first there is.

    In this order: `ORCHESTRATOR_CONFIG`, `orchestrator.yaml` and `configs/orchestrator.yaml` in
    the current folder, the one that comes with the package.
    """
    if explicit is not None:
        return Path(explicit)
    if named := os.environ.get("ORCHESTRATOR_CONFIG"):
        return Path(named).expanduser()
    here = (Path("orchestrator.yaml"), Path("configs/orchestrator.yaml"))
    packaged = packaged_configs() / "orchestrator.yaml"
    return next((path for path in here if path.is_file()), packaged)


def packaged_configs() -> Path:
    """The folder of the built-in configuration and patterns: in the wheel, or in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "_configs"
    return inside if inside.is_dir() else package.parent / "configs"


def state_dir() -> Path:
    """Where receipts and history are kept. Whoever writes there first creates it, mode 0700.

    `ORCHESTRATOR_HOME`, else `$XDG_STATE_HOME/orchestrator`, else `~/.local/state/orchestrator`.
    """
    if home := os.environ.get("ORCHESTRATOR_HOME"):
        return Path(home).expanduser()
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and must be ignored.
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "orchestrator"


def runs_folder() -> Path:
    """Where the receipts and journals of runs are kept."""
    return state_dir() / "runs"


COUNTING = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client as it is imported


def counting_folder() -> str | None:
    """Where prometheus_client adds up what several processes count, if this is one of them."""
    return os.environ.get(COUNTING)


@contextmanager
def counting_in(folder: Path) -> Iterator[None]:
    """Have the processes that are started inside add up there what they count."""
    before = os.environ.get(COUNTING)
    os.environ[COUNTING] = str(folder)
    try:
        yield
    finally:
        del os.environ[COUNTING]
        if before is not None:
            os.environ[COUNTING] = before


def cache_folder(config: OrchestratorConfig) -> Path:
    """Where kept answers are, whether or not the cache is on."""
    folder = config.cache.folder if config.cache else None
    return Path(folder).expanduser() if folder else state_dir() / "cache"


def ledger_url(config: OrchestratorConfig) -> str:
    """The address of the ledger as SQLAlchemy wants it; it may hold a password.

    Every `${NAME}` in it is replaced now. Without a ledger it is `sqlite://`, in memory.

    Raises:
        ConfigError: a variable is not set, or what it holds is no address of a database.
    """
    if config.ledger is None:
        return "sqlite://"
    if config.ledger.url is None:
        return f"sqlite:///{state_dir().absolute() / 'ledger.db'}"
    written = config.ledger.url.get_secret_value()
    url = _resolved("ledger.url", written, wrong_database)
    if ENV_REFERENCE.search(written) and _relative_file(url):
        message = "needs an absolute path where a variable is part of it: sqlite:////folder/file"
        raise ConfigError([f"ledger.url {message}"])
    scheme, _, rest = url.partition("://")
    return f"{DATABASES[scheme]}://{rest}"


def limits_url(config: OrchestratorConfig) -> str | None:
    """The address of the Redis that rates are counted in, if any; it may hold a password.

    Raises:
        ConfigError: a variable is not set, or what it holds is no address of a Redis.
    """
    if config.limits is None:
        return None
    return _resolved("limits.url", config.limits.url.get_secret_value(), wrong_redis)


def _resolved(where: str, written: str, wrong: Callable[[str], str]) -> str:
    """An address with every `${NAME}` in it replaced.

    Raises:
        ConfigError: a variable is not set, or the address is then none.
    """
    try:
        url = _resolve_address(written)
    except MissingVariable as missing:
        raise ConfigError([f"{where}: {missing}"]) from None
    if found := wrong(url):
        raise ConfigError([f"{where} {found}"])
    return url


_USER_PART = re.compile(r"([^/@]*://)([^/@]*)(@.*)", re.DOTALL)


def _resolve_address(written: str) -> str:
    """Replace every `${NAME}`; in a password, letters that mean something else in an address too.

    Raises:
        MissingVariable: one is not set.
    """
    parts = _USER_PART.fullmatch(written)
    if parts is None:
        return resolve_references(written)
    user = ENV_REFERENCE.sub(lambda name: quote(resolve_references(name[0]), safe=""), parts[2])
    return resolve_references(parts[1]) + user + resolve_references(parts[3])


def _relative_file(url: str) -> str:
    """The path of a SQLite file that is relative to something, if this is the address of one."""
    scheme, _, rest = url.partition("://")
    path = rest.removeprefix("/")
    is_file = DATABASES.get(scheme) == "sqlite" and path and not path.startswith((":", "file:"))
    return path if is_file and not path.startswith("/") else ""


def with_state(config: OrchestratorConfig) -> OrchestratorConfig:
    """The same configuration with a ledger on disk, its own or the default one.

    For programs whose runs share a budget over time; as a library, only what the file says is kept.
    """
    if config.ledger is not None:
        return config
    return config.model_copy(update={"ledger": LedgerConfig()})


# How it is read.

VOCABULARY = Vocabulary(
    synonyms={
        "apikey": "api_key",
        "base_url": "api_base",
        "calls": "per_run",
        "circuit_breaker": "breaker",
        "context_window": "context_tokens",
        "cost_usd": "money_usd",
        "database": "url",
        "deployments": "models",
        "dir": "folder",
        "endpoint": "api_base",
        "fail_max": "failures",
        "fallbacks": "fallback",
        "judge": "synthesizer",
        "key": "api_key",
        "limits": "budgets",
        "max_cost_usd": "money_usd",
        "max_output_tokens": "max_tokens",
        "max_parallel_requests": "concurrency",
        "max_retries": "attempts",
        "models": "members",
        "money_usd": "per_run",
        "path": "folder",
        "rate_limits": "rates",
        "reset_timeout": "open_s",
        "retries": "attempts",
        "rpm": "requests_per_minute",
        "time_s": "per_run",
        "timeout": "timeouts",
        "tokens": "per_run",
        "tpm": "tokens_per_minute",
        "url": "api_base",
        "window": "every",
    },
    examples={
        "every": "every: day",
        "input_usd": "input_usd: 0.25",
        "members": "members: [gpt, claude]",
        "model": "model: gpt-5-mini",
        "models": "models: {gpt: {provider: openai, model: gpt-5-mini}}",
        "output_usd": "output_usd: 2.00",
        "provider": "provider: openai",
        "scope": "scope: global",
    },
    wanted={"price": "'free' or {input_usd: 0.25, output_usd: 2.00}"},
)


def load_config(path: str | os.PathLike[str]) -> OrchestratorConfig:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be used. Every problem stands in `problems`, in the order of the
            file, as `file:line:col: message`, and no message repeats a value that may be a secret.
    """
    return parse_config(read_file(Path(path)), os.fspath(path))


def parse_config(
    text: str, source: str = "<string>", *, patterns: Collection[str] | None = None
) -> OrchestratorConfig:
    """Read a configuration out of a text.

    Args:
        source: What messages call the text; relative paths in it are beside this file.
        patterns: The names of all patterns there are; by default the files are looked for.

    Raises:
        ConfigError: as `load_config`.

    >>> parse_config("models: {gpt: {provider: opnai, model: gpt-5-mini}}", "a.yaml")
    Traceback (most recent call last):
    ...
    orchestrator.errors.ConfigError: a.yaml:1:26: Unknown provider 'opnai', did you mean 'openai'?
    """
    yaml = read_yaml(text, source)
    if not isinstance(yaml.root, MappingNode):
        message = "The file must be a mapping that has the key 'models'"
        raise ConfigError(yaml.lines((*yaml.problems, Problem(0, message))))
    config, faults = validate(yaml, OrchestratorConfig, VOCABULARY)
    beside = Path(source).parent
    patterns_dir, no_patterns = _folder(yaml, ("patterns_dir",), beside)
    cache_dir, no_cache = _folder(yaml, ("cache", "folder"), beside, may_come=True)
    known = _pattern_names(patterns_dir) if patterns is None else patterns
    contradictions = cross_check(yaml, known, _DEFAULTS)
    problems = yaml.lines(chain(yaml.problems, faults, no_patterns, no_cache, contradictions))
    if problems:
        raise ConfigError(problems)
    assert config is not None, "a refused configuration has a problem"
    return _placed(config, beside, patterns_dir, cache_dir)


_DEFAULTS = {"budgets": BudgetsConfig().model_dump(), "retry": RetryConfig().model_dump()}


def _placed(
    config: OrchestratorConfig, beside: Path, patterns_dir: Path | None, cache_dir: Path | None
) -> OrchestratorConfig:
    """The configuration with absolute paths for those that are relative to its file."""
    places: dict[str, Any] = {"patterns_dir": str(patterns_dir) if patterns_dir else None}
    if config.cache and cache_dir:
        places["cache"] = config.cache.model_copy(update={"folder": str(cache_dir)})
    if config.ledger and config.ledger.url:
        url = SecretStr(_placed_database(config.ledger.url.get_secret_value(), beside))
        places["ledger"] = config.ledger.model_copy(update={"url": url})
    return config.model_copy(update=places)


def _placed_database(url: str, beside: Path) -> str:
    path = _relative_file(url)
    if not path or ENV_REFERENCE.match(path):
        return url
    with suppress(RuntimeError):  # no such home: a folder with a strange name, then
        path = str(Path(path).expanduser())
    return f"{url.partition('://')[0]}:///{beside.absolute() / path}"


def _folder(
    yaml: YamlSource, loc: Loc, beside: Path, *, may_come: bool = False
) -> tuple[Path | None, list[Problem]]:
    """The folder that a key names, or why it is none; `may_come` if it is created when needed."""
    node = yaml.find(loc)
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or "$" in node.value:
        return None, []
    with suppress(OSError, RuntimeError, ValueError):  # no such home, a loop of links, too long
        folder = (beside / Path(node.value).expanduser()).resolve()
        if folder.is_dir() or (may_come and not folder.exists()):
            return folder, []
    message = (
        f"{yaml.where(loc)} {yaml.quote_key(node.value)} is no folder;"
        f" {'' if may_come else 'create it or '}correct the path"
    )
    return None, [Problem(node.at, message)]


def _pattern_names(folder: Path | None) -> set[str]:
    folders = (packaged_configs() / "patterns", *([folder] if folder else []))
    return {path.stem for folder in folders for path in folder.glob("*.yaml")}


def warnings(config: OrchestratorConfig) -> list[str]:
    """What is allowed and yet unwise: secrets in the file, keys sent in clear, idle limits."""
    return [
        *(
            warning
            for name, model in config.models.items()
            for warning in _model_warnings(f"models.{name}", model)
        ),
        *_price_warnings(config),
        *_route_warnings(config),
        *_panel_warnings(config),
        *_timeout_warnings(config.timeouts),
        *_guard_warnings(config),
    ]


def _model_warnings(where: str, model: ModelConfig) -> Iterator[str]:
    key = model.api_key.get_secret_value() if model.api_key else ""
    if key and not ENV_REFERENCE.search(key):
        yield f"{where}.api_key is in the file itself; write ${{NAME}} and set the variable"
    address = _split_address(model.api_base or "")
    if "@" in address.netloc:
        yield f"{where}.api_base has a user or password in it; use api_key: ${{NAME}} instead"
    if address.scheme == "http" and key and not _is_this_machine(address.hostname or ""):
        yield f"{where} sends its key unencrypted; use https in api_base"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _timeout_warnings(timeouts: TimeoutsConfig) -> Iterator[str]:
    """A clock that another one always beats."""
    for shorter, longer in (
        ("connect_s", "total_s"),
        ("first_content_s", "total_s"),
        ("gap_s", "total_s"),
        ("total_s", "run_s"),
    ):
        if getattr(timeouts, shorter) > getattr(timeouts, longer):
            yield (
                f"timeouts.{shorter} is longer than timeouts.{longer} and never rings;"
                f" lower {shorter} or raise {longer}"
            )


def _price_warnings(config: OrchestratorConfig) -> Iterator[str]:
    """Deployments that nobody will be allowed to call: what they cost cannot be counted."""
    from adapters.prices import price_of  # noqa: PLC0415  # the price list: only who checks needs it

    for name, model in config.models.items():
        prices = (price_of(model), price_of(model, request=EmbeddingRequest(inputs=())))
        if _money_is_limited(config.budgets, name) and prices == (None, None):
            yield (
                f"models.{name} has no known price, and while money is limited its calls are"
                " refused; write price: {input_usd: ..., output_usd: ...}, or price: free"
            )


def _money_is_limited(budgets: BudgetsConfig, deployment: str) -> bool:
    others = [window for window in budgets.windows if window.scope != "deployment"]
    own = budgets.windows_of("deployment", deployment)
    return any(caps.money_usd is not None for caps in (budgets.per_run, *others, *own))


def _route_warnings(config: OrchestratorConfig) -> Iterator[str]:
    """Second attempts that nobody will ever make."""
    for name, route in config.routes.items():
        if route.hedge and len({*route.models, *route.fallback}) < 2:
            yield f"routes.{name}.hedge needs a second model; add one, or remove hedge"
        if route.hedge and config.retry.hedge_ratio == 0:
            yield f"routes.{name}.hedge never happens, because retry.hedge_ratio is 0; raise it"


def _panel_warnings(config: OrchestratorConfig) -> Iterator[str]:
    """A panel that must fail, however many of its members are left out."""
    calls = config.budgets.per_run.calls
    for name, panel in config.panels.items():
        quorum = panel.quorum or len(panel.members) // 2 + 1
        if calls is not None and calls < quorum:
            yield (
                f"panels.{name} wants {quorum} answers, but budgets.per_run.calls is {calls};"
                " raise it, or lower the panel's quorum"
            )


def _guard_warnings(config: OrchestratorConfig) -> Iterator[str]:
    """Guards that give up on a call before the call gives up."""
    if config.timeouts.total_s > config.breaker.probe_s:
        yield (
            "breaker.probe_s is shorter than timeouts.total_s: a slow probe that succeeds is not"
            " heard, and the deployment stays left alone; raise probe_s"
        )
    ledger = config.ledger or LedgerConfig()
    if config.timeouts.total_s > ledger.hold_s:
        yield (
            "ledger.hold_s is shorter than timeouts.total_s: a slow call is taken for lost and"
            " counted in full while it still runs; raise hold_s"
        )
    limits = config.limits
    for where, url in (("ledger.url", ledger.url), ("limits.url", limits and limits.url)):
        user = _USER_PART.fullmatch(url.get_secret_value() if url else "")
        password = user[2].partition(":")[2] if user else ""
        if password and not ENV_REFERENCE.search(password):
            yield f"{where} has a password in it; write ${{NAME}} and set the variable"


# What it amounts to.


def config_hash(config: OrchestratorConfig, patterns: str = "") -> str:
    """Sixteen hex digits that name this configuration in receipts and journals.

    The same in every process and on every machine. `${NAME}` counts as it is written; literal
    keys, what an address holds besides scheme, host, port and path, and where things are kept
    (`patterns_dir`, `cache.folder`, all of `ledger` and `limits`) are left out.

    Args:
        config: The configuration.
        patterns: The digest of the patterns beside the built-in ones; empty: there are none.
    """
    content = config.model_dump(
        mode="json",
        exclude={
            **dict.fromkeys(("patterns_dir", "ledger", "limits", "server"), True),
            "cache": {"folder"},
        },
    )
    for name, model in config.models.items():
        key = model.api_key.get_secret_value() if model.api_key else ""
        content["models"][name]["api_key"] = ENV_REFERENCE.findall(key)
        content["models"][name]["api_base"] = public_address(model.api_base)
    if patterns:
        content["patterns"] = patterns
    content["first"] = list(config.panels)  # the first panel is the default: their order counts
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def public_address(base: str | None) -> str | None:
    """An address without what may be secret in it: a user, a password, what is behind a `?`."""
    if base is None:
        return None
    parts = _split_address(base)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _split_address(base: str) -> SplitResult:
    try:
        return urlsplit(base)
    except ValueError:  # only in a configuration made without a file: a file's is checked
        return SplitResult("", "", "", "", "")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors. Names are checked by `load_config`."""
    schema = OrchestratorConfig.model_json_schema()
    definitions = schema["$defs"]
    for section in ("models", "routes", "panels"):
        _close_names(schema["properties"][section])
    for title in ("PriceConfig", "CapsConfig", "WindowConfig"):  # text is no amount of money
        for key, amount in definitions[title]["properties"].items():
            if key.endswith("_usd"):
                amount["anyOf"] = [form for form in amount["anyOf"] if form["type"] != "string"]
    for title, descriptions in _DESCRIPTIONS.items():
        for key, description in descriptions.items():
            definitions.get(title, schema)["properties"][key]["description"] = description
    model = definitions["ModelConfig"]
    model["if"] = {"properties": {"provider": {"const": "custom"}}, "required": ["provider"]}
    model["then"] = {
        "required": ["api_base"],
        "properties": {"api_base": {"type": "string", "minLength": 1}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "orchestrator configuration",
    }


def _close_names(section: dict[str, Any]) -> None:
    """Refuse a bad name: pydantic's own schema lets what fits no pattern pass unchecked."""
    ((pattern, value),) = section.pop("patternProperties").items()
    section["propertyNames"] = {"pattern": pattern, "maxLength": 64}
    section["additionalProperties"] = value


# What an editor shows for a key, by the model it belongs to.
_CAPS: Mapping[str, str] = {
    "money_usd": "US dollars.",
    "tokens": "Tokens of all prompts and answers together.",
    "calls": "Calls of models, those that fail included.",
    "time_s": "Seconds that calls take, all added up; timeouts.run_s limits the time by the clock.",
}
_DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "ModelConfig": {
        "provider": "The company that serves it; custom is any OpenAI-compatible endpoint.",
        "model": "The provider's own id of the model.",
        "api_key": "${NAME}, read from the environment at each call; default: the provider's own.",
        "api_base": "The endpoint's address, if it is not the provider's own; may hold ${NAME}.",
        "weight": "How much its voice counts; the heaviest member is the default synthesizer.",
        "price": "free, or US dollars for a million tokens; default: the list price.",
        "context_tokens": "How many tokens fit into the model's window.",
        "max_tokens": "How long an answer may be where the request does not say.",
        "media_urls": "Whether addresses of images and files are passed on, or refused.",
        "done_without_finish": "What a stream is that ends with [DONE] but no finish reason.",
        "rates": "How fast it may be called; calls wait for their turn as long as they can.",
        "prefill": "Whether it goes on with an answer that it is given begun.",
    },
    "PriceConfig": {
        "input_usd": "US dollars for a million tokens of prompt.",
        "output_usd": "US dollars for a million tokens of answer.",
        "cached_input_usd": "US dollars for a million tokens read from the provider's cache.",
        "cache_write_usd": "US dollars for a million tokens written to the provider's cache.",
        "reasoning_usd": "US dollars for a million tokens of thought; default: those of answer.",
    },
    "RatesConfig": {
        "requests_per_minute": "How many calls may begin in a minute.",
        "tokens_per_minute": "How many tokens calls may use in a minute.",
        "concurrency": "How many calls may be under way at once.",
    },
    "RouteConfig": {
        "models": "The models to try, in this order unless a strategy says otherwise.",
        "fallback": "The models to try when all of these have failed.",
        "strategy": "How the models are ordered: as written, by weight, price, speed or load.",
        "hedge": "Whether a slow start makes a second model be asked as well; the first wins.",
    },
    "PanelConfig": {
        "members": "The models that are asked together.",
        "pattern": "The stages a question goes through; `orchestrator patterns` lists them.",
        "synthesizer": "The model that writes the final answer; default: the heaviest member.",
        "fallback_synthesizers": "Who writes it when the synthesizer fails, in this order.",
        "quorum": "How many usable answers are wanted; default: more than half of the members.",
        "grace_s": "How long stragglers may still take once the quorum has answered, in seconds.",
    },
    "TimeoutsConfig": {
        "connect_s": "To reach the provider, in seconds.",
        "first_content_s": "From the request to the first text, in seconds.",
        "gap_s": "Between two pieces of text, in seconds.",
        "total_s": "For a whole call, in seconds.",
        "run_s": "For a whole run, all stages and fallbacks included, in seconds.",
    },
    "CapsConfig": _CAPS,
    "WindowConfig": {
        **_CAPS,
        "scope": "Whose spending is counted together: of a caller's key, of a model, or all.",
        "every": "When it begins anew, by the clock in UTC.",
        "name": "The one key or model that is meant; default: each has such a limit of its own.",
    },
    "BudgetsConfig": {
        "per_run": "What one run may use up; whatever is not given is not limited.",
        "windows": "What all runs together may use up in a minute, an hour, a day or a month.",
        "shrink": "What gives way when a run does not fit, in this order; [] refuses it at once.",
        "max_tokens": "How long an answer may be where money or tokens are limited and none says.",
        "min_tokens": "How short answers may become when a run is made to fit.",
        "margin": "By how much a counted prompt may turn out longer, as a factor.",
    },
    "RetryConfig": {
        "attempts": "How often one model is tried, the first time included.",
        "budget_ratio": "Retries for each call, on average: 0.1 is one for ten calls.",
        "fallback_ratio": "Fallbacks for each call, on average.",
        "burst": "How many retries may come at once after a quiet time.",
        "base_s": "The longest wait before the first retry, in seconds; it doubles each time.",
        "cap_s": "The longest wait before any retry, in seconds.",
        "hedge_ratio": "Second attempts of hedged routes for each call, on average.",
        "hedge_min_s": "How long a hedged route waits at least for the first model, in seconds.",
    },
    "BreakerConfig": {
        "failures": "How many failures in a row open it.",
        "open_s": "How long the model is then left alone, in seconds.",
        "ratio": "Which part of the calls in the window must fail to open it as well.",
        "calls": "How many calls the window must hold before the ratio counts.",
        "window_s": "How far back the ratio looks, in seconds.",
        "probe_s": "How long the one call may take that tries whether it is well again.",
    },
    "CacheConfig": {
        "ttl_s": "How long an answer is kept, in seconds.",
        "size_mb": "How much room answers may take, in megabytes.",
        "folder": "Where they are kept, relative to this file; default: the state folder.",
    },
    "LedgerConfig": {
        "url": "sqlite:///file or postgresql://user:${NAME}@host/name; default: the state folder.",
        "hold_s": "After how long a call that never reported back is counted in full, in seconds.",
        "keep_days": "How long receipts and records of usage are kept.",
    },
    "LimitsConfig": {
        "url": "redis://:${NAME}@host:6379/0; rediss:// for TLS, unix:///socket on this machine.",
        "timeout_s": "How long it may take; then each process counts its share, in seconds.",
    },
    "ServerConfig": {
        "hosts": "Names the gateway may be asked under, beside those it listens on.",
        "body_mb": "How large a request may be, in megabytes.",
        "header_kb": "How large its headers may be, in kilobytes.",
        "max_tokens": "The longest answer that a request may ask for, in tokens.",
        "requests": "How many requests are answered at a time; one more is told to come again.",
        "read_s": "How long a request may take to come, in seconds.",
        "heartbeat_s": "How often a stream with nothing to say shows that it is alive, in seconds.",
        "drain_s": "How long requests may go on once the gateway is to end, in seconds.",
    },
    "OrchestratorConfig": {
        "models": "The models that can be asked, each under a name of your choice.",
        "routes": "Names that stand for several models, tried one after another.",
        "panels": "Names that stand for several models, asked together.",
        "budgets": "What runs may cost.",
        "timeouts": "How long things may take.",
        "retry": "How often a call is tried again.",
        "breaker": "When a failing model is left alone, and how it comes back.",
        "cache": "Equal calls are answered from disk; without this section none is.",
        "ledger": "Where spending is kept.",
        "limits": "Where rates are counted for several processes; default: each for itself.",
        "server": "How `orchestrator serve` takes requests.",
        "patterns_dir": "A folder of your own patterns, relative to this file.",
    },
}
