"""Importing: other systems' files become configurations of ours, and nothing is lost unsaid."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import OrchestratorConfig, load_config, parse_config, warnings
from orchestrator.errors import ConfigError
from orchestrator.importing import Imported, import_config
from orchestrator.yaml_source import read_yaml

PROXY = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://europe.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: "2024-02-01"
      rpm: 6
      temperature: 0.2
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-ca
      api_base: os.environ/AZURE_API_BASE_CA
      api_key: planted-secret-one
      tpm: 60000
      weight: 2
    model_info:
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
  - model_name: anthropic/claude
    litellm_params:
      model: anthropic/claude-haiku-4-5
      max_budget: 10
      budget_duration: 1d
  - model_name: local
    litellm_params: {model: ollama/llama3, api_base: "http://localhost:11434"}
  - model_name: served
    litellm_params:
      model: openai/qwen3
      api_base: "http://user:planted-secret-two@10.0.0.1:8000/v1"
  - model_name: embedder
    litellm_params: {model: text-embedding-3-small}
    model_info: {mode: embedding}
router_settings:
  routing_strategy: latency-based-routing
  num_retries: 2
  timeout: 600
  allowed_fails: 3
  cooldown_time: 45
  redis_password: planted-secret-three
  model_group_alias: {gpt-4: gpt-4o}
  fallbacks: [{gpt-4o: [anthropic/claude]}, {local: [served]}]
litellm_settings:
  context_window_fallbacks: [{gpt-4o: [local]}]
  cache: true
  cache_params: {type: redis, ttl: 600}
  max_budget: 100
  budget_duration: 30d
general_settings:
  master_key: sk-planted-secret-four
"""
OLDER = {
    "models": {
        "claude": {
            "provider": "claude",
            "api_key": "planted-secret-five",
            "parameters": {"model": "claude-haiku-4-5", "temperature": 0.7, "max_tokens": 900},
        },
        "gpt-5-mini": {"provider": "chatgpt", "api_key": "${MY_KEY}", "parameters": {}},
        "gemini": {"provider": "gemini"},
    },
    "default_ultra_model": "claude",
    "default_models": ["gpt-5-mini", "gemini"],
    "caching": {"enabled": True, "ttl": 120},
}


def imported(text: str) -> tuple[Imported, OrchestratorConfig]:
    made = import_config(text, "old.yaml")
    return made, parse_config(made.text)


def one_model(model: str, **params: Any) -> str:
    entry = {"model_name": "it", "litellm_params": {"model": model, **params}}
    return json.dumps({"model_list": [entry]})


def lines(made: Imported) -> set[int]:
    return {note.line for note in made.notes}


def test_entries_of_one_name_become_a_route_over_deployments() -> None:
    """Callers go on to use the name that they know."""
    _, config = imported(PROXY)

    route = config.routes["gpt-4o"]
    assert route.models == ("gpt-4o-1", "gpt-4o-2")
    assert route.strategy == "fastest"
    assert route.fallback == ("anthropic-claude", "local-1")
    assert config.routes["gpt-4"] == route
    assert config.routes["local"].fallback == ("served",)


def test_each_deployment_keeps_what_the_proxy_knew_of_it() -> None:
    _, config = imported(PROXY)

    europe, canada = config.models["gpt-4o-1"], config.models["gpt-4o-2"]
    assert (europe.provider, europe.model) == ("custom", "gpt-4o-eu")
    assert europe.api_base == "https://europe.openai.azure.com/openai/v1"
    assert europe.rates.requests_per_minute == 6
    assert canada.api_base == "${AZURE_API_BASE_CA}/openai/v1"
    assert canada.rates.tokens_per_minute == 60000
    assert canada.weight == 2
    assert canada.price is not None
    assert canada.price.model_dump(exclude_none=True) == {"input_usd": 2.5, "output_usd": 10}
    assert config.models["local-1"].price == "free"


def test_settings_of_the_router_become_ours() -> None:
    _, config = imported(PROXY)

    assert config.retry.attempts == 3
    assert (config.timeouts.total_s, config.timeouts.run_s) == (600, 600)
    breaker = config.breaker
    assert (breaker.failures, breaker.open_s, breaker.probe_s) == (4, 45, 600)
    assert not [warning for warning in warnings(config) if "shorter" in warning]
    assert config.cache is not None
    assert config.cache.ttl_s == 600
    assert [(one.scope, one.every, one.name) for one in config.budgets.windows] == [
        ("deployment", "day", "anthropic-claude"),
        ("global", "month", None),
    ]


def test_no_secret_is_copied_and_the_variables_are_named() -> None:
    """A key in the file becomes a variable that whoever imports it is told to set."""
    made, config = imported(PROXY)

    assert "planted-secret" not in made.text + str(made.notes) + str(made.variables)
    assert made.variables == {
        "AZURE_API_KEY_EU": ("gpt-4o-1",),
        "GPT_4O_API_KEY": ("gpt-4o-2",),
        "AZURE_API_BASE_CA": ("gpt-4o-2",),
        "SERVED_API_BASE": ("served",),
    }
    key = config.models["gpt-4o-2"].api_key
    assert key is not None
    assert key.get_secret_value() == "${GPT_4O_API_KEY}"


def test_what_has_no_equivalent_is_told_beside_what_it_belonged_to() -> None:
    made, _ = imported(PROXY)

    rows = made.text.splitlines()
    above = rows[: rows.index("  gpt-4o-1:")]
    assert any("line 7: model_list[0].litellm_params.api_version" in row for row in above)
    assert any("line 9: model_list[0].litellm_params.temperature" in row for row in above)
    assert any("general_settings.master_key is left out" in row for row in rows)
    assert any("model_list[5] is left out: it is no chat model" in row for row in rows)


def test_an_older_file_becomes_models_and_the_panel_asked_by_default() -> None:
    made, config = imported(json.dumps(OLDER))

    assert {name: (one.provider, one.model) for name, one in config.models.items()} == {
        "claude": ("anthropic", "claude-haiku-4-5"),
        "gpt-5-mini": ("openai", "gpt-5-mini"),
        "gemini": ("google", "gemini-2.5-flash"),
    }
    assert config.models["claude"].max_tokens == 900
    assert config.panels["council"].members == ("gpt-5-mini", "gemini")
    assert config.panels["council"].synthesizer == "claude"
    assert config.cache is not None
    assert config.cache.ttl_s == 120
    assert "planted-secret" not in made.text
    assert set(made.variables) == {"CLAUDE_API_KEY", "MY_KEY"}
    assert any("temperature" in note.message for note in made.notes)
    assert any("no model is named; 'gemini-2.5-flash'" in note.message for note in made.notes)


def test_an_older_file_of_models_alone_is_known_by_its_providers() -> None:
    """In YAML as in JSON, whatever the providers were called."""
    _, config = imported("writer: {provider: Claude, parameters: {model: claude-haiku-4-5}}")

    assert config.models["writer"].provider == "anthropic"
    assert not config.panels


@pytest.mark.parametrize(
    ("model", "params", "provider", "id_", "base"),
    [
        ("openai/gpt-5", {}, "openai", "gpt-5", None),
        ("gpt-5", {}, "openai", "gpt-5", None),
        ("openai/m", {"api_base": "http://h/v1"}, "custom", "m", "http://h/v1"),
        ("m", {"api_base": "http://h/v1"}, "custom", "m", "http://h/v1"),
        ("m", {"custom_llm_provider": "anthropic"}, "anthropic", "m", None),
        ("anthropic/claude-x", {}, "anthropic", "claude-x", None),
        ("gemini/gemini-2.5-pro", {}, "google", "gemini-2.5-pro", None),
        ("vertex_ai/gemini-2.5-pro", {}, "google", "gemini-2.5-pro", None),
        ("cohere/command-a", {}, "cohere", "command-a", None),
        ("mistral/mistral-small", {}, "mistral", "mistral-small", None),
        ("ollama/llama3", {}, "custom", "llama3", "http://127.0.0.1:11434/v1"),
        ("groq/llama3", {}, "custom", "llama3", "https://api.groq.com/openai/v1"),
        ("openrouter/a/b", {}, "custom", "a/b", "https://openrouter.ai/api/v1"),
        ("azure/m", {}, "custom", "m", "${AZURE_API_BASE}/openai/v1"),
    ],
)
def test_prefixes_of_providers_lead_to_ours(
    model: str, params: dict[str, str], provider: str, id_: str, base: str | None
) -> None:
    _, config = imported(one_model(model, **params))

    found = config.models["it"]
    assert (found.provider, found.model, found.api_base) == (provider, id_, base)


@pytest.mark.parametrize(
    ("model", "params", "why"),
    [
        ("bedrock/claude", {}, "the provider 'bedrock' is not among ours"),
        ("vertex_ai/claude-x", {}, "the provider 'vertex_ai' is not among ours"),
        ("azure_ai/claude-x", {}, "the provider 'azure_ai' is not among ours"),
        ("text-embedding-3-small", {}, "it is no chat model, by its name"),
        ("mistral/mistral-embed", {}, "it is no chat model, by its name 'mistral-embed'"),
        ("cohere/rerank-english-v3.0", {}, "it is no chat model, by its name"),
        ("openai/dall-e-3", {}, "it is no chat model, by its name 'dall-e-3'"),
        ("openai/*", {}, "one model is wanted"),
        ("something", {}, "whose model it is cannot be told from 'something'"),
        ("hosted_vllm/m", {}, "its address is missing: api_base"),
        ("openai/m", {"api_base": "ftp://x"}, "its address is none"),
        ("os.environ/MODEL", {}, "the id of a model is not read from the environment"),
    ],
)
def test_a_file_with_no_model_that_can_be_called_says_why(
    model: str, params: dict[str, str], why: str
) -> None:
    """An empty configuration would load nowhere."""
    with pytest.raises(ConfigError) as refused:
        import_config(one_model(model, **params), "old.yaml")

    assert "No model of this file can be called" in refused.value.problems[0]
    assert any(why in problem for problem in refused.value.problems)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("services: {web: {image: nginx}}", "The file has the keys 'services'; wanted is"),
        ("[1, 2]", "The file is a list; wanted is"),
        ("hello", "The file is a single value; wanted is"),
        ("models: {gpt: {provider: openai, model: gpt-5}}", "own form already"),
        ("router_settings: {timeout: 3}", "The file has the keys 'router_settings'"),
        ("model_list: &a [{model_name: x}]", "Anchors (&name) are not supported"),
    ],
)
def test_a_file_of_neither_kind_is_one_clear_error(text: str, found: str) -> None:
    with pytest.raises(ConfigError) as refused:
        import_config(text, "old.yaml")

    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].startswith("old.yaml:1:")
    assert found in refused.value.problems[0]


@pytest.mark.parametrize(
    ("duration", "every"),
    [("60s", "minute"), ("1h", "hour"), ("24h", "day"), ("2h", "day"), ("7d", "month")],
)
def test_a_budget_falls_into_the_next_window_that_spends_no_more(duration: str, every: str) -> None:
    text = f"{one_model('gpt-5')[:-1]}, litellm_settings: "
    text += f"{{max_budget: 2.5, budget_duration: {duration}}}}}"

    _, config = imported(text)

    assert [(str(one.money_usd), one.every) for one in config.budgets.windows] == [("2.5", every)]


def test_equal_keys_share_a_variable_and_names_already_used_are_not_taken() -> None:
    """Whoever sets the variables need not set one twice, and none that means something else."""
    params = {"model": "gpt-5", "api_key": "planted-secret"}
    other = {"model": "gpt-5", "api_key": "os.environ/A_API_KEY"}
    names = {"a": params, "b": params, "c": other}
    entries = [{"model_name": name, "litellm_params": one} for name, one in names.items()]

    made, _ = imported(json.dumps({"model_list": entries}))

    assert made.variables == {"A_API_KEY_2": ("a", "b"), "A_API_KEY": ("c",)}


def test_what_an_older_file_asks_for_in_vain_is_told_piece_by_piece() -> None:
    """Models that cannot be called, parameters of requests, a panel of one."""
    text = """\
models:
  a: {provider: openai, model: gpt-5, parameters: {temperature: 1}}
  b: {provider: mock}
default_ultra_model: b
default_models: [a, b]
"""

    made, config = imported(text)

    assert list(config.models) == ["a"]
    assert not config.panels
    assert [(note.line, note.message.partition(":")[0]) for note in made.notes] == [
        (2, "models.a.parameters.temperature is left out"),
        (3, "models.b is left out"),
        (4, "default_ultra_model is left out"),
        (5, "one model alone makes no panel; ask for it by its name"),
        (5, "default_models[1] is left out"),
    ]


@pytest.mark.parametrize(
    ("costs", "price"),
    [
        ({"input_cost_per_token": 0, "output_cost_per_token": 0}, "free"),
        ({"input_cost_per_token": "3e-6"}, None),
        ({"output_cost_per_token": 0}, None),
    ],
)
def test_half_a_price_is_none(costs: dict[str, Any], price: str | None) -> None:
    """What a call may cost must not be taken for less than it is."""
    made, config = imported(one_model("gpt-5", **costs))

    assert config.models["it"].price == price
    assert (price is None) == any("only half" in note.message for note in made.notes)


def test_limits_beside_the_parameters_count_as_well() -> None:
    """Where litellm's first versions had them."""
    content = json.loads(one_model("gpt-5"))
    content["model_list"][0] |= {"rpm": 3, "tpm": 2000}

    made, config = imported(json.dumps(content))

    rates = config.models["it"].rates
    assert (rates.requests_per_minute, rates.tokens_per_minute) == (3, 2000)
    assert not made.notes


def test_fallbacks_for_everybody_come_after_ones_own() -> None:
    """Nobody falls back on itself, and a name that nothing has is told of."""
    entries = [
        {"model_name": name, "litellm_params": {"model": "gpt-5", "order": order}}
        for name, order in (("a", 2), ("a", 1), ("b", 1), ("c", 1))
    ]
    fallbacks = [{"a": ["b", "nobody"]}, {"*": ["c"]}, {"nobody": ["a"]}]
    router = {"fallbacks": fallbacks, "default_fallbacks": ["b"]}

    made, config = imported(json.dumps({"model_list": entries, "router_settings": router}))

    assert {name: (one.models, one.fallback) for name, one in config.routes.items()} == {
        "a": (("a-1", "a-2"), ("b-1", "c-1")),
        "b": (("b-1",), ("c-1",)),
        "c": (("c-1",), ("b-1",)),
    }
    assert config.routes["a"].strategy == "priority"
    told = [note.message for note in made.notes]
    assert any("fallbacks[0].a[1] is left out" in message for message in told)
    assert any("fallbacks[2].nobody is left out" in message for message in told)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"router_settings": {"timeout": "soon"}}, "router_settings.timeout is left out: it is"),
        ({"litellm_settings": {"cache": "yes"}}, "a value that is of no use here"),
        ({"general_settings": {"database_url": "x"}}, "where spending is kept is ledger.url"),
        ({"environment_variables": {"A": "b"}}, "set these in the environment"),
        ({"router_settings": {"tea": "hot"}}, "router_settings.tea is left out: there is no"),
    ],
)
def test_each_part_that_is_left_out_says_why(part: dict[str, Any], why: str) -> None:
    made, _ = imported(json.dumps({**json.loads(one_model("gpt-5")), **part}))

    assert any(why in note.message for note in made.notes)


# Whatever the names and wherever something unknown stands.

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co"]), min_size=1)
SCALARS = NAMES | st.integers() | st.booleans() | st.floats(allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6), st.data())
def test_any_names_become_a_configuration_that_loads(
    entries: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Names, ids and keys that YAML, or our files, would take for something else included."""
    names = st.sampled_from([name for name, _ in entries])
    rows = [
        {"model_name": name, "litellm_params": {"model": f"gpt-{model}".strip(), "api_key": model}}
        for name, model in entries
    ]
    fallbacks = data.draw(st.dictionaries(names, st.lists(names)))
    router = {"fallbacks": [fallbacks], "model_group_alias": {"true": entries[0][0]}}
    text = json.dumps({"model_list": rows, "router_settings": router}, ensure_ascii=False)

    try:
        made, config = imported(text)
    except ConfigError as refused:
        assert "No model of this file" in refused.problems[0]  # noqa: PT017
    else:
        assert len(config.models) + sum("is left out" in str(one) for one in made.notes) >= len(
            entries
        )


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        NAMES, st.fixed_dictionaries({"provider": st.just("openai")}), min_size=1, max_size=5
    )
)
def test_any_names_of_an_older_file_become_a_configuration_that_loads(
    entries: dict[str, dict[str, str]],
) -> None:
    made = import_config(json.dumps(entries, ensure_ascii=False))

    assert len(parse_config(made.text).models) == len(entries)


def places(value: Any, loc: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every mapping in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict):
        yield loc
    for key, below in inner:
        if isinstance(below, dict | list):
            yield from places(below, (*loc, key))


@pytest.mark.parametrize(
    "loc",
    [loc for loc in places(read_yaml(PROXY).plain()) if not {"fallbacks"} & set(loc)],
    ids=str,
)
def test_an_unknown_key_anywhere_is_told_with_its_line(loc: tuple[Any, ...]) -> None:
    """Nothing is dropped in silence, wherever it stands."""
    content: Any = read_yaml(PROXY).plain()
    inside = content
    for step in loc:
        inside = inside[step]
    inside["never_heard_of"] = "something"
    text = json.dumps(content, indent=1)
    at = next(n for n, line in enumerate(text.splitlines(), 1) if "never_heard_of" in line)

    made = import_config(text)

    # What is left out as a whole is told of where it begins.
    whole = [note.line for note in made.notes if "model_list[5] is left out" in note.message]
    is_inside = loc[:2] == ("model_list", 5)
    assert (whole[0] < at) if is_inside else (at in lines(made))


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        SCALARS, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=20
    )
)
def test_whatever_the_values_of_settings_the_result_loads_or_the_refusal_is_clear(
    value: Any,
) -> None:
    """Numbers out of range, lists for numbers, texts for lists: told, never an exception."""
    keys = ("timeout", "num_retries", "allowed_fails", "fallbacks", "model_group_alias", "order")
    content = json.loads(one_model("gpt-5", rpm=value, max_tokens=value, weight=value))
    content["router_settings"] = dict.fromkeys(keys, value)
    content["litellm_settings"] = {"max_budget": value, "cache": True, "cache_params": value}
    text = json.dumps(content, ensure_ascii=False)

    made, config = imported(text)

    assert list(config.models) == ["it"] or "it" in config.routes
    assert made.kind == "litellm"


def test_an_imported_file_is_loaded_like_any_other(tmp_path: Path) -> None:
    """From the disk, and told of with its own lines."""
    path = tmp_path / "orchestrator.yaml"
    path.write_text(import_config(PROXY).text, encoding="utf-8")

    assert list(load_config(path).routes) == ["gpt-4o", "local", "gpt-4"]
