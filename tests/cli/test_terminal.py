"""What only a real process shows: a live terminal, Ctrl-C, a pipe that closes, the time to help."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="pseudo-terminals are for POSIX systems")

HERE = Path(__file__).parent
PATIENCE_S = 20

# The command with an engine that replays hand-made events, each after a pause. At the event
# number WAIT_AT it waits until it is told to stop.
REPLAYING = f"""
import asyncio, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("made", {str(HERE / "conftest.py")!r})
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
from orchestrator.cli import main, setting

if os.isatty(0):  # so that a typed Ctrl-C reaches this session
    import fcntl, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

class Engine(made.Replay):
    async def before(self, event):
        try:
            if self.events.index(event) == int(os.environ.get("WAIT_AT", -1)):
                await asyncio.sleep(60)
            await asyncio.sleep(float(os.environ.get("PAUSE", 0)))
        except asyncio.CancelledError:
            print("upstream closed", file=sys.stderr)
            raise

content = os.environ.get("CONTENT", "Because of Rayleigh scattering.")
response = made.make_response(made.make_receipt(content=content))
setting.make_orchestrator = lambda config: Engine(made.make_events(response))
main(prog_name="orchestrator")
"""


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": "100",
        "ORCHESTRATOR_CONFIG": more.pop("config"),
        **more,
    }


class Terminal:
    """A command that believes it is talking to a person."""

    def __init__(self, words: list[str], **more: str) -> None:
        self.master, follower = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", REPLAYING, *words],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment(**more),
            start_new_session=True,
        )
        os.close(follower)
        self.seen = ""
        self.read = 0

    def read_until(self, wanted: str | None) -> None:
        """Read until something more is seen, or (None) until the command has ended."""
        ends = time.monotonic() + PATIENCE_S
        while wanted is None or wanted not in self.seen[self.read :]:
            assert time.monotonic() < ends, f"{wanted!r} never came: {self.seen[-400:]}"
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # how Linux says that the other end is closed
                piece = b""
            if not piece:
                assert wanted is None, f"{wanted!r} never came: {self.seen[-400:]}"
                return
            self.seen += piece.decode()
        self.read = self.seen.index(wanted, self.read) + len(wanted)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        self.read_until(None)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self.master)


Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(team: Path) -> Iterator[Open]:
    """Start commands on terminals of their own; what still runs afterwards is ended."""
    opened: list[Terminal] = []

    def start(*words: str, **more: str) -> Terminal:
        opened.append(Terminal(list(words), config=str(team), **more))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_a_terminal_sees_members_live_and_then_the_answer(open_terminal: Open) -> None:
    """The board redraws itself; the answer follows below it, and the closing line last."""
    terminal = open_terminal("ask", "Why is the sky blue?", "-m", "council", PAUSE="0.03")
    code = terminal.end()

    assert code == 0
    assert "\x1b[?25l" in terminal.seen
    assert "council · compare · 3 members" in terminal.seen
    assert " · 2 calls, about $0.01" in terminal.seen
    assert "gemini" in terminal.seen
    after = terminal.seen.rpartition("\x1b[?25h")[2]
    assert after.split("\r\n")[0] == "Because of Rayleigh scattering."
    assert "orchestrator show 0001" in after


def test_control_c_closes_the_upstream_and_ends_with_130(open_terminal: Open) -> None:
    """The key itself, on a terminal."""
    terminal = open_terminal("ask", "hi", WAIT_AT="6")
    terminal.read_until("waiting")
    terminal.type("\x03")

    assert terminal.end() == 130
    assert "upstream closed" in terminal.seen
    assert "Interrupted; `orchestrator ask --resume 0001` goes on with it" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert "\x1b[?25h" in terminal.seen


def test_a_silent_stdin_is_not_waited_for_silently(team: Path) -> None:
    """A forgotten pipe looks like a hang; the note says what is waited for."""
    process = subprocess.Popen(
        [sys.executable, "-c", REPLAYING, "ask", "hi", "-q"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(config=str(team)),
    )
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        said = process.stderr.readline()
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0

    assert said.startswith("Note: reading stdin")


def test_an_interrupt_signal_ends_with_130(team: Path) -> None:
    """The same without a terminal, as a supervisor would send it."""
    process = subprocess.Popen(
        [sys.executable, "-c", REPLAYING, "ask", "hi"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(config=str(team), WAIT_AT="9"),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "claude failed" in line:
            break
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert out == ""
    assert rest == (
        "upstream closed\nInterrupted; `orchestrator ask --resume 0001` goes on with it\n"
    )


def test_an_interrupted_start_ends_at_once(team: Path, tmp_path: Path) -> None:
    """Whoever presses Ctrl-C does not want to wait until litellm is imported."""
    slow = tmp_path / "litellm"
    slow.mkdir()
    (slow / "__init__.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "ask", "hi", "-m", "local"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(config=str(team), PYTHONPATH=str(tmp_path)),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert said.splitlines()[-1] == "Interrupted."


def test_a_closed_pipe_is_no_accident(team: Path) -> None:
    """`orchestrator ask ... | head -1`: no traceback, and the receipt is there."""
    process = subprocess.Popen(
        [sys.executable, "-c", REPLAYING, "ask", "hi", "-q"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(config=str(team), CONTENT="x" * 50_000),
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    process.wait(PATIENCE_S)

    assert "Traceback" not in said
    assert "Exception" not in said
    assert (Path(os.environ["ORCHESTRATOR_HOME"]) / "runs" / "run-0001.jsonl").is_file()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_accident(team: Path, closed: str) -> None:
    """A supervisor may start a command without any; the receipt is there all the same."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", REPLAYING, "ask", "hi"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(config=str(team)),
    )

    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert (Path(os.environ["ORCHESTRATOR_HOME"]) / "runs" / "run-0001.jsonl").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
def test_a_full_disk_does_not_lose_the_answer(team: Path) -> None:
    """Exit code 1, and the way to the answer."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", REPLAYING, "ask", "hi", "-q"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(config=str(team)),
        )

    assert done.returncode == 1
    assert done.stderr == (
        "Error: the answer cannot be written: no space left on device; "
        "`orchestrator show 0001` has it\n"
    )


def test_a_conversation_on_a_terminal(open_terminal: Open) -> None:
    """Ask, cancel, go on, leave by Ctrl-C at the prompt; the keyboard's history is kept."""
    terminal = open_terminal("chat", "-m", "council")
    terminal.read_until("> ")
    terminal.type("hello\r")
    terminal.read_until("orchestrator show 0001")
    terminal.read_until("> ")
    terminal.type("/modles\r")
    terminal.read_until("did you mean '/models'?")
    terminal.read_until("> ")
    # Python's prompt can miss a signal in the instant before it begins to wait: press again.
    terminal.type("\x03")
    try:
        terminal.process.wait(5)
    except subprocess.TimeoutExpired:
        terminal.type("\x03")

    assert terminal.end() == 0
    assert "Because of Rayleigh scattering." in terminal.seen
    assert "Traceback" not in terminal.seen
    history = Path(os.environ["ORCHESTRATOR_HOME"]) / "chat_history"
    assert history.read_text().splitlines()[-2:] == ["hello", "/modles"]
    assert history.stat().st_mode & 0o077 == 0


def test_control_c_during_an_answer_takes_back_the_turn_only(open_terminal: Open) -> None:
    """The prompt comes back."""
    terminal = open_terminal("chat", WAIT_AT="6")
    terminal.read_until("> ")
    terminal.type("hello\r")
    terminal.read_until("waiting")
    terminal.type("\x03")
    terminal.read_until("Cancelled")
    terminal.read_until("> ")
    terminal.type("/history\r")
    terminal.read_until("nothing was said yet")
    terminal.read_until("> ")
    terminal.type("\x04")

    assert terminal.end() == 0


def test_help_is_there_at_once() -> None:
    """Not slower than twice the two libraries that everything needs; the best of some, in turn."""

    def seconds(*words: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    libraries, helped = [], []
    for _ in range(7):
        libraries.append(seconds("-c", "import click, pydantic"))
        helped.append(seconds("-m", "orchestrator", "--help"))

    assert min(helped) <= 2 * min(libraries), (helped, libraries)
