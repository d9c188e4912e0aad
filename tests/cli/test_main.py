"""The command itself: its table, its suggestions, its exit codes, what it does not import."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import Result

from adapters import AuthenticationFailed, RateLimited
from adapters.config import MissingVariable
from orchestrator import errors
from orchestrator.cli import COMMANDS, main, module_of
from orchestrator.cli.failures import explain

Call = Callable[..., Result]
HEAVY = ("litellm", "rich", "ruamel", "jinja2", "openai", "aiohttp", "asyncio")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_row_of_the_table_is_a_command_that_says_the_same(name: str) -> None:
    """`orchestrator --help` imports no command, so its lines are written twice."""
    command = importlib.import_module(module_of(name)).command

    assert command.get_short_help_str(limit=200).rstrip(".") == COMMANDS[name].rstrip(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_a_purpose_and_an_example(call: Call, name: str) -> None:
    """A help page that only lists options helps nobody."""
    result = call(name, "--help")

    assert result.exit_code == 0
    assert f"orchestrator {name}" in result.stdout.split("Example")[1]
    assert "  -" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_help_imports_nothing_heavy() -> None:
    """A help page must appear at once; click alone is enough for it."""
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        "try: main(['--help'], prog_name='orchestrator')\n"
        f"except SystemExit: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"


def test_an_unknown_command_is_refused_with_the_one_that_was_meant(call: Call) -> None:
    """A slip of the finger costs one look, not a search."""
    result = call("aks", "hello")

    assert result.exit_code == 2
    assert "No such command 'aks'; did you mean 'ask'?" in result.stderr
    assert result.stdout == ""


def test_an_unknown_option_is_refused_with_the_one_that_was_meant(call: Call) -> None:
    """The same for options."""
    result = call("ask", "hello", "--pannel", "council")

    assert result.exit_code == 2
    assert "--panel" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_each_shell(call: Call, shell: str) -> None:
    """The script is click's own, under the name that is installed."""
    result = call("--completion", shell)

    assert result.exit_code == 0
    assert "_ORCHESTRATOR_COMPLETE" in result.stdout


def test_completing_commands_imports_none_of_them() -> None:
    """Completion runs at every press of the tabulator key."""
    context = click.Context(main, info_name="orchestrator")
    found = {item.value: item.help for item in main.shell_complete(context, "s")}

    assert found == {name: line for name, line in COMMANDS.items() if name.startswith("s")}


def test_the_version_is_printed(call: Call) -> None:
    """Installed or run from its source."""
    assert call("--version").stdout.startswith("orchestrator")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.ConfigError(["a.yaml:1:2: no"]), 2, "a.yaml:1:2: no"),
        (errors.UnknownModel("Unknown model 'x'"), 2, "Unknown model 'x'"),
        (errors.InvalidRun("contradiction"), 2, "contradiction"),
        (errors.PatternError(["a.yaml:1:1: x", "b.yaml:1:1: y"]), 2, "1:1: x\nb.yaml:1:1: y"),
        (RateLimited("\x1b[2Jslow", provider="openai"), 1, "openai: [2Jslow"),
        (errors.QuorumNotMet("gpt: AuthenticationFailed: no key"), 1, "`orchestrator check`"),
        (OSError(28, "No space left on device"), 1, "no space left on device"),
        (errors.DeadlineExceeded("120 s are over"), 1, "--max-time"),
        (errors.BudgetExceeded("$0.05 is all there is"), 3, "`orchestrator plan`"),
        (errors.UnknownPrice("write price: free"), 3, "write price: free"),
        (errors.BreakerOpen("gpt is left alone"), 1, "`orchestrator models`"),
        (errors.RateExceeded("gpt has used up its requests"), 1, "--max-time"),
        (errors.LedgerError("the ledger is locked"), 1, "ledger.url"),
        (errors.CacheError("the cache cannot be used"), 1, "cache.folder"),
        (errors.JournalError("x cannot be written: disk full"), 1, "ORCHESTRATOR_HOME"),
        (errors.JournalError("x is in use"), 1, "x is in use"),
        (MissingVariable("OPENAI_API_KEY"), 2, "OPENAI_API_KEY"),
        (
            AuthenticationFailed("bad key", provider="openai", deployment="gpt"),
            1,
            "gpt: bad key; `orchestrator check`",
        ),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), 2, "x.yaml: no such file"),
        (ConnectionResetError("reset"), 1, "reset"),
        (KeyError("oops"), 1, "unexpected KeyError"),
    ],
)
def test_an_error_says_what_to_do_and_has_its_exit_code(
    error: Exception, code: int, said: str
) -> None:
    """Scripts branch on the code, people read the line."""
    failure = explain(error)

    assert failure.exit_code == code
    assert said in failure.message


def fail_with(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `orchestrator ask` raise."""

    def plant(error: BaseException) -> None:
        module: Any = importlib.import_module("orchestrator.cli.ask")
        monkeypatch.setattr(module, "command", fail_with(error))

    return plant


def test_an_error_is_one_line_without_a_traceback(
    call: Call, failing: Callable[[BaseException], None]
) -> None:
    """A traceback tells a user nothing but that somebody else made a mistake."""
    failing(errors.InvalidRun("two members are called 'gpt'"))
    result = call("ask")

    assert result.exit_code == 2
    assert result.stderr == "Error: two members are called 'gpt'\n"


def test_a_hint_about_keys_is_kept_for_trouble_with_keys() -> None:
    """A stream that broke is not mended by another key."""
    assert explain(errors.QuorumNotMet("gpt: StreamBroken")).message == "gpt: StreamBroken"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_ends_with_130(
    call: Call, failing: Callable[[BaseException], None], interruption: BaseException
) -> None:
    """128 + SIGINT, as shells expect it."""
    failing(interruption)
    result = call("ask")

    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted."


def test_debugging_shows_the_error_itself(
    call: Call, failing: Callable[[BaseException], None]
) -> None:
    """Who asks for the traceback gets it."""
    failing(KeyError("oops"))

    assert isinstance(call("--debug", "ask").exception, KeyError)
    assert isinstance(call("ask", ORCHESTRATOR_DEBUG="1").exception, KeyError)
