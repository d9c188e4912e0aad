"""The gateway tells no secret: in no reply, header, log, page or file, in no form, not in part."""

import asyncio
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from orchestrator.server.keys import KeyFile
from tests.echoing import PLACES, Echoing
from tests.test_secrets import files_in, leaks, plant, secret, thinned

PROGRAM = Path(__file__).with_name("telling.py")


async def output_of(words: list[str], variables: Mapping[str, str], given: str) -> tuple[int, str]:
    """What a program says on both of its streams."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), *words),
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(given.encode())
    assert process.returncode is not None
    return process.returncode, said.decode("utf-8", "replace")


async def test_the_gateway_tells_no_secret(tmp_path: Path, thorough: bool) -> None:
    """Those of the configuration, told back by a provider, and the keys that callers present."""
    home, path = tmp_path / "home", tmp_path / "orchestrator.yaml"
    keys = KeyFile(home / "keys.json")
    rng = random.Random(8)
    wrong = [keys.create("alice").key, f"orc-{'0' * 12}-{secret(rng)}", secret(rng), secret(rng)]
    keys.revoke(keys.list()[0].id)
    presented = [keys.create("alice").key, *wrong]
    async with Echoing() as provider:
        planted = plant(provider.port, list(PLACES))
        models = planted.models if thorough else thinned(planted.models, 16)
        with path.open("w") as file:
            YAML(typ="safe").dump(
                {
                    "models": {name: dict(model) for name, model in models.items()},
                    "retry": {"attempts": 1},
                    "breaker": {"failures": 1000, "calls": 1000},
                    "cache": {},
                    "ledger": {},
                },
                file,
            )
        variables = {
            **planted.variables,
            "ORCHESTRATOR_HOME": str(home),
            "LITELLM_LOG": "DEBUG",
            "LITELLM_DISABLE_REDACT_SECRETS": "true",
        }
        words = [str(path), str(keys.path)]
        status, said = await output_of(words, variables, "\n".join(presented))
        came = leaks(provider.seen, planted.secrets)
    secrets = {
        **planted.secrets,
        **{f"key {place}": key.rpartition("-")[2] for place, key in enumerate(presented)},
    }

    assert status == 0, said[-3000:]
    assert len(came) > 20, "the secrets did not even reach the provider"
    assert "DEBUG" in said
    assert "orchestrator_requests_total" in said
    found = leaks(said, secrets)
    assert not found, "\n".join(found[:20])
    for file_path, text in files_in(home):
        assert not leaks(text, secrets), file_path
    print(f"{len(secrets)} secrets, {len(models)} deployments, {len(said):,} characters")
