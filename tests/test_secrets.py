"""No secret is ever told: not in logs, errors, receipts or files, in no form, not in part."""

import asyncio
import base64
import os
import random
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ruamel.yaml import YAML

from tests.echoing import PLACES, Echoing

WIRES = ("openai", "anthropic", "google", "cohere", "mistral", "custom")
RUN = 8  # so many characters in a row are a leak
OWN_VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GEMINI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "mistral": "MISTRAL_API_KEY",
}


@dataclass(frozen=True)
class Planted:
    """Secrets, and where they were put."""

    models: Mapping[str, Mapping[str, Any]]
    variables: Mapping[str, str]
    secrets: Mapping[str, str]


def secret(rng: random.Random, *, odd: bool = False) -> str:
    """Long enough that no text holds a part of it by chance; with signs that forms change."""
    letters = string.ascii_letters + string.digits + ("+/=._~" if odd else "")
    return "".join(rng.choices(letters, k=rng.randint(20, 44)))


def plant(port: int, places: Sequence[str]) -> Planted:
    """Eleven secrets for every wire format, in six ways, and deployments for every place."""
    rng = random.Random(20)
    models: dict[str, dict[str, Any]] = {}
    variables: dict[str, str] = {}
    secrets: dict[str, str] = {}

    def new(name: str, *, odd: bool = False) -> str:
        secrets[name] = secret(rng, odd=odd)
        return secrets[name]

    host = f"127.0.0.1:{port}/v1"
    for wire in WIRES:
        variables[f"{wire.upper()}_KEY"] = new(f"{wire}, key by variable", odd=True)
        user, password = new(f"{wire}, user"), new(f"{wire}, password")
        hidden = f"http://{new(f'{wire}, hidden user')}:{new(f'{wire}, hidden password')}@{host}"
        variables[f"{wire.upper()}_BASE"] = hidden
        query = f"http://{host}?token={new(f'{wire}, token in the address')}"
        ways: dict[str, dict[str, Any]] = {
            "literal": {"api_key": new(f"{wire}, key in the file"), "api_base": f"http://{host}"},
            "variable": {"api_key": f"${{{wire.upper()}_KEY}}", "api_base": f"http://{host}"},
            "user": {"api_base": f"http://{user}:{password}@{host}"},
            "hidden": {"api_base": f"${{{wire.upper()}_BASE}}"},
            "query": {"api_base": query},
        }
        for way in ("user", "hidden", "query"):
            ways[way]["api_key"] = new(f"{wire}, key beside the {way}")
        if wire in OWN_VARIABLES:
            variables[OWN_VARIABLES[wire]] = new(f"{wire}, its own variable")
            ways["own"] = {"api_base": f"http://{host}"}
        for way, about in ways.items():
            for place in places:
                models[f"{wire}-{way}-{place}"] = {
                    "provider": wire,
                    "model": f"m-{place}",
                    "price": "free",
                    **about,
                }
    return Planted(models, variables, secrets)


def thinned(models: Mapping[str, Mapping[str, Any]], every: int) -> dict[str, Mapping[str, Any]]:
    """One in so many, spread over wires, ways and places."""
    names = sorted(models)
    random.Random(3).shuffle(names)
    return {name: models[name] for name in names[::every]}


def runs_of(text: str) -> set[str]:
    """Every piece of it that would be a leak, as it stands and as it is often written."""
    raw = text.encode()
    shifted = [base64.b64encode(b"\0" * before + raw).decode() for before in range(3)]
    forms = [
        text,
        quote(text, safe=""),
        raw.hex(),
        # Of base64 only what no neighbour of the secret has a part in.
        *(form[(0, 2, 3)[before] : len(form) - 4] for before, form in enumerate(shifted)),
    ]
    return {form[at : at + RUN].lower() for form in forms for at in range(len(form) - RUN + 1)}


def leaks(text: str, secrets: Mapping[str, str]) -> list[str]:
    """Which secrets stand in a text, with what is around them."""
    lowered = text.lower()
    pieces = {lowered[at : at + RUN] for at in range(len(lowered) - RUN + 1)}
    found = []
    for name, hidden in secrets.items():
        for run in runs_of(hidden) & pieces:
            at = lowered.index(run)
            found.append(f"{name}: {run!r} in {text[max(0, at - 200) : at + 100]!r}")
            break
    return found


def test_what_is_looked_for_would_be_found() -> None:
    """A secret in any form, and every part of it that is long enough."""
    secrets = {"one": "Zq7Wm2Xv9Rt4Lp8N+/=k3y"}
    hidden = secrets["one"]
    for shown in (
        f"key {hidden}",
        hidden.upper(),
        quote(hidden, safe=""),
        hidden.encode().hex(),
        base64.b64encode(hidden.encode()).decode(),
        base64.b64encode(f"user:{hidden}".encode()).decode(),
        hidden[3:11],
    ):
        assert leaks(f"before {shown} after", secrets), shown
    assert not leaks("nothing of it: " + hidden[:7], secrets)


async def output_of(*command: str, variables: Mapping[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode("utf-8", "replace")


def files_in(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes().decode("latin-1")


async def test_no_secret_is_told(tmp_path: Path, thorough: bool) -> None:
    """Sixty of them, told back in every place, with all logs at their most talkative."""
    home, path = tmp_path / "home", tmp_path / "orchestrator.yaml"
    async with Echoing() as provider:
        planted = plant(provider.port, list(PLACES))
        assert len(planted.secrets) >= 60
        models = planted.models if thorough else thinned(planted.models, 8)
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
        program = str(Path(__file__).with_name("telling.py"))
        status, said = await output_of(program, str(path), variables=variables)
        came = leaks(provider.seen, planted.secrets)

    assert status == 0, said[-3000:]
    assert len(came) > 20, "the secrets did not even reach the provider"
    assert "DEBUG" in said
    found = leaks(said, planted.secrets)
    assert not found, "\n".join(found[:20])
    names = []
    for file_path, text in files_in(home):
        names.append(file_path.name)
        found = leaks(text, planted.secrets)
        assert not found, (file_path, found[:5])
    assert any(name.endswith(".jsonl") for name in names)
    assert "ledger.db" in names
    print(f"{len(planted.secrets)} secrets, {len(models)} deployments, {len(said):,} characters")


COMMANDS = {
    "models": ("models",),
    "models as JSON": ("models", "--json"),
    "check": ("check", "{path}"),
    "plan": ("plan", "Why?", "-m", "user"),
    "ask": ("--debug", "ask", "Why?", "-m", "user", "--json"),
    "ask who tells": ("--debug", "ask", "Why?", "-m", "echoed"),
    "ask by variable": ("ask", "Why?", "-m", "hidden"),
    "a ledger out of reach": ("--debug", "usage", "-c", "{far}"),
    "a ledger by variable": ("ask", "Why?", "-m", "user", "-c", "{far_by_variable}"),
    "a broken file": ("check", "{broken}"),
    "a file that is no YAML": ("--debug", "check", "{torn}"),
}
AFTER = {"usage": ("usage", "--json"), "show": ("show", "--json")}


def write_files(folder: Path, port: int, secrets: Mapping[str, str]) -> dict[str, Path]:
    """Configurations with secrets where they belong and where they do not."""
    host = f"127.0.0.1:{port}/v1"
    models = f"""
models:
  user:
    provider: custom
    model: m-error401
    api_key: {secrets["key"]}
    api_base: http://{secrets["user"]}:{secrets["password"]}@{host}?token={secrets["token"]}
    price: free
    rates: {{requests_per_minute: 100}}
  echoed:
    provider: openai
    model: m-error401
    api_key: {secrets["echoed"]}
    api_base: http://{host}
    price: free
  hidden: {{provider: openai, model: m-text, api_base: "${{HIDDEN_BASE}}", api_key: "${{KEY}}"}}
"""
    redis = f"redis://:{secrets['limits password']}@127.0.0.1:9"
    far = f"postgresql://me:{secrets['ledger password']}@127.0.0.1:9/money"
    texts = {
        "path": f"{models}ledger: {{}}\ncache: {{}}\nlimits: {{url: '{redis}'}}\n",
        "far": f"{models}ledger: {{url: '{far}'}}\n",
        "far_by_variable": (
            f"{models}ledger: {{url: '${{LEDGER}}'}}\nlimits: {{url: '${{LIMITS}}'}}\n"
        ),
        "broken": f"""
models:
  one: {{provider: openai, model: m, apikey: {secrets["misspelt"]}}}
  two: {{provider: openai, model: m, api_key: [{secrets["in a list"]}], price: {secrets["price"]}}}
  two: {{provider: {secrets["provider"]}, model: m, api_base: "{secrets["no address"]}@x"}}
  four: {{provider: custom, model: m, api_base: "ftp://{secrets["scheme"]}:x@host"}}
ledger: {{url: "mysql://{secrets["database"]}@host/x"}}
limits: {{url: "http://:{secrets["no redis"]}@host"}}
""",
        "torn": f"models: {{one: {{api_key: {secrets['torn']}, provider: [openai\n",
    }
    found = {name: folder / f"{name}.yaml" for name in texts}
    for name, text in texts.items():
        found[name].write_text(text)
    return found


async def test_no_command_tells_a_secret(tmp_path: Path) -> None:
    """On either stream, as text or as JSON, with tracebacks on, whether it works or fails."""
    names = (
        *("key", "user", "password", "token", "variable", "hidden user", "hidden password"),
        *("ledger password", "ledger by variable", "misspelt", "in a list", "price", "provider"),
        *("no address", "scheme", "database", "torn", "echoed"),
        *("limits password", "limits by variable", "no redis"),
    )
    rng = random.Random(4)
    secrets = {name: secret(rng) for name in names}
    home = tmp_path / "home"
    async with Echoing() as provider:
        paths = write_files(tmp_path, provider.port, secrets)
        hidden = f"{secrets['hidden user']}:{secrets['hidden password']}"
        variables = {
            "ORCHESTRATOR_HOME": str(home),
            "ORCHESTRATOR_CONFIG": str(paths["path"]),
            "KEY": secrets["variable"],
            "HIDDEN_BASE": f"http://{hidden}@127.0.0.1:{provider.port}/v1",
            "LIMITS": f"redis://:{secrets['limits by variable']}@127.0.0.1:9",
            "LEDGER": f"postgresql://me:{secrets['ledger by variable']}@127.0.0.1:9/money",
        }
        said = dict[str, tuple[int, str]]()
        for commands in (COMMANDS, AFTER):
            asked = (
                output_of(
                    "-m", "orchestrator", *(w.format(**paths) for w in words), variables=variables
                )
                for words in commands.values()
            )
            said |= dict(zip(commands, await asyncio.gather(*asked), strict=True))

    for name, (_, text) in said.items():
        assert text, name
        assert not leaks(text, secrets), (name, leaks(text, secrets), text)
    for path, text in files_in(home):
        assert not leaks(text, secrets), path
    assert {name for name, (status, _) in said.items() if status == 0} >= {"models", "plan"}
    assert "AuthenticationFailed" in said["ask who tells"][1]
    assert "Redis at 127.0.0.1:9 does not answer" in said["ask"][1]
    assert said["a broken file"][0] == 2
    assert said["a file that is no YAML"][0] != 0
