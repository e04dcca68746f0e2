"""Writes the drawing and the table of a sweep or a scaling curve to one file that needs no network: HTML or SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nebula.errors import BadInput
from nebula.report.outcome_rows import OutcomeRow, columns
from nebula.report.svg import rect
from nebula.whole_file import write_whole

KINDS = (".html", ".svg")
FONT = 'svg { font-family: "Noto Sans", "DejaVu Sans", sans-serif; }\n'


def check_kind(path: Path) -> None:
    """Makes sure that a drawing can be written there.

    Raises:
        BadInput: the name ends neither with .html nor with .svg.
    """
    if path.suffix.lower() not in KINDS:
        raise BadInput(f"--plot {path}: the name must end with {' or '.join(KINDS)}")


def write_plot(path: Path, svg: str, rows: Sequence[OutcomeRow], title: str, note: str) -> None:
    """Writes the drawing alone (.svg), or a page with it and the table (.html)."""
    svg_alone = path.suffix.lower() == ".svg"
    write_whole(path, standalone(svg) if svg_alone else outcome_page(svg, rows, title, note))


def standalone(svg: str) -> str:
    """A drawing as a file of its own: with its name space, the style of the report and a ground to stand on.

    Colours are those of the page on white, written out: viewers of pictures know no CSS variables.
    """
    css = _css()
    colours = dict(re.findall(r"--([\w-]+):\s*([^;]+);", css.partition("}")[0]))
    style = re.search(r"^\.drawing \{.*?(?=^@media)", css, re.DOTALL | re.MULTILINE)
    assert style is not None, "page.css has no rules for drawings"
    head, _, rest = svg.partition(">")
    ground = rect(0, 0, "100%", "100%", style="fill:var(--paper)")
    text = f'{head} xmlns="http://www.w3.org/2000/svg"><style>{FONT}{style[0]}</style>{ground}{rest}\n'
    return re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], text)


def outcome_page(svg: str, rows: Sequence[OutcomeRow], title: str, note: str) -> str:
    """The HTML text of the page."""
    environment = Environment(
        loader=PackageLoader("nebula.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = columns(rows)
    return environment.get_template("outcomes.html.j2").render(
        title=title,
        note=note,
        css=Markup(_css()),
        drawing=Markup(svg),
        columns=shown,
        rows=[tuple(column.cells[index] for column in shown) for index in range(len(rows))],
        reasons=list(dict.fromkeys(row.outcome.reason for row in rows if row.outcome.reason)),
    )


def _css() -> str:
    return files("nebula.report").joinpath("page.css").read_text(encoding="utf-8")
