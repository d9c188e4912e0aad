"""Claims about the configuration: what is accepted, what is said of what is not, and to whom."""

import copy
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.config import LLMProvider, ModelConfig, PriceConfig, RatesConfig
from orchestrator.amounts import Caps
from orchestrator.config import (
    VOCABULARY,
    OrchestratorConfig,
    PanelConfig,
    RequestConfig,
    RouteConfig,
    TimeoutsConfig,
    cache_folder,
    config_hash,
    find_config,
    json_schema,
    ledger_url,
    limits_url,
    load_config,
    packaged_configs,
    parse_config,
    runs_folder,
    state_dir,
    warnings,
    with_state,
)
from orchestrator.errors import ConfigError
from orchestrator.yaml_check import validate
from orchestrator.yaml_source import read_yaml

PATTERNS = ("compare", "fusion")

BASE = """\
models:
  gpt: {provider: openai, model: gpt-5-mini}
  claude: {provider: anthropic, model: claude-haiku-4-5}
"""
ONE = """\
models:
  gpt:
    provider: openai
    model: gpt-5-mini
"""

# A name of the fault, the text, and every line that is to be said of it, without the file's name.
BROKEN: dict[str, tuple[str, ...]] = {
    "an empty file": (
        "",
        "1:1: The file is empty; write at least one key and its value",
    ),
    "an anchor on a list": (
        "&all\n- models\n",
        "1:1: Anchors (&name) are not supported; remove this one and write its value out",
        "1:1: The file must be a mapping that has the key 'models'",
    ),
    "nothing but comments": (
        "# nothing yet\n",
        "1:1: The file is empty; write at least one key and its value",
    ),
    "a list": (
        "- models\n",
        "1:1: The file must be a mapping that has the key 'models'",
    ),
    "a word": (
        "models\n",
        "1:1: The file must be a mapping that has the key 'models'",
    ),
    "a marker and nothing else": (
        "---\n",
        "1:1: The file must be a mapping that has the key 'models'",
    ),
    "no models": (
        "panels: {}\n",
        (
            "1:1: The file has no 'models'; add it, for example models: {gpt: {provider: "
            "openai, model: gpt-5-mini}}"
        ),
    ),
    "models commented out": (
        """\
models:
panels: {}
""",
        "1:1: models is empty; it must be a mapping",
    ),
    "an empty mapping of models": (
        "models: {}\n",
        "1:9: models is empty; it needs at least 1 entry",
    ),
    "a list of models": (
        """\
models:
  - provider: openai
""",
        "2:3: models must be a mapping, found a list",
    ),
    "a mistyped section": (
        """\
model:
  gpt: {provider: openai, model: gpt-5-mini}
""",
        "1:1: Unknown key 'model' at the top level, did you mean 'models'?",
    ),
    "a strange section": (
        BASE + "colour: blue\n",
        (
            "4:1: Unknown key 'colour' at the top level; known here: models, routes, panels, "
            "budgets, timeouts, retry, breaker, cache, ledger, limits, server, patterns_dir"
        ),
    ),
    "sections commented out": (
        BASE
        + """\
routes:
timeouts:
""",
        "4:1: routes is empty; it must be a mapping",
        "5:1: timeouts is empty; it must be a mapping",
    ),
    "a mistyped provider": (
        """\
models:
  gpt: {provider: opnai, model: gpt-5-mini}
""",
        "2:19: Unknown provider 'opnai', did you mean 'openai'?",
    ),
    "a strange provider": (
        """\
models:
  gpt: {provider: acme, model: gpt-5-mini}
""",
        (
            "2:19: Unknown provider 'acme'; use one of openai, anthropic, google, cohere, "
            "mistral, custom"
        ),
    ),
    "a number for a provider": (
        """\
models:
  gpt: {provider: 5, model: gpt-5-mini}
""",
        (
            "2:19: models.gpt.provider must be one of openai, anthropic, google, cohere, "
            "mistral, custom, found 5"
        ),
    ),
    "a mistyped key": (
        ONE + "    modle: x\n",
        "5:5: Unknown key 'modle' in models.gpt, did you mean 'model'?",
    ),
    "another tool's key": (
        ONE + "    base_url: http://h/v1\n",
        "5:5: Unknown key 'base_url' in models.gpt, did you mean 'api_base'?",
    ),
    "a strange key": (
        ONE + "    colour: blue\n",
        (
            "5:5: Unknown key 'colour' in models.gpt; known here: provider, model, api_key, "
            "api_base, weight, price, context_tokens, max_tokens, media_urls, "
            "done_without_finish, rates, prefill"
        ),
    ),
    "no model id": (
        """\
models:
  gpt:
    provider: openai
""",
        "2:3: models.gpt has no 'model'; add it, for example model: gpt-5-mini",
    ),
    "an empty model": (
        """\
models:
  gpt: {}
""",
        "2:3: models.gpt has no 'provider'; add it, for example provider: openai",
        "2:3: models.gpt has no 'model'; add it, for example model: gpt-5-mini",
    ),
    "a model with nothing below it": (
        """\
models:
  gpt:
""",
        "2:3: models.gpt is empty; it must be a mapping",
    ),
    "a model in one word": (
        """\
models:
  gpt: openai/gpt-5-mini
""",
        "2:8: models.gpt must be a mapping, found the text 'openai/gpt-5-mini'",
    ),
    "a version without quotes": (
        """\
models:
  gpt: {provider: openai, model: 1.10}
""",
        "2:34: models.gpt.model must be text, but YAML reads 1.10 as a number; put it in quotes",
    ),
    "a boolean for text": (
        """\
models:
  gpt: {provider: openai, model: true}
""",
        "2:34: models.gpt.model must be text, but YAML reads true as a boolean; put it in quotes",
    ),
    "model empty": (
        """\
models:
  gpt:
    provider: openai
    model:
""",
        "4:5: models.gpt.model is empty; it must be text",
    ),
    "an empty text": (
        """\
models:
  gpt: {provider: openai, model: ''}
""",
        "2:27: models.gpt.model is empty; it must be text",
    ),
    "a reference where none is read": (
        """\
models:
  gpt: {provider: openai, model: '${MODEL}'}
""",
        (
            "2:34: models.gpt.model is not read from the environment; only api_key, "
            "api_base, ledger.url and limits.url are, so write the value itself"
        ),
    ),
    "a line break in a model id": (
        'models:\n  gpt: {provider: openai, model: "gpt-5-mini\\n"}\n',
        "2:34: models.gpt.model has spaces or line breaks around its value; remove them",
    ),
    "a key of digits": (
        ONE + "    api_key: 12345678\n",
        (
            "5:14: models.gpt.api_key must be text, but YAML reads this value as a number; "
            "put it in quotes"
        ),
    ),
    "an empty key": (
        ONE + "    api_key: ''\n",
        (
            "5:14: models.gpt.api_key is empty; write ${NAME}, or remove the line to use the "
            "provider's own variable"
        ),
    ),
    "a reference without braces": (
        ONE + "    api_key: $OPENAI_API_KEY\n",
        "5:14: models.gpt.api_key: A variable is written ${NAME}, with braces",
    ),
    "a reference without a name": (
        ONE + "    api_key: ${}\n",
        "5:14: models.gpt.api_key: '${}' names no variable; write ${NAME}",
    ),
    "a reference with a dash": (
        ONE + "    api_key: ${OPENAI-KEY}\n",
        (
            "5:14: models.gpt.api_key: A variable's name has letters, digits and '_' only; "
            "write ${NAME}"
        ),
    ),
    "a reference with a default": (
        ONE + "    api_key: ${OPENAI_API_KEY:-none}\n",
        "5:14: models.gpt.api_key: Defaults are not supported; write ${NAME} and set the variable",
    ),
    "a reference without an end": (
        ONE + "    api_key: ${OPENAI_API_KEY\n",
        "5:14: models.gpt.api_key: The brace after '${' is not closed; write ${NAME}",
    ),
    "key newline": (
        ONE
        + """\
    api_key: |
      ${OPENAI_API_KEY}
""",
        (
            "5:14: models.gpt.api_key has a space, a line break or a letter that no key has; "
            "remove it"
        ),
    ),
    "a reference without quotes between brackets": (
        """\
models:
  gpt: {provider: openai, model: m, api_key: ${OPENAI_API_KEY}}
""",
        '2:46: Between brackets a reference must be in quotes; write "${NAME}"',
    ),
    "an address without http": (
        ONE + "    api_base: localhost:8080\n",
        "5:15: models.gpt.api_base must be an address such as http://127.0.0.1:8080/v1",
    ),
    "an address with an impossible port": (
        ONE + "    api_base: http://localhost:80800/v1\n",
        "5:15: models.gpt.api_base must be an address such as http://127.0.0.1:8080/v1",
    ),
    "an address with a reference without braces": (
        ONE + "    api_base: https://$HOST/v1\n",
        "5:15: models.gpt.api_base: A variable is written ${NAME}, with braces",
    ),
    "a custom endpoint without an address": (
        """\
models:
  local: {provider: custom, model: qwen3}
""",
        (
            "2:3: models.local: provider 'custom' needs api_base, for example "
            "http://127.0.0.1:8080/v1"
        ),
    ),
    "a weight of zero": (
        ONE + "    weight: 0\n",
        "5:13: models.gpt.weight must be greater than 0, found 0",
    ),
    "a negative weight": (
        ONE + "    weight: -1\n",
        "5:13: models.gpt.weight must be greater than 0, found -1",
    ),
    "a weight that is no number": (
        ONE + "    weight: .nan\n",
        "5:13: models.gpt.weight must be a finite number, found .nan",
    ),
    "an infinite weight": (
        ONE + "    weight: .inf\n",
        "5:13: models.gpt.weight must be a finite number, found .inf",
    ),
    "a weight in words": (
        ONE + "    weight: heavy\n",
        "5:13: models.gpt.weight must be a number, found the text 'heavy'",
    ),
    "a weight in quotes": (
        ONE + "    weight: '2'\n",
        "5:13: models.gpt.weight must be a number, found the text '2'; remove the quotes",
    ),
    "a weight of no": (
        ONE + "    weight: no\n",
        "5:13: models.gpt.weight must be a number, found the text 'no'",
    ),
    "weight list": (
        ONE + "    weight: [1]\n",
        "5:13: models.gpt.weight must be a number, found a list",
    ),
    "half a token": (
        ONE + "    max_tokens: 1.5\n",
        "5:17: models.gpt.max_tokens must be a whole number, found 1.5",
    ),
    "digits with an underscore": (
        ONE + "    max_tokens: 1_000\n",
        "5:17: models.gpt.max_tokens must be a whole number, found the text '1_000'",
    ),
    "a price of zero": (
        ONE + "    price: 0\n",
        "5:12: models.gpt.price must be 'free' or {input_usd: 0.25, output_usd: 2.00}, found 0",
    ),
    "a strange price": (
        ONE + "    price: gratis\n",
        (
            "5:12: models.gpt.price must be 'free' or {input_usd: 0.25, output_usd: 2.00}, "
            "found the text 'gratis'"
        ),
    ),
    "half a price": (
        ONE + "    price: {input_usd: 0.25}\n",
        "5:5: models.gpt.price has no 'output_usd'; add it, for example output_usd: 2.00",
    ),
    "impossible prices": (
        ONE + "    price: {input_usd: -0.25, output_usd: .nan}\n",
        "5:24: models.gpt.price.input_usd must be 0 or more, found -0.25",
        "5:43: models.gpt.price.output_usd must be a finite number, found .nan",
    ),
    "prices of zero": (
        ONE + "    price: {input_usd: 0, output_usd: 0.0}\n",
        "5:12: models.gpt.price is zero; write price: free if calls cost nothing",
    ),
    "prices as text": (
        ONE + "    price: {input_usd: '0.25', output_usd: $2}\n",
        "5:24: models.gpt.price.input_usd must be a number, found text; remove the quotes",
        "5:44: models.gpt.price.output_usd must be a number, found text",
    ),
    "a strange choice": (
        ONE + "    media_urls: no\n",
        "5:17: Unknown media_urls 'no'; use one of refuse, allow",
    ),
    "a name with a space": (
        """\
models:
  my gpt: {provider: openai, model: gpt-5-mini}
""",
        (
            "2:3: 'my gpt' cannot be a name in models; names are up to 64 letters, digits, "
            "'.', '_' and '-', and begin with a letter or digit"
        ),
    ),
    "a name too long": (
        f"models:\n  {'x' * 65}: {{provider: openai, model: gpt-5-mini}}\n",
        (
            "2:3: (not shown) cannot be a name in models; names are up to 64 letters, digits,"
            " '.', '_' and '-', and begin with a letter or digit"
        ),
    ),
    "a mistyped model in a route": (
        BASE
        + """\
routes:
  fast: {models: [gptt]}
""",
        "5:19: Unknown model 'gptt' in routes.fast.models, did you mean 'gpt'?",
    ),
    "a strange model in a route": (
        BASE
        + """\
routes:
  fast: {models: [llama]}
""",
        "5:19: Unknown model 'llama' in routes.fast.models; the models are gpt, claude",
    ),
    "a route to nowhere": (
        BASE
        + """\
routes:
  fast: {models: []}
""",
        "5:18: routes.fast.models is empty; it needs at least 1 entry",
    ),
    "a word for a list": (
        BASE
        + """\
routes:
  fast: {models: gpt}
""",
        "5:18: routes.fast.models must be a list, found the text 'gpt'; write [gpt]",
    ),
    "routes that fall back on each other": (
        BASE
        + """\
routes:
  fast: {models: [gpt], fallback: [slow]}
  slow: {models: [claude], fallback: [fast]}
""",
        "5:36: 'slow' in routes.fast.fallback is a route; only models can stand here",
        "6:39: 'fast' in routes.slow.fallback is a route; only models can stand here",
    ),
    "a fallback on itself": (
        BASE
        + """\
routes:
  fast: {models: [gpt], fallback: [gpt]}
""",
        "5:36: 'gpt' in routes.fast.fallback is already in routes.fast.models; remove it here",
    ),
    "a mistyped member": (
        BASE
        + """\
panels:
  both: {members: [gpt, cluade]}
""",
        "5:25: Unknown model 'cluade' in panels.both.members, did you mean 'claude'?",
    ),
    "a member twice": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude, gpt]}
""",
        "5:33: 'gpt' is twice in panels.both.members; name it once",
    ),
    "a route as a member": (
        BASE
        + """\
routes:
  fast: {models: [gpt]}
panels:
  both: {members: [fast, claude]}
""",
        "7:20: 'fast' in panels.both.members is a route; only models can stand here",
    ),
    "a panel as a member": (
        BASE
        + """\
panels:
  one: {members: [gpt]}
  both: {members: [one, claude]}
""",
        "6:20: 'one' in panels.both.members is a panel; only models can stand here",
    ),
    "a version for a member": (
        BASE
        + """\
panels:
  both: {members: [gpt, 4.1]}
""",
        (
            "5:25: panels.both.members[1] must be text, but YAML reads 4.1 as a number; put "
            "it in quotes"
        ),
    ),
    "no members": (
        BASE
        + """\
panels:
  both: {pattern: fusion}
""",
        "5:3: panels.both has no 'members'; add it, for example members: [gpt, claude]",
    ),
    "too many members": (
        BASE + f"panels:\n  both: {{members: [{', '.join(['gpt'] * 33)}]}}\n",
        "5:19: panels.both.members has 33 entries; at most 32 are allowed",
        "5:25: 'gpt' is twice in panels.both.members; name it once",
    ),
    "mistyped synthesizers": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], synthesizer: claud, fallback_synthesizers: [gtp]}
""",
        "5:47: Unknown model 'claud' in panels.both.synthesizer, did you mean 'claude'?",
        "5:78: Unknown model 'gtp' in panels.both.fallback_synthesizers, did you mean 'gpt'?",
    ),
    "the synthesizer as its own fallback": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], synthesizer: claude, fallback_synthesizers: [gpt, claude]}
""",
        (
            "5:84: 'claude' in panels.both.fallback_synthesizers is already in "
            "panels.both.synthesizer; remove it here"
        ),
    ),
    "a quorum above the members": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], quorum: 3}
""",
        "5:42: panels.both.quorum is 3, but the panel has 2 members; write 2 or less",
    ),
    "a quorum of none": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], quorum: 0}
""",
        "5:42: panels.both.quorum must be 1 or more, found 0",
    ),
    "a negative grace": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], grace_s: -1}
""",
        "5:43: panels.both.grace_s must be 0 or more, found -1",
    ),
    "a mistyped pattern": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], pattern: fussion}
""",
        "5:43: Unknown pattern 'fussion' in panels.both.pattern, did you mean 'fusion'?",
    ),
    "a strange pattern": (
        BASE
        + """\
panels:
  both: {members: [gpt, claude], pattern: xyz}
""",
        "5:43: Unknown pattern 'xyz' in panels.both.pattern; the patterns are compare, fusion",
    ),
    "one name for two things": (
        BASE
        + """\
routes:
  gpt: {models: [claude]}
panels:
  claude: {members: [gpt]}
""",
        "5:3: The name 'gpt' of this route is already that of a model; rename one of them",
        "7:3: The name 'claude' of this panel is already that of a model; rename one of them",
    ),
    "impossible timeouts": (
        BASE + "timeouts: {connect_s: -1, gap_s: 15s, total_s: .inf, run_s: 0, first_s: 3}\n",
        "4:23: timeouts.connect_s must be greater than 0, found -1",
        "4:34: timeouts.gap_s must be a number of seconds, found the text '15s'",
        "4:48: timeouts.total_s must be a finite number, found .inf",
        "4:61: timeouts.run_s must be greater than 0, found 0",
        "4:64: Unknown key 'first_s' in timeouts, did you mean 'first_content_s'?",
    ),
    "a limit that is none": (
        BASE
        + """\
budgets: {per_run: {money_usd: 0, tokens: -5, calls: 1.5, time_s: .nan}}
""",
        "4:32: budgets.per_run.money_usd must be greater than 0, found 0",
        "4:43: budgets.per_run.tokens must be greater than 0, found -5",
        "4:54: budgets.per_run.calls must be a whole number, found 1.5",
        "4:67: budgets.per_run.time_s must be a finite number, found .nan",
    ),
    "money in other words": (
        BASE
        + """\
budgets: {per_run: {money_usd: '0.50'}, windows: [{scope: global, every: day, money_usd: $5}]}
""",
        "4:32: budgets.per_run.money_usd must be a number, found text; remove the quotes",
        "4:90: budgets.windows[0].money_usd must be a number, found text",
    ),
    "money without end": (
        BASE
        + """\
budgets: {per_run: {money_usd: .inf, tokens: 1e30, time_s: soon}}
""",
        "4:32: budgets.per_run.money_usd must be a finite number, found .inf",
        "4:46: budgets.per_run.tokens must be a whole number, found 1e30",
        "4:60: budgets.per_run.time_s must be a number of seconds, found the text 'soon'",
    ),
    "more money than there is": (
        BASE
        + """\
budgets: {per_run: {money_usd: 2000000000, tokens: 9999999999999999}}
""",
        "4:32: budgets.per_run.money_usd must be 1000000000 or less, found 2000000000",
        "4:52: budgets.per_run.tokens must be 1000000000000000 or less, found something else",
    ),
    "another tool's words for limits": (
        BASE
        + """\
budgets: {per_run: {max_cost_usd: 1, token: 5}, limit: 5}
""",
        "4:21: Unknown key 'max_cost_usd' in budgets.per_run, did you mean 'money_usd'?",
        "4:38: Unknown key 'token' in budgets.per_run, did you mean 'tokens'?",
        (
            "4:49: Unknown key 'limit' in budgets; known here: per_run, windows, shrink, "
            "max_tokens, min_tokens, margin"
        ),
    ),
    "a limit without a run": (
        BASE
        + """\
budgets: {money_usd: 5}
""",
        "4:11: Unknown key 'money_usd' in budgets, did you mean 'per_run'?",
    ),
    "windows of unknown kinds": (
        BASE
        + """\
budgets:
  windows:
    - {scope: run, every: week, money_usd: 5}
    - {scope: keys, every: days, calls: 5}
    - {every: 1, calls: 5}
""",
        "6:15: Unknown scope 'run'; use one of key, deployment, global",
        "6:27: Unknown every 'week'; use one of minute, hour, day, month",
        "7:15: Unknown scope 'keys', did you mean 'key'?",
        "7:28: Unknown every 'days', did you mean 'day'?",
        "8:7: budgets.windows[2] has no 'scope'; add it, for example scope: global",
        "8:15: budgets.windows[2].every must be one of minute, hour, day, month, found 1",
    ),
    "windows that limit nothing": (
        BASE
        + """\
budgets:
  windows:
    - {scope: key, every: day}
    - {scope: key, every: hour, mony_usd: 5}
    - {}
""",
        "6:7: budgets.windows[0] limits nothing; add one of money_usd, tokens, calls, time_s",
        "7:33: Unknown key 'mony_usd' in budgets.windows[1], did you mean 'money_usd'?",
        "8:7: budgets.windows[2] has no 'scope'; add it, for example scope: global",
        "8:7: budgets.windows[2] has no 'every'; add it, for example every: day",
    ),
    "a window of no model": (
        BASE
        + """\
budgets:
  windows:
    - {scope: deployment, every: day, name: gtp, calls: 5}
    - {scope: key, every: day, name: gtp, calls: 5}
""",
        "6:45: Unknown model 'gtp' in budgets.windows.name, did you mean 'gpt'?",
    ),
    "a window of one of all": (
        BASE
        + """\
budgets:
  windows:
    - {scope: global, every: day, name: gpt, calls: 5}
""",
        "6:41: budgets.windows[0].name names one of many, but the scope is all; remove it",
    ),
    "two windows for the same": (
        BASE
        + """\
budgets:
  windows:
    - {scope: global, every: day, calls: 5}
    - {scope: global, every: hour, calls: 5}
    - {scope: global, every: day, money_usd: 5}
""",
        (
            "8:7: budgets.windows[2] is for the same as budgets.windows[0]; write their "
            "limits into one"
        ),
    ),
    "one window without its dash": (
        BASE
        + """\
budgets: {windows: {scope: global, every: day, calls: 5}}
""",
        "4:20: budgets.windows must be a list, found a mapping",
    ),
    "ways to shrink": (
        BASE
        + """\
budgets: {shrink: [members, member, members, 1]}
""",
        "4:29: Unknown shrink 'member', did you mean 'members'?",
        "4:37: 'members' is twice in budgets.shrink; name it once",
        "4:46: budgets.shrink[3] must be one of members, max_tokens, synthesizer, found 1",
    ),
    "answers shorter than short": (
        BASE
        + """\
budgets: {max_tokens: 100}
""",
        (
            "4:23: budgets.min_tokens (256 if not given) is more than budgets.max_tokens; "
            "lower the first or raise the second"
        ),
    ),
    "answers short and long": (
        BASE
        + """\
budgets: {max_tokens: 100, min_tokens: 200}
""",
        (
            "4:40: budgets.min_tokens is more than budgets.max_tokens; lower the first or "
            "raise the second"
        ),
    ),
    "an impossible margin": (
        BASE
        + """\
budgets: {margin: 0.5, min_tokens: 0}
""",
        "4:19: budgets.margin must be 1 or more, found 0.5",
        "4:36: budgets.min_tokens must be greater than 0, found 0",
    ),
    "impossible retries": (
        BASE
        + """\
retry: {attempts: 0, budget_ratio: 1.5, burst: 0, base_s: 9, hedge_ratio: 2, hedge_min_s: 0}
""",
        "4:19: retry.attempts must be 1 or more, found 0",
        "4:36: retry.budget_ratio must be 1 or less, found 1.5",
        "4:48: retry.burst must be 1 or more, found 0",
        (
            "4:59: retry.base_s is more than retry.cap_s (8 if not given); lower the first or"
            " raise the second"
        ),
        "4:75: retry.hedge_ratio must be 1 or less, found 2",
        "4:91: retry.hedge_min_s must be greater than 0, found 0",
    ),
    "another tool's retries": (
        BASE
        + """\
retry: {retries: 3, max_retries: 3, backoff_s: 1}
""",
        "4:9: Unknown key 'retries' in retry, did you mean 'attempts'?",
        "4:21: Unknown key 'max_retries' in retry, did you mean 'attempts'?",
        (
            "4:37: Unknown key 'backoff_s' in retry; known here: attempts, budget_ratio, "
            "fallback_ratio, burst, base_s, cap_s, hedge_ratio, hedge_min_s"
        ),
    ),
    "an impossible breaker": (
        BASE
        + """\
breaker: {failures: 0, open_s: -1, ratio: 0, calls: x, window_s: 0, probe_s: .inf}
""",
        "4:21: breaker.failures must be greater than 0, found 0",
        "4:32: breaker.open_s must be greater than 0, found -1",
        "4:43: breaker.ratio must be greater than 0, found 0",
        "4:53: breaker.calls must be a whole number, found the text 'x'",
        "4:66: breaker.window_s must be greater than 0, found 0",
        "4:78: breaker.probe_s must be a finite number, found .inf",
    ),
    "another tool's breaker": (
        BASE
        + """\
circuit_breaker: {}
breaker: {fail_max: 5, reset_timeout: 60}
""",
        "4:1: Unknown key 'circuit_breaker' at the top level, did you mean 'breaker'?",
        "5:11: Unknown key 'fail_max' in breaker, did you mean 'failures'?",
        "5:24: Unknown key 'reset_timeout' in breaker, did you mean 'open_s'?",
    ),
    "a cache without limits": (
        BASE
        + """\
cache: {ttl_s: 0, size_mb: 0.5, folder: 5}
""",
        "4:16: cache.ttl_s must be greater than 0, found 0",
        "4:28: cache.size_mb must be a whole number, found 0.5",
        "4:41: cache.folder must be text, but YAML reads 5 as a number; put it in quotes",
    ),
    "a cache commented out": (
        BASE
        + """\
cache:
ledger:
""",
        "4:1: cache is empty; write cache: {} for its defaults, or remove the line",
        "5:1: ledger is empty; write ledger: {} for its defaults, or remove the line",
    ),
    "a cache switched on": (
        BASE
        + """\
cache: true
""",
        "4:8: cache must be a mapping, found true",
    ),
    "a cache from the environment": (
        BASE
        + """\
cache: {folder: '${HOME}/cache'}
""",
        (
            "4:17: cache.folder is not read from the environment; only api_key, api_base, "
            "ledger.url and limits.url are, so write the value itself"
        ),
    ),
    "a ledger in a file's name": (
        BASE
        + """\
ledger: {url: ledger.db}
""",
        (
            "4:15: ledger.url must be the address of a database, such as sqlite:///ledger.db "
            'or "postgresql://user:${PASSWORD}@host/name"'
        ),
    ),
    "a ledger that is not supported": (
        BASE
        + """\
ledger: {url: 'mysql://me:hunter2hunter2@host/db'}
""",
        (
            "4:15: ledger.url names a database that is not supported; write "
            'sqlite:///ledger.db or "postgresql://user:${PASSWORD}@host/name"'
        ),
    ),
    "a ledger with two slashes": (
        BASE
        + """\
ledger: {url: sqlite://ledger.db}
""",
        (
            "4:15: ledger.url has a path with two slashes before it; write three: "
            "sqlite:///ledger.db"
        ),
    ),
    "a ledger with a reference without braces": (
        BASE
        + """\
ledger: {url: 'postgresql://me:$PASSWORD@host/db'}
""",
        "4:15: ledger.url cannot be read: A variable is written ${NAME}, with braces",
    ),
    "limits that are no Redis": (
        BASE
        + """\
limits: {url: 'http://:hunter2hunter2@host/0'}
""",
        (
            '4:15: limits.url must be the address of a Redis, such as "redis://127.0.0.1:6379/0" '
            'or "redis://:${PASSWORD}@host:6379/0"'
        ),
    ),
    "limits without an address": (
        BASE
        + """\
limits: {timeout_s: 0}
""",
        "4:1: limits has no 'url'; add it",
        "4:21: limits.timeout_s must be greater than 0, found 0",
    ),
    "limits in a database with a name": (
        BASE
        + """\
limits: {url: redis://host/limits}
""",
        "4:15: limits.url names its database by a number, as in redis://host:6379/0",
    ),
    "limits with an option that is not supported": (
        BASE
        + """\
limits: {url: 'redis://host?socket_timeout=5'}
""",
        (
            "4:15: limits.url may have these options only: db, ssl_ca_certs, ssl_cert_reqs, "
            "ssl_certfile, ssl_keyfile"
        ),
    ),
    "limits with a space": (
        BASE
        + """\
limits: {url: 'redis://host '}
""",
        "4:15: limits.url has spaces or line breaks in it; remove them",
    ),
    "limits with a reference without braces": (
        BASE
        + """\
limits: {url: 'redis://:$PASSWORD@host'}
""",
        "4:15: limits.url cannot be read: A variable is written ${NAME}, with braces",
    ),
    "a ledger that is a number": (
        BASE
        + """\
ledger: {url: 5, hold_s: 0, keep_days: 0}
""",
        ("4:15: ledger.url must be text, but YAML reads this value as a number; put it in quotes"),
        "4:26: ledger.hold_s must be greater than 0, found 0",
        "4:40: ledger.keep_days must be greater than 0, found 0",
    ),
    "a ledger in spaces": (
        BASE
        + """\
ledger: {url: 'sqlite:///a.db '}
""",
        "4:15: ledger.url has spaces or line breaks around its value; remove them",
    ),
    "another tool's ledger": (
        BASE
        + """\
ledger: {database: x, path: y}
""",
        "4:10: Unknown key 'database' in ledger, did you mean 'url'?",
        "4:23: Unknown key 'path' in ledger; known here: url, hold_s, keep_days",
    ),
    "a hedge in words": (
        BASE
        + """\
routes: {fast: {models: [gpt], hedge: 'yes', strategy: cheepest}}
""",
        "4:39: routes.fast.hedge must be true or false, found the text 'yes'",
        "4:56: Unknown strategy 'cheepest', did you mean 'cheapest'?",
    ),
    "impossible rates": (
        """\
models:
  gpt:
    provider: openai
    model: m
    prefill: 1
    rates: {rpm: 5, tokens_per_minute: 0, concurrency: 1.5}
""",
        "5:14: models.gpt.prefill must be true or false, found 1",
        "6:13: Unknown key 'rpm' in models.gpt.rates, did you mean 'requests_per_minute'?",
        "6:40: models.gpt.rates.tokens_per_minute must be greater than 0, found 0",
        "6:56: models.gpt.rates.concurrency must be a whole number, found 1.5",
    ),
    "a limit with nothing behind it": (
        BASE
        + """\
budgets:
  per_run:
    money_usd:
  windows: [{scope: key, every: day, name: , calls: }]
""",
        "6:5: budgets.per_run.money_usd is empty; give a value, or remove the line",
        "7:38: budgets.windows[0].name is empty; give a value, or remove the line",
        "7:46: budgets.windows[0].calls is empty; give a value, or remove the line",
    ),
    "a folder that is not there": (
        BASE + "patterns_dir: nowhere\n",
        "4:15: patterns_dir 'nowhere' is no folder; create it or correct the path",
    ),
    "a folder from the environment": (
        BASE + "patterns_dir: ${HOME}/p\n",
        (
            "4:15: patterns_dir is not read from the environment; only api_key, api_base, "
            "ledger.url and limits.url are, so write the value itself"
        ),
    ),
    "a model twice": (
        BASE + "  gpt: {provider: mistral, model: m}\n",
        "4:3: Key 'gpt' is already at 2:3; remove or rename one of them",
    ),
    "anchors, aliases and merge keys": (
        """\
models:
  gpt: &x {provider: openai, model: m}
  two: *x
  three: {<<: *x}
panels:
  p: {members: [gpt, two, three]}
""",
        "2:8: Anchors (&name) are not supported; remove this one and write its value out",
        "3:8: Aliases (*name) are not supported; write the value out here",
        "4:11: Merge keys (<<) are not supported; write the keys out here",
        "4:15: Aliases (*name) are not supported; write the value out here",
    ),
    "a tag": (
        ONE + "    weight: !!float 1\n",
        "5:13: Tags (!name) are not supported; remove it, or put the value in quotes",
    ),
    "a tab": (
        "models:\n\tgpt: {}\n",
        "2:1: A tab stands where YAML wants spaces; write spaces instead",
    ),
    "a mistyped key among Windows line ends": (
        """\
models:
  gpt: {provider: openai, model: m}

panels:
  p:
    members: [gpt]
    quorm: 1
""".replace("\n", "\r\n"),
        "7:5: Unknown key 'quorm' in panels.p, did you mean 'quorum'?",
    ),
    "many problems at once": (
        """\
modles: {}
models:
  gpt: {provider: openai, modl: m, weight: 0}
  a b: {provider: x, model: m}
panels:
  p: {members: [gtp, gpt], quorum: 3, patern: x}
""",
        "1:1: Unknown key 'modles' at the top level, did you mean 'models'?",
        "3:27: Unknown key 'modl' in models.gpt, did you mean 'model'?",
        "3:44: models.gpt.weight must be greater than 0, found 0",
        (
            "4:3: 'a b' cannot be a name in models; names are up to 64 letters, digits, '.', "
            "'_' and '-', and begin with a letter or digit"
        ),
        (
            "4:19: Unknown provider 'x'; use one of openai, anthropic, google, cohere, "
            "mistral, custom"
        ),
        "6:17: Unknown model 'gtp' in panels.p.members, did you mean 'gpt'?",
        "6:36: panels.p.quorum is 3, but the panel has 2 members; write 2 or less",
        "6:39: Unknown key 'patern' in panels.p, did you mean 'pattern'?",
    ),
    "keys as names": (
        """\
models:
  sk-proj-abc: {provider: sk-proj-abc, sk-proj-abc: 1}
""",
        "2:3: models.(not shown) has no 'model'; add it, for example model: gpt-5-mini",
        (
            "2:27: Unknown provider (not shown); use one of openai, anthropic, google, "
            "cohere, mistral, custom"
        ),
        (
            "2:40: Unknown key (not shown) in models.(not shown); known here: provider, "
            "model, api_key, api_base, weight, price, context_tokens, max_tokens, media_urls,"
            " done_without_finish, rates, prefill"
        ),
    ),
}


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", patterns=PATTERNS)
    return caught.value.problems


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_a_broken_configuration_has_its_exact_message(case: tuple[str, ...]) -> None:
    """Every problem at once, in the order of the file, each with its place and a way out."""
    text, *expected = case

    assert problems_of(text) == tuple(f"c.yaml:{line}" for line in expected)


# Secrets.

SECRETS = {
    "openai": "sk-proj-Zq8vXw3LmN5tRb7KpY2c",
    "google": "AIzaSyB7kQ2mX9vT4nL8wR1cZ6dF3gH5jK0pW2q",
    "hexadecimal": "9f3c7a1e5b8d2064f7a9c3e1b5d80246",
    "uuid": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.TJVA95OrM7E2cBab30R",
    "base64": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY==",
    "passphrase": "zebra quilt vortex mango",
    "password": "Tr0ub4dor&3xyz",
}


def plant(text: str) -> str:
    """The same text with a secret wherever an operator might have put one."""
    key, other, password = SECRETS["openai"], SECRETS["hexadecimal"], SECRETS["password"]
    address = f"https://admin:{password}@host.example/v1?key={SECRETS['uuid']}"
    block = (
        f"    api_key: {key}\n    api_base: {address}\n"
        f"    headers: {{Authorization: 'Bearer {SECRETS['token']}'}}\n    pin: {other}\n"
    )
    flow = f'{{api_key: {other}, api_base: "{address}", session: {SECRETS["google"]}, provider:'
    text = text.replace("    provider: openai\n", f"    provider: openai\n{block}", 1)
    text = text.replace("{provider:", flow)
    text = text.replace("${", f"{SECRETS['base64']}${{")
    return f"{text}\nstranger: '{SECRETS['passphrase']}'\nproxy: {address}\n"


def assert_no_secret(error: BaseException) -> None:
    said = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    for name, secret in SECRETS.items():
        runs = {secret[start : start + 8] for start in range(len(secret) - 7)}
        assert not [run for run in runs if run in said], f"part of the {name} secret is shown"


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_no_message_holds_a_secret(case: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, passwords in addresses, values of unknown keys and of the environment stay unsaid."""
    for name in re.findall(r"\$\{?(\w+)", case[0]):
        monkeypatch.setenv(name, SECRETS["openai"])

    for text in (case[0], plant(case[0])):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, "c.yaml", patterns=PATTERNS)
        assert_no_secret(caught.value)


WHOLE: dict[str, Any] = {
    "models": {
        "gpt": {
            "provider": "openai",
            "model": "gpt-5-mini",
            "api_key": "${OPENAI_API_KEY}",
            "api_base": "https://api.openai.com/v1",
            "weight": 1.5,
            "price": {"input_usd": 0.25, "output_usd": 2, "cached_input_usd": 0.025},
            "context_tokens": 400000,
            "max_tokens": 1000,
            "media_urls": "refuse",
            "done_without_finish": "broken",
            "rates": {"requests_per_minute": 60, "tokens_per_minute": 90000, "concurrency": 8},
            "prefill": True,
        },
        "local": {
            "provider": "custom",
            "model": "qwen3",
            "api_base": "http://127.0.0.1:8080/v1",
            "price": "free",
        },
    },
    "routes": {
        "fast": {"models": ["local"], "fallback": ["gpt"], "strategy": "fastest", "hedge": True}
    },
    "panels": {
        "both": {
            "members": ["gpt", "local"],
            "pattern": "fusion",
            "synthesizer": "gpt",
            "fallback_synthesizers": ["local"],
            "quorum": 1,
            "grace_s": 0,
        }
    },
    "budgets": {
        "per_run": {"money_usd": 0.5, "tokens": 200000, "calls": 40, "time_s": 600},
        "windows": [
            {"scope": "key", "every": "day", "money_usd": 20},
            {"scope": "deployment", "every": "hour", "name": "gpt", "calls": 100},
        ],
        "shrink": ["max_tokens", "members"],
        "max_tokens": 4000,
        "min_tokens": 200,
        "margin": 1.2,
    },
    "timeouts": {"connect_s": 1, "first_content_s": 2, "gap_s": 3, "total_s": 4, "run_s": 5.5},
    "retry": {
        "attempts": 4,
        "budget_ratio": 0.3,
        "fallback_ratio": 0.4,
        "burst": 12,
        "base_s": 0.25,
        "cap_s": 6,
        "hedge_ratio": 0.06,
        "hedge_min_s": 0.15,
    },
    "breaker": {
        "failures": 7,
        "open_s": 31,
        "ratio": 0.45,
        "calls": 21,
        "window_s": 61,
        "probe_s": 62,
    },
    "cache": {"ttl_s": 1800, "size_mb": 512, "folder": "kept"},
    "ledger": {
        "url": "postgresql://me:${PASSWORD}@db.example/ledger",
        "hold_s": 901,
        "keep_days": 401,
    },
    "patterns_dir": None,
}


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything inside a value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for step, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(below, (*path, step))


def changed(path: tuple[str | int, ...], change: Any) -> Any:
    """A copy of `WHOLE`, after `change(container, key)` at a path."""
    config = copy.deepcopy(WHOLE)
    container: Any = config
    for step in path[:-1]:
        container = container[step]
    change(container, path[-1])
    return config


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    """Whatever value or key it was pasted over, no message repeats it."""
    secrets = itertools.cycle(SECRETS.values())  # 8, and 100 places: all soon meet all kinds

    def as_value(container: Any, key: Any) -> None:
        container[key] = next(secrets)

    def as_key(container: Any, key: Any) -> None:
        container[next(secrets)] = container.pop(key)

    refused = 0
    for path in paths(WHOLE):
        for change in (as_value, as_key) if isinstance(path[-1], str) else (as_value,):
            try:
                parse_config(json.dumps(changed(path, change)), "c.yaml", patterns=PATTERNS)
            except ConfigError as error:
                refused += 1
                assert_no_secret(error)

    assert refused > 150


# What is accepted.


def test_a_whole_configuration_is_read_as_it_is_written() -> None:
    """Every key there is arrives as a typed value."""
    config = parse_config(json.dumps(WHOLE), patterns=PATTERNS)

    gpt = config.models["gpt"]
    assert gpt.provider is LLMProvider.OPENAI
    assert gpt.api_key is not None
    assert gpt.api_key.get_secret_value() == "${OPENAI_API_KEY}"
    assert gpt.price == PriceConfig(
        input_usd=Decimal("0.25"), output_usd=Decimal(2), cached_input_usd=Decimal("0.025")
    )
    assert config.models["local"].price == "free"
    assert gpt.rates == RatesConfig(requests_per_minute=60, tokens_per_minute=90000, concurrency=8)
    assert gpt.prefill
    assert config.routes == {
        "fast": RouteConfig(models=("local",), fallback=("gpt",), strategy="fastest", hedge=True)
    }
    assert config.panels["both"].members == ("gpt", "local")
    assert config.panels["both"].grace_s == 0
    assert config.timeouts.run_s == 5.5
    assert config.timeouts.limits().gap_s == 3
    assert config.budgets.per_run.caps == Caps(
        money_nanousd=500_000_000, tokens=200_000, calls=40, time_ms=600_000
    )
    day, hour = config.budgets.windows
    assert (day.scope, day.every, day.name) == ("key", "day", None)
    assert day.caps == Caps(money_nanousd=20 * 10**9)
    assert (hour.scope, hour.every, hour.name) == ("deployment", "hour", "gpt")
    assert config.budgets.shrink == ("max_tokens", "members")
    assert (config.retry.attempts, config.retry.cap_s) == (4, 6)
    assert (config.breaker.failures, config.breaker.ratio) == (7, 0.45)
    assert config.cache is not None
    assert config.cache.size_mb == 512
    assert config.ledger is not None
    assert config.ledger.keep_days == 401


def test_a_run_is_bounded_in_what_it_may_say_of_itself() -> None:
    """Names that end up in the ledger have an end; so have amounts."""
    run = RequestConfig(prompt="hi", tenant="team", tags=("a", "b"), max_cost_usd=Decimal("0.05"))
    assert (run.tenant, run.tags, run.cache) == ("team", ("a", "b"), "use")

    for wrong in (
        {"tenant": "x" * 257},
        {"tags": ("x" * 65,)},
        {"tags": ("",)},
        {"tags": tuple("abcdefghijklmnopq")},
        {"max_cost_usd": 0},
        {"max_cost_usd": math.nan},
        {"max_run_tokens": 0},
        {"max_calls": 1.5},
        {"cache": "maybe"},
    ):
        with pytest.raises(ValidationError):
            RequestConfig.model_validate({"prompt": "hi", **wrong})


def test_what_is_not_written_has_the_default_of_python() -> None:
    """A minimal file equals the same configuration made without a file."""
    text = BASE + "routes:\n  r: {models: [gpt]}\npanels:\n  p: {members: [gpt]}\n"

    assert parse_config(text, patterns=PATTERNS) == OrchestratorConfig(
        models={
            "gpt": ModelConfig(provider=LLMProvider.OPENAI, model="gpt-5-mini"),
            "claude": ModelConfig(provider=LLMProvider.ANTHROPIC, model="claude-haiku-4-5"),
        },
        routes={"r": RouteConfig(models=("gpt",))},
        panels={"p": PanelConfig(members=("gpt",))},
        timeouts=TimeoutsConfig(),
    )


def test_a_configuration_written_out_in_full_is_read_as_the_same() -> None:
    """Defaults included, what is dumped can be read again."""
    config = parse_config(BASE + "panels:\n  p: {members: [gpt]}\n", patterns=PATTERNS)

    assert parse_config(config.model_dump_json(), patterns=PATTERNS) == config


@pytest.mark.parametrize("value", ["no", "on", "12:30:45", "'1.10'", "2026-01-01"])
def test_what_other_yaml_readers_mistake_is_text_here(value: str) -> None:
    """YAML 1.2: `no` is a word and a time is no number of seconds."""
    config = parse_config(f"models:\n  gpt: {{provider: openai, model: {value}}}\n")

    assert config.models["gpt"].model == value.strip("'")


def test_references_are_kept_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read when a call is made: an unset name is no fault of the file's."""
    monkeypatch.delenv("KEY_OF_MINE", raising=False)

    for base in ("https://${HOST_OF_MINE}/v1", "http://h:${PORT_OF_MINE}/v1", "${BASE_OF_MINE}/v1"):
        gpt = parse_config(f"{ONE}    api_key: ${{KEY_OF_MINE}}\n    api_base: {base}\n").models[
            "gpt"
        ]

        assert gpt.api_key is not None
        assert gpt.api_key.get_secret_value() == "${KEY_OF_MINE}"
        assert gpt.api_base == base


@pytest.mark.parametrize("key", ["price-$5", "$", "a$b", "literal"])
def test_a_dollar_sign_alone_is_no_reference(key: str) -> None:
    """A literal key may hold one."""
    gpt = parse_config(f"{ONE}    api_key: {key}\n").models["gpt"]

    assert gpt.api_key is not None
    assert gpt.api_key.get_secret_value() == key


def test_own_patterns_are_found_beside_the_file(tmp_path: Path) -> None:
    """`patterns_dir` is relative to the file, not to where the command was started."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "special.yaml").write_text("")
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "panels:\n  p: {members: [gpt], pattern: special}\npatterns_dir: mine\n")

    assert load_config(path).patterns_dir == str(tmp_path / "mine")


@pytest.mark.parametrize("folder", ["c.yaml", "~nobody-of-this-name/x", "x" * 300, '"a\\0b"'])
def test_a_folder_that_is_none_is_named(tmp_path: Path, folder: str) -> None:
    """A file, the home of nobody, a name too long: one line at its place."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{BASE}patterns_dir: {folder}\n")

    with pytest.raises(ConfigError, match=r":4:15: patterns_dir .* is no folder; create it or"):
        load_config(path)


def test_answers_are_kept_where_the_file_says(tmp_path: Path, orchestrator_home: Path) -> None:
    """`cache.folder` is relative to the file and need not be there; else the state folder is."""
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "cache: {folder: mine/answers}\n")
    assert cache_folder(load_config(path)) == tmp_path / "mine" / "answers"

    path.write_text(BASE + "cache: {folder: ~/answers}\n")
    assert cache_folder(load_config(path)) == Path.home() / "answers"

    for text in (BASE, BASE + "cache: {}\n"):
        path.write_text(text)
        assert cache_folder(load_config(path)) == orchestrator_home / "cache"

    assert runs_folder() == orchestrator_home / "runs"


def test_a_file_is_no_folder_for_answers(tmp_path: Path) -> None:
    """What is in the way of the folder is named before anything is asked."""
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "cache: {folder: c.yaml}\n")

    with pytest.raises(ConfigError, match=r":4:17: cache.folder 'c.yaml' is no folder; correct"):
        load_config(path)


def ledger_of(url: str, folder: Path) -> str:
    """Where the ledger is, for a file in a folder that says this."""
    path = folder / "c.yaml"
    path.write_text(f"{BASE}ledger: {{url: '{url}'}}\n")
    return ledger_url(load_config(path))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sqlite:///ledger.db", "sqlite:///{folder}/ledger.db"),
        ("sqlite:///a b/ledger.db?mode=rwc", "sqlite:///{folder}/a b/ledger.db?mode=rwc"),
        ("sqlite:////var/ledger.db", "sqlite:////var/ledger.db"),
        ("sqlite:///~/ledger.db", "sqlite:///{home}/ledger.db"),
        ("sqlite:///~nobody-of-this-name/x.db", "sqlite:///{folder}/~nobody-of-this-name/x.db"),
        ("sqlite:///${PLACE}/ledger.db", "sqlite:////srv/ledger.db"),
        ("sqlite:///${NAME_OF_MINE}.db", None),
        ("sqlite:///books/${NAME_OF_MINE}.db", "sqlite:///{folder}/books/team.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://me@db/ledger", "postgresql+psycopg://me@db/ledger"),
        ("postgres:///ledger", "postgresql+psycopg:///ledger"),
        ("postgresql+psycopg://db", "postgresql+psycopg://db"),
        ("postgresql://me:${WORD}@db/x", "postgresql+psycopg://me:p%40ss%2Fw%3Ard@db/x"),
        ("${ADDRESS}", "postgresql+psycopg://me:secret@db/x"),
    ],
)
def test_the_ledger_is_where_the_file_says(
    written: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are relative to the configuration, variables are read late, passwords escaped."""
    monkeypatch.setenv("PLACE", "/srv")
    monkeypatch.setenv("NAME_OF_MINE", "team")
    monkeypatch.setenv("WORD", "p@ss/w:rd")
    monkeypatch.setenv("ADDRESS", "postgres://me:secret@db/x")
    folder = tmp_path.resolve()

    if meant is None:
        with pytest.raises(ConfigError, match=r"^ledger.url needs an absolute path where a var"):
            ledger_of(written, tmp_path)
    else:
        assert ledger_of(written, tmp_path) == meant.format(folder=folder, home=Path.home())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "ledger.url: environment variable ADDRESS is not set"),
        ("mysql://me:hunter2hunter2@db/x", "ledger.url names a database that is not supported"),
        ("hunter2hunter2", "ledger.url must be the address of a database"),
    ],
)
def test_a_variable_that_holds_no_ledger_is_told_of_without_its_value(
    address: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read when the ledger is opened, and a password in it is not repeated."""
    if address is None:
        monkeypatch.delenv("ADDRESS", raising=False)
    else:
        monkeypatch.setenv("ADDRESS", address)

    with pytest.raises(ConfigError) as caught:
        ledger_of("${ADDRESS}", tmp_path)

    assert caught.value.problems[0].startswith(message)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_without_a_ledger_spending_is_counted_in_memory(orchestrator_home: Path) -> None:
    """A library leaves nothing behind; programs ask for the ledger in the state folder."""
    config = parse_config(BASE)

    kept = with_state(config)

    assert ledger_url(config) == "sqlite://"
    assert ledger_url(kept) == f"sqlite:///{orchestrator_home}/ledger.db"
    assert kept.cache is None
    assert with_state(kept) is kept
    assert config_hash(kept) == config_hash(config)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("redis://host", "redis://host"),
        ("rediss://me:${WORD}@host:7000/3", "rediss://me:p%40ss%2Fw%3Ard@host:7000/3"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("${ADDRESS}", "redis://:secret@host/1"),
    ],
)
def test_rates_are_counted_where_the_file_says(
    written: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables are read late and passwords escaped; without the section there is no place."""
    monkeypatch.setenv("WORD", "p@ss/w:rd")
    monkeypatch.setenv("ADDRESS", "redis://:secret@host/1")

    assert limits_url(parse_config(BASE + f"limits: {{url: '{written}'}}\n")) == meant
    assert limits_url(parse_config(BASE)) is None


def test_a_variable_that_holds_no_redis_is_told_of_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a ledger: it may hold a password."""
    monkeypatch.setenv("ADDRESS", "http://:hunter2hunter2@host")

    with pytest.raises(ConfigError, match=r"^limits.url must be the address of a Redis") as caught:
        limits_url(parse_config(BASE + "limits: {url: '${ADDRESS}'}\n"))

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_password_of_the_limits_is_never_shown() -> None:
    """Neither printed nor dumped nor told of, and the file is the wrong place for it."""
    config = parse_config(BASE + "limits: {url: 'redis://:hunter2hunter2@host'}\n")

    shown = [repr(config), config.model_dump_json(), str(config), *warnings(config)]

    assert "hunter2" not in "".join(shown)
    assert warnings(config) == [
        "limits.url has a password in it; write ${NAME} and set the variable"
    ]


def test_a_password_of_the_ledger_is_never_shown() -> None:
    """Neither printed nor dumped nor told of, and the file is the wrong place for it."""
    config = parse_config(BASE + "ledger: {url: 'postgresql://me:hunter2hunter2@db/x'}\n")

    shown = [repr(config), config.model_dump_json(), str(config), *warnings(config)]

    assert "hunter2" not in "".join(shown)
    assert warnings(config) == [
        "ledger.url has a password in it; write ${NAME} and set the variable"
    ]


SHIPPED = sorted(
    path for path in packaged_configs().rglob("*.yaml") if path.parent.name != "patterns"
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_configuration_is_in_order(path: Path) -> None:
    """What comes with the package is read without a problem or a warning, and fits the schema."""
    config = load_config(path)

    assert warnings(config) == []
    jsonschema.validate(read_yaml(path.read_text(encoding="utf-8")).plain(), json_schema())


def test_the_default_configuration_asks_a_council_of_five_companies() -> None:
    """The first panel, which is asked by default, has a member of every hosted provider."""
    config = load_config(packaged_configs() / "orchestrator.yaml")

    members = next(iter(config.panels.values())).members
    assert {config.models[name].provider for name in members} == {*LLMProvider} - {
        LLMProvider.CUSTOM
    }


# Warnings.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE, []),
        (ONE + "    api_key: ${KEY}\n", []),
        (
            ONE + "    api_key: abcdef\n",
            ["models.gpt.api_key is in the file itself; write ${NAME} and set the variable"],
        ),
        (
            ONE + "    api_base: https://me:secret@host/v1\n",
            ["models.gpt.api_base has a user or password in it; use api_key: ${NAME} instead"],
        ),
        (
            ONE + "    api_base: http://host/v1\n    api_key: ${KEY}\n",
            ["models.gpt sends its key unencrypted; use https in api_base"],
        ),
        (ONE + "    api_base: http://localhost:1/v1\n    api_key: ${KEY}\n", []),
        (ONE + "    api_base: http://[::1]:1/v1\n    api_key: ${KEY}\n", []),
        (
            BASE + "timeouts: {gap_s: 200}\n",
            [
                "timeouts.gap_s is longer than timeouts.total_s and never rings;"  # noqa: ISC004
                " lower gap_s or raise total_s"
            ],
        ),
        (
            BASE + "timeouts: {run_s: 100}\n",
            [
                "timeouts.total_s is longer than timeouts.run_s and never rings;"  # noqa: ISC004
                " lower total_s or raise run_s"
            ],
        ),
        (
            BASE + "timeouts: {total_s: 1000, run_s: 2000}\n",
            [
                "breaker.probe_s is shorter than timeouts.total_s: a slow probe that succeeds is"  # noqa: ISC004
                " not heard, and the deployment stays left alone; raise probe_s",
                "ledger.hold_s is shorter than timeouts.total_s: a slow call is taken for lost"  # noqa: ISC004
                " and counted in full while it still runs; raise hold_s",
            ],
        ),
        (
            BASE + "routes: {r: {models: [gpt], hedge: true}}\nretry: {hedge_ratio: 0}\n",
            [
                "routes.r.hedge needs a second model; add one, or remove hedge",
                "routes.r.hedge never happens, because retry.hedge_ratio is 0; raise it",
            ],
        ),
        (
            BASE + "panels: {p: {members: [gpt, claude]}}\nbudgets: {per_run: {calls: 1}}\n",
            [
                "panels.p wants 2 answers, but budgets.per_run.calls is 1;"  # noqa: ISC004
                " raise it, or lower the panel's quorum"
            ],
        ),
        (BASE + "ledger: {url: 'postgresql://me:${WORD}@db/x'}\n", []),
        (BASE + "ledger: {url: sqlite:///x.db}\nbudgets: {per_run: {calls: 1}}\n", []),
    ],
)
def test_what_is_allowed_but_unwise_is_a_warning(text: str, expected: list[str]) -> None:
    """Warnings name the place and the better way, and hold no secret."""
    assert warnings(parse_config(text)) == expected


EACH = "{scope: deployment, every: day, money_usd: 1}"


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ("", []),
        ("per_run: {calls: 5}", []),
        ("per_run: {money_usd: 1}", ["mine", "yours"]),
        ("windows: [{scope: key, every: day, money_usd: 1}]", ["mine", "yours"]),
        (f"windows: [{EACH}]", ["mine", "yours"]),
        ("windows: [{scope: deployment, name: mine, every: day, money_usd: 1}]", ["mine"]),
        (f"windows: [{EACH}, {{scope: deployment, name: mine, every: day, calls: 1}}]", ["yours"]),
        ("windows: [{scope: global, every: day, calls: 1}]", []),
    ],
)
def test_a_price_that_nobody_knows_is_told_of_where_money_is_limited(
    limits: str, refused: list[str]
) -> None:
    """With both ways out; a free model, one with a price and a listed one are none of these."""
    models = "".join(
        f"  {name}: {{provider: custom, model: m, api_base: 'http://h/v1'{price}}}\n"
        for name, price in (
            ("mine", ""),
            ("yours", ""),
            ("free", ", price: free"),
            ("priced", ", price: {input_usd: 1, output_usd: 2}"),
        )
    )

    assert warnings(parse_config(f"{BASE}{models}budgets: {{{limits}}}\n")) == [
        f"models.{name} has no known price, and while money is limited its calls are refused;"
        " write price: {input_usd: ..., output_usd: ...}, or price: free"
        for name in refused
    ]


# The hash.


def test_the_hash_is_the_same_in_every_process() -> None:
    """Receipts of different processes and machines can be compared."""
    code = (
        "import sys; from orchestrator.config import config_hash, parse_config;"
        "print(config_hash(parse_config(sys.argv[1], patterns=('compare',))))"
    )
    text = BASE + "panels:\n  p: {members: [gpt, claude]}\n"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code, text],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert hashes == {config_hash(parse_config(text, patterns=PATTERNS))}
    assert re.fullmatch(r"[0-9a-f]{16}", hashes.pop())


def test_the_hash_knows_no_secret() -> None:
    """Nobody can try out keys or passwords against it."""

    def hash_with(lines: str) -> str:
        return config_hash(parse_config(ONE + lines))

    assert hash_with("    api_key: abcdef\n") == hash_with("    api_key: ghijkl\n")
    assert hash_with("    api_key: ${A}\n") != hash_with("    api_key: ${B}\n")
    assert hash_with("    api_base: https://a:b@h/v1?k=1\n") == hash_with(
        "    api_base: https://h/v1\n"
    )
    assert hash_with("    api_base: https://h/v1\n") != hash_with("    api_base: https://h/v2\n")


@pytest.mark.parametrize(
    "section",
    [
        "ledger: {url: 'postgresql://me:hunter2@db/x'}\n",
        "ledger: {keep_days: 3}\n",
        "limits: {url: 'redis://:hunter2@host'}\n",
        "patterns_dir: .\n",
    ],
)
def test_the_hash_does_not_tell_where_things_are_kept(section: str) -> None:
    """The same run is the same run whoever counts it, and no password can be tried out."""
    assert config_hash(parse_config(BASE + section)) == config_hash(parse_config(BASE))


def test_the_hash_does_not_tell_where_answers_are_kept() -> None:
    """That they are kept, and for how long, may change what is answered; the place does not."""
    without, first, second, longer = (
        config_hash(parse_config(BASE + section))
        for section in ("", "cache: {folder: a}\n", "cache: {folder: b}\n", "cache: {ttl_s: 9}\n")
    )

    assert first == second
    assert len({without, first, longer}) == 3


def test_an_impossible_address_does_not_stop_the_hash() -> None:
    """A configuration made in Python is not checked like a file, and still has a hash."""
    model = ModelConfig(provider=LLMProvider.OPENAI, model="m", api_base="http://[::1")

    config = OrchestratorConfig(models={"m": model})

    assert len(config_hash(config)) == 16
    assert warnings(config) == []


def test_the_hash_tells_every_difference_that_counts() -> None:
    """Any value changed changes it; layout, and where things are kept, do not."""
    config = config_hash(parse_config(json.dumps(WHOLE), patterns=PATTERNS))
    panels = "panels:\n  p: {members: [gpt]}\n  q: {members: [claude]}\n"
    swapped = "panels:\n  q: {members: [claude]}\n  p: {members: [gpt]}\n"

    def raise_it(container: Any, key: Any) -> None:
        container[key] += 1

    keys = {
        *("weight", "quorum", "run_s", "input_usd", "concurrency", "tokens", "margin"),
        *("attempts", "cap_s", "failures", "ttl_s"),
    }
    numbers = [path for path in paths(WHOLE) if path[-1] in keys]
    assert len(numbers) == len(keys)
    for path in numbers:
        other = parse_config(json.dumps(changed(path, raise_it)), patterns=PATTERNS)
        assert config_hash(other) != config
    assert config_hash(parse_config(json.dumps(WHOLE, indent=2), patterns=PATTERNS)) == config
    first, second = (parse_config(BASE + text, patterns=PATTERNS) for text in (panels, swapped))
    assert config_hash(first) != config_hash(second)  # the first panel is the default


# The schema.

VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 2.5, "", "gpt", "local", "openai", "custom", "free", "fusion"),
    *([], ["gpt"], ["gpt", 5], {}, {"input_usd": 1, "output_usd": 2}, {"input_usd": "1"}),
    *("http://h/v1", "a b", "priority", {"gpt": {"provider": "openai", "model": "m"}}),
]


@st.composite
def configurations(draw: st.DrawFn) -> Any:
    """`WHOLE` with up to four of its values replaced, removed or joined by strangers."""
    config = copy.deepcopy(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(list(paths(config))))
        container: Any = config
        for step in path[:-1]:
            container = container[step]
        match draw(st.sampled_from(("replace", "remove", "add"))):
            case "replace":
                container[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "remove":
                del container[path[-1]]
            case _ if isinstance(container, dict):
                name = draw(st.sampled_from(("gpt", "x", "a b", "model", "price")))
                container[name] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        if not config:
            break
    return config


@given(configurations())
def test_the_schema_accepts_what_the_models_accept(config: Any) -> None:
    """An editor that follows the schema and the loader agree, but for names and sums."""
    fits = jsonschema.Draft202012Validator(json_schema()).is_valid(config)
    value, _ = validate(read_yaml(json.dumps(config)), OrchestratorConfig, VOCABULARY)
    quoted = any(isinstance(price, str) for price in prices(config))  # refused by a cross-check

    assert fits == (value is not None and not quoted)


def prices(config: Any) -> Iterator[Any]:
    """Every single amount of money."""
    for path in paths(config):
        if str(path[-1]).endswith("_usd"):
            value = config
            for step in path:
                value = value[step]
            yield value


def test_the_schema_is_one_and_explains_every_key() -> None:
    """It is a valid schema by itself, and an editor has a sentence to show for each key."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    objects = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    assert len(objects) == 16
    for part in objects:
        assert part["additionalProperties"] is False
        assert all(key["description"] for key in part["properties"].values())


# Anything at all.

LINE = re.compile(r"c\.yaml:[1-9]\d*:[1-9]\d*: \S.*")


def assert_read_or_refused(text: str) -> None:
    started = time.process_time()
    try:
        parse_config(text, "c.yaml", patterns=PATTERNS)
    except ConfigError as error:
        places = []
        for line in error.problems:
            assert LINE.fullmatch(line), line
            assert "not as it must be" not in line, line
            places.append(tuple(map(int, line.split(":")[1:3])))
        assert places == sorted(places)
    assert time.process_time() - started < 10


@given(st.text(max_size=300))
def test_random_text_is_read_or_refused(text: str) -> None:
    """Nothing but ConfigError ever comes out, and soon."""
    assert_read_or_refused(text)


@given(configurations())
def test_a_mutated_structure_is_read_or_refused(config: Any) -> None:
    """Wrong types in wrong places are all put into words."""
    assert_read_or_refused(json.dumps(config))


PIECES = (
    *("", " ", "\n", "\t", "\r\n", ":", "- ", "{", "}", "[", "]", "'", '"', "#", "${", "&a ", "*a"),
    *("!x ", "|", "<<: ", "gpt", "models", "0", ".nan", "~", "\x00", "\ufeff", "é", "\\ud800"),
)
EDITS = st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(PIECES))


@given(st.sampled_from([case[0] for case in BROKEN.values()]), st.lists(EDITS, max_size=6))
def test_a_mutated_file_is_read_or_refused(text: str, edits: list[tuple[int, int, str]]) -> None:
    """A file saved half-way, or typed over by a cat."""
    for position, length, insertion in edits:
        text = text[:position] + insertion + text[position + length :]

    assert_read_or_refused(text)


def test_a_thousand_mistakes_take_no_time() -> None:
    """Large and wrong in every line: a hundred lines are enough, and soon there."""
    models = "".join(f"  m{n}: {{provider: opnai, modl: x, price: 0}}\n" for n in range(400))
    members = "".join(f"  p{n}: {{members: [n{n}, m{n}, n{n + 1}]}}\n" for n in range(400))

    started = time.process_time()
    problems = problems_of(f"models:\n{models}panels:\n{members}")

    assert len(problems) == 101
    assert time.process_time() - started < 20  # measured: 0.8 s; twice that under coverage


# Where it is found.


def test_the_configuration_is_looked_for_in_a_fixed_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for, the variable, the two places in this folder, the package's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    assert find_config() == packaged_configs() / "orchestrator.yaml"
    assert find_config().is_file()

    Path("configs").mkdir()
    Path("configs/orchestrator.yaml").touch()
    assert find_config() == Path("configs/orchestrator.yaml")

    Path("orchestrator.yaml").touch()
    assert find_config() == Path("orchestrator.yaml")

    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "~/elsewhere.yaml")
    assert find_config() == Path.home() / "elsewhere.yaml"

    assert find_config("mine.yaml") == Path("mine.yaml")


def test_what_is_kept_goes_where_the_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's own variable, then the XDG one if it is absolute, then the home folder."""
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "own"))
    assert state_dir() == tmp_path / "own"

    monkeypatch.delenv("ORCHESTRATOR_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_dir() == tmp_path / "state" / "orchestrator"

    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_dir() == Path.home() / ".local" / "state" / "orchestrator"

    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_dir() == Path.home() / ".local" / "state" / "orchestrator"


def test_importing_the_configuration_is_light() -> None:
    """Neither litellm nor a YAML reader is loaded before there is something to read."""
    code = (
        "import sys, orchestrator.config;"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    heavy = ("litellm", "openai", "aiohttp", "jinja2", "ruamel.yaml", "orchestrator.base")

    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


ABSURD = {
    "not a number": ".nan",
    "infinite": ".inf",
    "less than infinite": "-.inf",
    "negative": "-1",
    "a boolean": "true",
    "text": "'1'",
    "too large to count": "9" * 5000,
    "too large for a float": "1e999",
}


@pytest.mark.parametrize("number", ABSURD.values(), ids=ABSURD)
def test_absurd_numbers_are_refused_everywhere(number: str) -> None:
    """No clock, weight, price or count can be infinite, negative or no number at all."""
    text = json.dumps(WHOLE, indent=1)
    figures = re.findall(r'(?m)^ +"\w+": [\d.]+,?$', text)
    assert len(set(figures)) == len(figures) == 43

    for line in figures:
        absurd = re.sub(r"[\d.]+(,?)$", rf"{number}\1", line)
        assert len(problems_of(text.replace(line, absurd, 1))) == 1
