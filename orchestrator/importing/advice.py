"""Say why a key of another system's file has no equivalent here, and what to do instead."""

from collections.abc import Mapping

from orchestrator.yaml_source import Loc

_PER_REQUEST = "requests say it themselves"
_CALLBACKS = "there are no callbacks; receipts, usage and /metrics tell what happened"
_SERVICES = "no such service is used"
_KEYS = "callers' keys are made by the gateway's own command"

_ADVICE: Mapping[str, str] = {
    "access_groups": "which models a caller may ask for is said with the caller's key",
    "alerting": _CALLBACKS,
    "allowed_fails_policy": "breaker counts all failures of the provider alike",
    "api_version": "the address with /openai/v1 wants none",
    "background_health_checks": "breakers watch the calls themselves",
    "base_model": "price says what it costs, where the list of prices does not know it",
    "callbacks": _CALLBACKS,
    "completion_model": "callers name their model, or get the first panel or route",
    "content_policy_fallbacks": "what a provider's filter refuses is given back, not routed around",
    "database_url": "where spending is kept is ledger.url; write it with a ${NAME} if it is wanted",
    "drop_params": "a parameter that a provider does not take is reported, and never dropped",
    "enable_pre_call_checks": "windows of models are looked at always; see context_tokens",
    "environment_variables": "set these in the environment of the process",
    "failure_callback": _CALLBACKS,
    "frequency_penalty": _PER_REQUEST,
    "guardrails": _SERVICES,
    "id": "its name here is what it is called in receipts and records",
    "include": "one file is the whole; import the files it names one by one",
    "mcp_servers": _SERVICES,
    "master_key": f"no key is copied, and {_KEYS}",
    "modify_params": "requests are passed on as they are",
    "n": _PER_REQUEST,
    "presence_penalty": _PER_REQUEST,
    "reasoning_effort": _PER_REQUEST,
    "response_format": _PER_REQUEST,
    "retry_policy": "retry says how often, and the kind of the error says whether",
    "salt_key": f"no key is copied, and {_KEYS}",
    "seed": _PER_REQUEST,
    "service_callback": _CALLBACKS,
    "set_verbose": "`--debug` and receipts tell what happened",
    "stop": _PER_REQUEST,
    "stream": _PER_REQUEST,
    "success_callback": _CALLBACKS,
    "supported_environments": "a file is for one environment",
    "tags": "tags are given with requests, for the records of usage",
    "temperature": _PER_REQUEST,
    "top_k": _PER_REQUEST,
    "top_p": _PER_REQUEST,
    "user": _PER_REQUEST,
}
# What one model's entry may say there, and a file of ours only for all of them.
_FOR_ALL: Mapping[str, str] = {
    "max_retries": "retry.attempts",
    "num_retries": "retry.attempts",
    "stream_timeout": "timeouts.first_content_s and timeouts.gap_s",
    "timeout": "timeouts.total_s",
}
# What is taken over, unless its value is of no use.
_TAKEN = frozenset(
    (
        "allowed_fails",
        "api_base",
        "api_key",
        "budget_duration",
        "cache",
        "caching",
        "context_window_fallbacks",
        "cooldown_time",
        "default_fallbacks",
        "default_models",
        "default_ultra_model",
        "fallbacks",
        "input_cost_per_token",
        "max_budget",
        "max_parallel_requests",
        "max_tokens",
        "model",
        "model_group_alias",
        "model_name",
        "order",
        "output_cost_per_token",
        "provider",
        "request_timeout",
        "routing_strategy",
        "rpm",
        "tpm",
        "ttl",
        "weight",
    )
)
_OF_NO_USE = "it is said elsewhere already, or has a value that is of no use here"
NOTHING = "there is no equivalent"


def advice_on(loc: Loc) -> str:
    """Why what stands at a path is not taken over.

    >>> advice_on(("model_list", 0, "litellm_params", "temperature"))
    'requests say it themselves'
    """
    if loc[0] == "environment_variables":
        return _ADVICE["environment_variables"]
    key = next((step for step in reversed(loc) if isinstance(step, str)), "")
    if key in _FOR_ALL:
        is_one = loc[0] == "model_list"
        return f"it is one value for all models: {_FOR_ALL[key]}" if is_one else _OF_NO_USE
    return _ADVICE.get(key, _OF_NO_USE if key in _TAKEN else NOTHING)
