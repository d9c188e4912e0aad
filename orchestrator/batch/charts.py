"""Draw bars and columns as SVG that a page can hold, with a title and a description for readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 220
LABEL, VALUE, ROW = 190, 110, 26  # the widths of a bar's texts, and the height of a bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One value.

    Attributes:
        label: What it is of.
        value: How large.
        told: The same for people.
    """

    label: str
    value: float
    told: str


def bars(name: str, title: str, told: Sequence[Bar]) -> str:
    """Bars from left to right, one below the other, each with its label and value.

    Args:
        name: What ids on the page begin with.
        title: What is drawn.
        told: The values; none is negative.
    """
    most = max((bar.value for bar in told), default=0) or 1
    room = WIDTH - LABEL - VALUE
    drawn = [
        f'<text class="label" x="{LABEL - 8}" y="{top + 17}">{escape(_cut(bar.label))}</text>'
        f'<rect class="bar" x="{LABEL}" y="{top + 4}" height="{ROW - 8}" rx="2" '
        f'width="{max(1.0, room * bar.value / most):.1f}"><title>{_said(bar)}</title></rect>'
        f'<text class="value" x="{LABEL + room * bar.value / most + 8:.1f}" y="{top + 17}">'
        f"{escape(bar.told)}</text>"
        for top, bar in zip(range(0, ROW * len(told), ROW), told, strict=True)
    ]
    return _svg(name, title, told, drawn, height=ROW * max(len(told), 1))


def columns(name: str, title: str, told: Sequence[Bar], *, below: Sequence[str]) -> str:
    """Columns side by side.

    Args:
        name: What ids on the page begin with.
        title: What is drawn.
        told: The values; none is negative.
        below: Texts along the axis, evenly spread from its beginning to its end.
    """
    most = max((bar.value for bar in told), default=0) or 1
    step = WIDTH / max(len(told), 1)
    room = HEIGHT - 30
    drawn = [
        f'<rect class="bar" x="{place * step + 1:.1f}" y="{room - room * bar.value / most:.1f}" '
        f'width="{max(step - 2, 1):.1f}" height="{room * bar.value / most:.1f}">'
        f"<title>{_said(bar)}</title></rect>"
        for place, bar in enumerate(told)
        if bar.value
    ]
    drawn.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{room}" y2="{room}"/>')
    last = max(len(below) - 1, 1)
    for place, text in enumerate(below):
        side = "first" if place == 0 else "last" if place == last else "between"
        drawn.append(
            f'<text class="tick {side}" x="{WIDTH * place / last:.1f}" y="{HEIGHT - 8}">'
            f"{escape(text)}</text>"
        )
    return _svg(name, title, told, drawn, height=HEIGHT)


def _svg(name: str, title: str, told: Sequence[Bar], drawn: Sequence[str], *, height: int) -> str:
    described = "; ".join(f"{bar.label}: {bar.told}" for bar in told if bar.value) or "nothing"
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height}" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(described)}</desc>{"".join(drawn)}</svg>'
    )


def _said(bar: Bar) -> str:
    return escape(f"{bar.label}: {bar.told}")


def _cut(label: str) -> str:
    return label if len(label) <= 26 else f"{label[:25]}…"
