"""`keys`: a key is shown once on stdout, listed without what is secret, and taken back."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.server.keys import KeyFile, keys_file

Call = Callable[..., Result]


def test_the_key_alone_is_printed_on_stdout(call: Call) -> None:
    """`key=$(orchestrator keys create acme)` is all it takes; the rest is on stderr."""
    result = call("keys", "create", "acme")

    found = KeyFile(keys_file()).find(result.stdout.removesuffix("\n"))

    assert result.exit_code == 0
    assert found is not None
    assert found.tenant == "acme"
    assert f"key {found.id} of 'acme'; kept in {keys_file()}" in result.stderr
    assert result.stdout.strip() not in result.stderr


def test_limits_are_kept_with_the_key(call: Call, tmp_path: Path) -> None:
    """In the file that was named, as they were given."""
    path = tmp_path / "team.json"
    words = (
        *("--models", "fast, */council", "--rpm", "60", "--tpm", "90000"),
        *("--usd-per-day", "$2.50", "--streams", "5"),
    )

    told = json.loads(call("keys", "create", "acme", *words, "--json", "--keys", str(path)).stdout)

    assert KeyFile(path).find(told.pop("key")) is not None
    assert {name: told[name] for name in told if name not in {"id", "created"}} == {
        "name": "acme",
        "models": ["fast", "*/council"],
        "requests_per_minute": 60,
        "tokens_per_minute": 90000,
        "money_usd_per_day": "2.50",
        "open_streams": 5,
        "revoked": None,
    }
    assert not keys_file().exists()


def test_the_list_shows_limits_and_neither_keys_nor_digests(call: Call) -> None:
    """As a table for people and as JSON for programs."""
    key = call("keys", "create", "acme", "--rpm", "1200", "--usd-per-day", "5").stdout.strip()
    record = KeyFile(keys_file()).list()[0]

    table, listed = call("keys", "list"), call("keys", "list", "--json")

    assert table.exit_code == listed.exit_code == 0
    assert [record.id, "acme", "any", "1,200", "-", "5", "100"] == (
        table.stdout.splitlines()[1].split()[:7]
    )
    (told,) = json.loads(listed.stdout)
    assert (told["id"], told["name"], told["requests_per_minute"]) == (record.id, "acme", 1200)
    for shown in (table.output, listed.output):
        assert key.split("-", 2)[2][:8] not in shown
        assert record.sha256[:8] not in shown


def test_a_list_without_keys_says_how_to_make_one(call: Call) -> None:
    """And makes no file by looking."""
    result = call("keys", "list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "keys create NAME" in result.stderr
    assert json.loads(call("keys", "list", "--json").stdout) == []
    assert not keys_file().exists()


def test_a_revoked_key_stays_in_the_list_and_lets_nobody_in(call: Call) -> None:
    """Its id is what it is called by."""
    key = call("keys", "create", "acme").stdout.strip()
    name = key.split("-")[1]

    result = call("keys", "revoke", name)

    assert (result.exit_code, result.stdout) == (0, "")
    assert f"key {name} of 'acme' is revoked" in result.stderr
    assert KeyFile(keys_file()).find(key) is None
    assert json.loads(call("keys", "list", "--json").stdout)[0]["revoked"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("revoke", "nobody"), "There is no key 'nobody'; `orchestrator keys list`"),
        (("create", ""), "NAME is one line of 1 to 256 visible characters"),
        (("create", "ac\x1bme"), "NAME is one line of 1 to 256 visible characters"),
        (("create", "acme", "--rpm", "0"), "--rpm"),
        (("create", "acme", "--tpm", "many"), "--tpm"),
        (("create", "acme", "--usd-per-day", "-1"), "'-1' is no amount of US dollars"),
        (("create", "acme", "--usd-per-day", "1e30"), "money_usd_per_day"),
        (("create", "acme", "--models", "fast,,gpt"), "has an empty name"),
        (("create",), "NAME"),
    ],
)
def test_a_slip_is_one_error_and_changes_nothing(
    call: Call, words: tuple[str, ...], said: str
) -> None:
    """Exit code 2, nothing on stdout, no key that nobody has seen."""
    result = call("keys", *words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "\x1b" not in result.stderr
    assert KeyFile(keys_file()).list() == []


@pytest.mark.parametrize("words", [("list",), ("create", "beta"), ("revoke", "0" * 12)])
@pytest.mark.parametrize("damage", ["open", "broken"])
def test_a_file_that_cannot_be_trusted_is_one_error(
    call: Call, words: tuple[str, ...], damage: str
) -> None:
    """It is left as it is, for whoever mends it."""
    call("keys", "create", "acme")
    if damage == "open":
        keys_file().chmod(0o644)
    else:
        keys_file().write_text("[{]")
    before = keys_file().read_bytes()

    result = call("keys", *words)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {keys_file()} ")
    assert result.stderr.count("\n") == 1
    assert keys_file().read_bytes() == before


def test_creators_in_processes_of_their_own_lose_nothing(tmp_path: Path) -> None:
    """The lock holds between processes, not only between threads."""
    path = tmp_path / "keys.json"
    words = (sys.executable, "-m", "orchestrator", "keys", "create", "acme", "--keys", str(path))
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    made = [process.communicate(timeout=60)[0].strip() for process in running]

    assert [process.returncode for process in running] == [0] * 3
    assert all(KeyFile(path).find(key) for key in made)
