"""Claims about reading YAML: where things stand, what is refused, and that nothing hangs."""

import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.yaml_source import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    MAX_PROBLEMS,
    YamlSource,
    closest,
    decode,
    looks_secret,
    read_file,
    read_yaml,
    resolve,
    suggestion,
)


def problems_of(text: str) -> list[str]:
    try:
        source = read_yaml(text, "f")
    except ConfigError as error:
        return list(error.problems)
    return source.lines(source.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["f:1:1: The file is empty; write at least one key and its value"]),
        ("# only\n", ["f:1:1: The file is empty; write at least one key and its value"]),
        ("a:\n\tb: 1\n", ["f:2:1: A tab stands where YAML wants spaces; write spaces instead"]),
        ("a: [1, 2\nb: c", ["f:2:2: The list opened at 1:4 is not closed; add ',' or ']'"]),
        ("a: {b", ["f:1:6: The mapping opened at 1:4 is not closed; add ',' or '}'"]),
        ("a: 'x", ["f:1:6: The quote opened at 1:4 is not closed; close it"]),
        (
            "a: b: c",
            [
                (
                    "f:1:5: A ':' is not expected here; put the value in quotes,"
                    " or correct the indentation"
                )
            ],
        ),
        ("a: 1\nb\nc: 1\n", ["f:3:1: A key without ':'; write 'key: value'"]),
        (
            "a: 1\n  b: 1\n",
            [
                (
                    "f:2:4: A ':' is not expected here; put the value in quotes,"
                    " or correct the indentation"
                )
            ],
        ),
        (
            "a: - b",
            ["f:1:4: A list cannot begin here; put '- ' on a line of its own below the key"],
        ),
        (
            "- a\nb: c",
            ["f:2:1: This line does not line up with the ones above; correct the indentation"],
        ),
        ("a: ]", ["f:1:4: A value is missing here, or a bracket is not closed"]),
        ("a: @b", ["f:1:4: A value cannot begin with this character; put the value in quotes"]),
        ("a: &", ["f:1:5: A value that begins with '&' or '*' must be in quotes"]),
        (
            'a: "\\q"',
            [
                (
                    "f:1:6: Unknown escape inside double quotes; use single quotes,"
                    " or write \\\\ for a backslash"
                )
            ],
        ),
        ('a: "\\ud800"', ["f:1:4: An escape for half a character; write the character itself"]),
        (
            'a: "\\U99999999"',
            ["f:1:1: YAML cannot read what follows; check quotes and escapes"],
        ),
        ("a: b\x01", ["f:1:5: Character U+0001 is not allowed in YAML; remove it"]),
        ("a: b\ud800", ["f:1:5: Character U+D800 is not allowed in YAML; remove it"]),
        ("%YAML 1.1\n---\na: 1", ["f:1:1: Only YAML 1.2 is read; remove the %YAML line"]),
        ("%YAML 2.0\n---\na: 1", ["f:1:1: Only YAML 1.2 is read; remove the %YAML line"]),
        ("a: 1\n---\nb: 1", ["f:2:1: A second document begins here; keep one to a file"]),
        ("'a' 'b'", ["f:1:5: The document has ended above; correct the indentation of this line"]),
        (
            "a: !x!y z",
            ["f:1:4: Tags (!name) are not supported; remove it, or put the value in quotes"],
        ),
        (
            "a: !!python/object/apply:os.system [id]",
            ["f:1:4: Tags (!name) are not supported; remove it, or put the value in quotes"],
        ),
        (
            "a: &x {b: 1}\nc: *x\nd: {<<: *x}",
            [
                (
                    "f:1:4: Anchors (&name) are not supported;"
                    " remove this one and write its value out"
                ),
                "f:2:4: Aliases (*name) are not supported; write the value out here",
                "f:3:5: Merge keys (<<) are not supported; write the keys out here",
                "f:3:9: Aliases (*name) are not supported; write the value out here",
            ],
        ),
        ("? [a]\n: b\n", ["f:1:3: A key must be text; write 'key: value'"]),
        (": b\n", ["f:1:1: A key must be text; write 'key: value'"]),
        (
            "a: 1\nb: 2\na: 3\n'b': 4\n",
            [
                "f:3:1: Key 'a' is already at 1:1; remove or rename one of them",
                "f:4:1: Key 'b' is already at 2:1; remove or rename one of them",
            ],
        ),
        (
            "sk-abcdefgh: 1\nsk-abcdefgh: 2\n",
            ["f:2:1: Key (not shown) is already at 1:1; remove or rename one of them"],
        ),
        ("[" * 40, ["f:1:33: Nested deeper than 32 levels; make it flatter"]),
        ("- " * 40, ["f:1:67: Nested deeper than 32 levels; make it flatter"]),
        (
            "x" * (MAX_BYTES + 1),
            [
                (
                    "f:1:1: The file has more than 1,000,000 bytes;"
                    " split it or remove what is not needed"
                )
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(text: str, expected: list[str]) -> None:
    """Each fault has its exact message, with the place where an editor would jump to."""
    assert problems_of(text) == expected


def test_values_are_those_of_yaml_1_2() -> None:
    """`no`, versions and times are what they look like; only 1.2's own words mean something."""
    text = "[no, yes, on, 12:30:45, 1.10, '1.10', 007, 0o17, 0x1F, 1_000, ~, true, 1e3, 2026-01-01]"

    assert read_yaml(text).plain() == [
        *("no", "yes", "on", "12:30:45", 1.1, "1.10", 7, 15, 31, "1_000"),
        *(None, True, 1000.0, "2026-01-01"),
    ]


def test_numbers_beyond_all_measure_become_infinite() -> None:
    """A number of a thousand digits costs nothing and is refused later, as infinite."""
    assert resolve("9" * 5000) == math.inf
    assert resolve("-.inf") == -math.inf
    assert math.isnan(float(resolve(".nan") or 0))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_positions_are_right_whatever_ends_the_lines(ending: str) -> None:
    """Line and column are an editor's: from 1, a tab is one column, a line break is one line."""
    lines = ("# é", "a:   1", "bé:", '  - "x"', '  - {"\t": "\t", c: 2}', "")
    source = read_yaml(ending.join(lines), "f")

    assert source.position(("a",)) == (2, 6)
    assert source.position(("bé",), key=True) == (3, 1)
    assert source.position(("bé", 0)) == (4, 5)
    assert source.position(("bé", 1, "c")) == (5, 19)
    assert source.position(("bé", 1, "c"), key=True) == (5, 16)


def test_a_path_that_leads_nowhere_ends_at_the_nearest_parent() -> None:
    """What is missing is reported where it should have been."""
    source = read_yaml("a:\n  b: 1\n", "f")

    assert source.position(("a", "x", "y")) == (2, 3)
    assert source.position(("a", "b", "c")) == (2, 6)


def test_a_byte_order_mark_counts_for_nothing() -> None:
    """Files from Windows read the same, columns too."""
    assert decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"
    assert read_yaml("\ufeffa: 1").position(("a",), key=True) == (1, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: 1\nb: \xe9\n", "f:2:4: Byte 0xE9 is not UTF-8; save it as UTF-8"),
        ("a: 1".encode("utf-16"), "f:1:1: The file is UTF-16; save it as UTF-8"),
        (
            b"\xc3" * (MAX_BYTES + 1),
            "f:1:1: The file has more than 1,000,000 bytes; split it or remove what is not needed",
        ),
    ],
)
def test_bytes_that_are_no_utf_8_are_named(content: bytes, expected: str) -> None:
    """The byte and its place are given, not the text around it."""
    with pytest.raises(ConfigError) as caught:
        decode(content, "f")

    assert caught.value.problems == (expected,)


def test_a_file_that_cannot_be_read_is_one_clear_problem(tmp_path: Path) -> None:
    """Missing, a folder, below a file, no name at all: each says what it is."""
    (tmp_path / "file").write_text("a: 1")
    expected = {
        tmp_path / "none.yaml": "There is no such file; check the path",
        tmp_path: "This is a folder; name the file inside it",
        tmp_path / "file" / "x": "There is no such file; check the path",
        Path("a\0b"): "This is no file name; check the path",
    }

    for path, message in expected.items():
        with pytest.raises(ConfigError) as caught:
            read_file(path)
        assert caught.value.problems == (f"{path}:1:1: {message}",)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "denied"), "This file may not be read; change its permissions"),
        (OSError(5, "Input/output error"), "This file cannot be read: Input/output error"),
    ],
)
def test_a_file_that_the_system_withholds_is_one_clear_problem(
    error: OSError, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions and broken disks are said in a line, too."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError) as caught:
        read_file(Path("c.yaml"))

    assert caught.value.problems == (f"c.yaml:1:1: {message}",)


def test_alias_bombs_are_refused_before_they_grow() -> None:
    """Nine levels of nine aliases would be 9**9 values; it takes milliseconds to refuse them."""
    read_yaml("a: 1")  # ruamel.yaml is loaded
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]

    elapsed_s = []
    for _ in range(3):
        started = time.process_time()
        problems = problems_of("\n".join(lines))
        elapsed_s.append(time.process_time() - started)

        assert len(problems) == 91
    assert min(elapsed_s) < 0.05  # measured: 0.01 s


@pytest.mark.parametrize(
    "text",
    ["[" * 900_000, "{" * 900_000, "[\n" * 400_000, "- " * 400_000, "{a: " * 200_000],
    ids=["lists", "mappings", "lines", "dashes", "keys"],
)
def test_deep_nesting_costs_next_to_nothing(text: str) -> None:
    """A megabyte of brackets is refused at the 33rd."""
    started = time.process_time()

    assert "Nested deeper" in problems_of(text)[0]
    assert time.process_time() - started < 10  # measured: 0.1 s; without the limit, hours


def test_the_number_of_values_is_limited() -> None:
    """A file of a hundred thousand values is refused instead of read for a minute."""
    assert problems_of(f"[{'a,' * MAX_NODES}]") == [
        f"f:1:{2 * MAX_NODES}: The file has more than 20,000 values; remove what is not needed"
    ]


def test_the_number_of_problems_is_limited() -> None:
    """A thousand repeated keys give a hundred lines and a last one that says so."""
    problems = problems_of("a: 1\n" * 1000)

    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1] == "f:101:1: There are more problems; fix these"


def test_nesting_up_to_the_limit_is_read() -> None:
    """The limit is where it says it is."""
    assert read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abc",
        "AIzaSyD-abc",
        "eyJhbGciOi",
        "Bearer abc",
        "0123456789abcdef0123456789abcdef",
        "3f2b8c1e-1a2b-4c3d-9e8f-0a1b2c3d4e5f",
        "qL7vXz/9Kd+3Fj==",
        "http://user:word@host",
        "two\nlines",
        "\x1b[31m",
        "x" * 65,
    ],
)
def test_what_could_be_a_secret_is_not_shown(text: str) -> None:
    """Keys of the known forms, long random runs, addresses, and what would upset a terminal."""
    assert looks_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "gpt-5-mini",
        "claude-haiku-4-5-20251001",
        "command-a-03-2025",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "gemini-2.5-flash",
        "qwen2.5-coder:32b",
        "fallback_synthesizers",
    ],
)
def test_names_and_model_ids_are_shown(text: str) -> None:
    """A message without the wrong name in it would help nobody."""
    assert not looks_secret(text)


def test_values_that_stand_where_secrets_do_are_shown_nowhere() -> None:
    """A short password would pass for a name; that it is somebody's api_key says what it is."""
    source = read_yaml("api_key: hunter2\napi_base: http://me:tiger@host\nmax_tokens: 1234567\n")

    assert source.quote_value("hunter2") == "(not shown)"
    assert source.quote_key("my-hunter2-panel") == "(not shown)"
    assert source.quote_value("me:tiger") == "(not shown)"
    assert source.quote_value("1234567") == "'1234567'"
    assert source.quote_value("two words") == "(not shown)"
    assert source.quote_key("two words") == "'two words'"


def test_suggestions_ignore_case_and_strangers() -> None:
    """Close names are suggested as they are written; others are not."""
    assert suggestion("OPNAI", ["openai", "google"]) == ", did you mean 'openai'?"
    assert suggestion("zzz", ["openai", "google"]) == ""
    assert closest("claud", ["Claude"]) == "Claude"
    assert closest("x" * 100_000, ["x" * 99_999]) is None


@given(
    st.text(
        alphabet=st.sampled_from("ab01:-?[]{}&*!|>'\"%@`#,.~\\xu \n\t\r\ufeff\x85"), max_size=60
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the text, the outcome is a source or a ConfigError whose lines have a place."""
    try:
        source: YamlSource = read_yaml(text, "f")
    except ConfigError as error:
        lines = list(error.problems)
    else:
        lines = source.lines(source.problems)

    for line in lines:
        _, row, column, message = line.split(":", 3)
        assert int(row) >= 1
        assert int(column) >= 1
        assert message.startswith(" ")


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    """No file content does anything but decode or raise ConfigError."""
    try:
        text = decode(content, "f")
    except ConfigError as error:
        text, problems = "", error.problems
    else:
        problems = ()

    assert len(problems) == 1 or text.encode() == content.removeprefix(b"\xef\xbb\xbf")
