"""Plots as inline SVG, and the elements that they and the page around them consist of.

``element`` escapes every text that is not ``Markup``. Opens no file.
"""

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.wording import escaped

WIDTH, HEIGHT = 400, 290  # size of a plot in SVG units; it scales with the page
LEFT, RIGHT, TOP, BOTTOM = 42, 20, 32, 44  # margins around the area of the axes
BAR_WIDTH, BAR_HEIGHT = 240, 14

Interval = Sequence[float | None] | None
Bar = tuple[str, float | None, Interval, str]  # (colour, share, interval, text)
Place = tuple[float, float]  # (x, y) in SVG units


class Markup(str):
    """Text that is HTML or SVG already, so that ``element`` does not escape it."""

    __slots__ = ()


def percent(share: float | None, digits: int = 0) -> str:
    """A share from 0 to 1 in percent; "n/a" for None."""
    return "n/a" if share is None else f"{share:.{digits}%}"


def plain(value: Any) -> str:
    """A value as text with control characters escaped; "n/a" for None."""
    return "n/a" if value is None else escaped(str(value))


def columns_of(text: str) -> int:
    """The columns that a text takes on a terminal: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(value: Any, width: int) -> str:
    """A value as text of at most ``width`` columns; an ellipsis replaces what is cut off."""
    text = whole = plain(value)
    while columns_of(text) > width - (text != whole):
        text = text[:-1]
    return text if text == whole else text + "…"


def clip_middle(value: Any, width: int) -> str:
    """A value as text of at most ``width`` columns with its end: an ellipsis replaces what is cut out before it."""
    text = end = plain(value)
    if columns_of(text) <= width:
        return text
    begin = clip(text, width // 4)
    while columns_of(begin + end) > width:
        end = end[1:]
    return begin + end


def nothing() -> Markup:
    """The paragraph in place of a plot without data."""
    return element("p", "n/a: nothing was measured for this plot.")


@dataclass(frozen=True, slots=True)
class Plane:
    """The axes of a plot: maps values to places, and draws grid and numbers."""

    xs: tuple[float, float]  # range of the horizontal axis
    ys: tuple[float, float]  # range of the vertical axis

    def at(self, x: float, y: float) -> Place:
        """The place of a point."""
        across, up = ((v - low) / (high - low) for v, (low, high) in ((x, self.xs), (y, self.ys)))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_name: str, y_name: str, x_text: Any = percent) -> Markup:
        """Grid lines, the numbers along the axes, and the axes' names."""
        parts = [
            element("text", y_name, x=0, y=13),
            element("text", x_name, x=WIDTH - RIGHT, y=HEIGHT - 6, text_anchor="end"),
        ]
        for value in ticks_of(*self.xs):
            x, y = self.at(value, self.ys[0])
            parts.append(element("text", x_text(value), x=x, y=y + 17, text_anchor="middle", class_="soft"))
        for value in ticks_of(*self.ys):
            x, y = self.at(self.xs[0], value)
            parts += [
                line((x, y), (WIDTH - RIGHT, y), "rule"),
                element("text", percent(value), x=x - 6, y=y + 4, text_anchor="end", class_="soft"),
            ]
        return joined(parts)


def bars_of(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> Markup:
    """A bar chart from 0 to 100%: each group's name, and its bars below."""
    parts, y = [], 0
    for name, bars in groups:
        parts.append(element("text", element("title", name), clip_middle(name, 48), x=0, y=y + 16))
        y += 22
        for colour, share, interval, text in bars:
            parts += [
                _bar(1, y, "track"),
                _bar(share or 0, y, colour),
                element("text", text, x=BAR_WIDTH + 8, y=y + 11.5, class_="soft"),
                *_whisker(interval, y),
            ]
            y += BAR_HEIGHT + 3
        y += 8
    told = "; ".join(f"{name}: {', '.join(text for *_, text in bars)}" for name, bars in groups)
    return plot(title, told, *parts, height=y) if groups else nothing()


def _bar(share: float, y: float, colour: str) -> Markup:
    return element("rect", x=0, y=y, width=BAR_WIDTH * share, height=BAR_HEIGHT, rx=2, class_=colour)


def _whisker(interval: Interval, y: float) -> list[Markup]:
    ends = [BAR_WIDTH * end for end in interval or () if end is not None]
    if len(ends) != 2:
        return []
    middle = y + BAR_HEIGHT / 2
    return [
        line((ends[0], middle), (ends[1], middle), "whisker"),
        *(line((x, middle - 4), (x, middle + 4), "whisker") for x in ends),
    ]


def path(plane: Plane, points: Sequence[Place]) -> list[Markup]:
    """A line through points given as values, with a dot at each."""
    places = [plane.at(x, y) for x, y in points]
    line = element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_="path")
    return [line, *(dot(place, 3, "") for place in places)]


def dot(place: Place, radius: float, about: str) -> Markup:
    """A dot; ``about`` is its tooltip, none if empty."""
    return element(
        "circle", element("title", about) if about else Markup(), cx=place[0], cy=place[1], r=radius, class_="dot"
    )


def line(one: Place, other: Place, kind: str) -> Markup:
    """A straight line; ``kind`` is its CSS class."""
    return element("line", x1=one[0], y1=one[1], x2=other[0], y2=other[1], class_=kind)


def plot(title: str, about: str, *parts: Markup, height: int = HEIGHT) -> Markup:
    """The SVG element of a plot; ``about`` describes it to those who cannot see it."""
    name = title.lower().replace(" ", "-")
    return element(
        "svg",
        element("title", title, id=name),
        element("desc", about, id=f"{name}-text"),
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_labelledby=f"{name} {name}-text",
    )


def share_range(shares: Iterable[float | None]) -> tuple[float, float]:
    """The range of an axis: 0.5 to 1 where all shares lie in it, else 0 to 1."""
    return (0.5 if all(share >= 0.5 for share in shares if share is not None) else 0), 1


def ticks_of(low: float, high: float) -> list[float]:
    """At most six ticks from ``low`` on, a round step (1, 2 or 5 times a power of ten) apart."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    ticks = [low + step * i for i in range(math.floor((high - low) / step + 1e-6) + 1)]
    return [round(tick) for tick in ticks] if step >= 1 else ticks


# ---- markup


def element(tag: str, *children: str, **attributes: Any) -> Markup:
    """An element; attributes and children that are not Markup are escaped.

    Names of attributes lose a last "_", and each other "_" becomes "-": ``class_``, ``text_anchor``.
    """
    values = (
        (name.rstrip("_").replace("_", "-"), f"{value:.1f}" if isinstance(value, float) else value)
        for name, value in attributes.items()
        if value is not None
    )
    written = "".join(f' {name}="{html.escape(plain(value))}"' for name, value in values)
    inner = joined(child if isinstance(child, Markup) else Markup(html.escape(plain(child))) for child in children)
    return Markup(f"<{tag}{written}/>" if tag in ("meta", "link") else f"<{tag}{written}>{inner}</{tag}>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("".join(parts))
