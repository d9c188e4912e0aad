"""Model text is read, never obeyed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.text import bar, neutralise, one_line, program

ACTING = [chr(code) for code in (*range(9), 11, 12, *range(13, 32), *range(127, 160))]
TURNING = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def test_the_next_command_is_one_that_the_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who calls it by its path is told the path; who has it on the PATH, its name."""
    binary = tmp_path / ".venv" / "bin" / "orchestrator"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(binary)])

    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == ".venv/bin/orchestrator"
    monkeypatch.setenv("PATH", str(binary.parent))
    assert program() == "orchestrator"
    monkeypatch.setattr("sys.argv", ["somewhere/__main__.py"])
    assert program() == "orchestrator"


@pytest.mark.parametrize("character", [*ACTING, *TURNING])
def test_nothing_that_acts_on_a_terminal_gets_through(character: str) -> None:
    """Escapes repaint, carriage returns overwrite, direction controls make text lie."""
    assert neutralise(f"a{character}b", terminal=True) == "ab"


def test_a_file_keeps_what_only_a_terminal_obeys() -> None:
    """Arabic text needs its marks; a file shows nothing by itself."""
    assert neutralise("a\u200fb\r\n", terminal=False) == "a\u200fb\r\n"
    assert neutralise("a\x1b[31mb", terminal=False) == "a[31mb"


@given(st.text(st.characters()))
def test_every_text_can_be_written(text: str) -> None:
    """Half a surrogate pair is no reason to lose an answer."""
    for terminal in (True, False):
        neutralise(text, terminal=terminal).encode("utf-8")


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line(text: str, width: int) -> None:
    """What goes into a row must not break it."""
    line = one_line(text, width)

    assert len(line) <= width
    assert len(line.splitlines()) <= 1


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.integers(1, 40))
def test_a_bar_fills_its_column(start: float, length: float, whole: float, width: int) -> None:
    """Also when the figures make no sense together."""
    assert len(bar(start, length, whole, width)) == width
