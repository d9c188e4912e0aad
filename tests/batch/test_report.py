"""The report is one page that any browser opens, with nothing from elsewhere and nothing to run."""

import hashlib
import os
import re
import shutil
import subprocess
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.batch.files import OutputError
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.batch.report import page, write_report
from orchestrator.batch.summary import Summary
from tests.batch.outcomes import TEXTS

CHARTS = ("chart-cost", "chart-latency", "chart-agreement", "chart-errors")
HOSTILE = "</title><script>alert('x')</script><img src=https://example.com/x \"' onerror=y>&\x1b"


class Read(HTMLParser):
    """A page's elements, each with its attributes; every one is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def summary_of(
    rows: int, *, names: tuple[str, ...] = ("gpt", "claude"), kind: str = "X"
) -> Summary:
    summary = Summary()
    for place in range(rows):
        failure = Failure(kind=kind, message="no") if place % 10 == 9 else None
        use = tuple(
            ModelUse(
                deployment=name, calls=1, prompt_tokens=9, cost_nanousd=10**6, elapsed_s=place % 50
            )
            for name in names
        )
        summary.add(
            Outcome(
                position=place,
                line=place + 1,
                digest="",
                status="failed" if failure else "complete",
                use=use,
                failure=failure,
                elapsed_s=0.01 + place % 50,
                agreement=place % 3 / 2,
            )
        )
    return summary


def test_a_page_has_every_chart_with_a_title_and_a_description() -> None:
    """Whoever cannot see them is told, and every figure stands in a table as well."""
    read = Read(page(summary_of(100), title="a & b", facts={"Asked": "council"}))

    ids = [attributes["id"] for _, attributes in read.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts = [attributes for tag, attributes in read.found if tag == "svg"]
    labels = [str(chart["aria-labelledby"]).split() for chart in charts]
    assert labels == [[f"{name}-t", f"{name}-d"] for name in CHARTS]
    for _, attributes in read.found:
        assert set(str(attributes.get("aria-labelledby", "cost")).split()) <= set(ids)
    assert [tag for tag, _ in read.found].count("table") == 3
    assert {"a & b", "council", "100", "$0.2", "90"} <= set(read.texts)
    assert dict(read.found)["html"] == {"lang": "en"}


def test_the_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    """No script, no picture, no font, no frame, no form, no request."""
    text = page(summary_of(3), title="t", facts={})
    read = Read(text)

    (policy,) = [
        str(attributes["content"])
        for tag, attributes in read.found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not {"script", "img", "link", "iframe", "a"} & {tag for tag, _ in read.found}
    for _, attributes in read.found:
        assert not [name for name in attributes if name in ("style", "src", "href")]
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in style
    assert "http" not in text.replace("http-equiv", "")


@settings(max_examples=15)
@given(TEXTS | st.just(HOSTILE), TEXTS | st.just(HOSTILE))
def test_whatever_things_are_called_is_text_and_nothing_else(one: str, other: str) -> None:
    """A name may come from a file, an error from a provider."""
    summary = summary_of(20, names=(one, other), kind=one)

    found = [tag for tag, _ in Read(page(summary, title=other, facts={one: other})).found]

    names = ("gpt", "gpt") if one == other else ("gpt", "claude")
    plain = Read(page(summary_of(20, names=names), title="x", facts={"y": "z"}))
    replaced = {"Rows", "Complete", "Failed", "Repeated", "Calls", "Cost"} & {one}
    assert replaced or found == [tag for tag, _ in plain.found]


def test_the_size_of_a_page_does_not_depend_on_how_many_rows_there_are() -> None:
    """It holds sums, and no row."""
    few, many = (len(page(summary_of(count), title="t", facts={})) for count in (100, 3_000))

    assert abs(many - few) < 1_000


def test_a_batch_without_rows_has_a_page() -> None:
    """With charts of nothing, which say so."""
    read = Read(page(Summary(), title="t", facts={}))

    assert [tag for tag, _ in read.found].count("svg") == 4
    assert "No row was asked." in read.texts


def test_a_report_is_put_in_place_at_once(tmp_path: Path) -> None:
    """What is there stays, unless it may be replaced; a half of a character is a `?`."""
    path = tmp_path / "report.html"
    write_report(summary_of(5), path, title="half \ud83d")

    assert "half ?" in path.read_text("utf-8")
    with pytest.raises(OutputError, match="exists already"):
        write_report(summary_of(5), path, title="t")
    write_report(summary_of(5), path, title="t", replace=True)
    assert "<h1>t</h1>" in path.read_text("utf-8")


def test_a_browser_opens_the_page_without_a_word_of_complaint(tmp_path: Path) -> None:
    """From disk, with no network: all charts are drawn and the console stays empty."""
    browser = shutil.which("chromium")
    if browser is None:
        assert not os.environ.get("CI"), "chromium is missing; .ci/run installs it"
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    path = tmp_path / "report.html"
    write_report(summary_of(200, names=("gpt", HOSTILE)), path, title=HOSTILE)

    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--proxy-server=127.0.0.1:9",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=1000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert "CONSOLE" not in done.stderr
    for chart in CHARTS:
        assert f'aria-labelledby="{chart}-t {chart}-d"' in done.stdout
    assert done.stdout.count('class="bar"') == path.read_text("utf-8").count('class="bar"') > 10
    assert "<script" not in done.stdout
