"""The page around the sections: escaping, layout, colours for light and dark screens, nothing from the network.

Everything that reaches the page goes through `Html`: plain text is escaped, markup is made only here and in the other
files of this folder.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources


class Html(str):
    """Markup that is ready for the page; any other text is escaped when it is joined with it."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return `value` as markup: as it is if it is markup, else escaped."""
    return value if isinstance(value, Html) else Html(escape("" if value is None else str(value), quote=True))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Return the parts one after the other, escaped where they are plain text."""
    return Html(separator.join(text(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Return an element; `class_` stands for `class`, `_` in other names for `-`; None leaves an attribute out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{words}>{join(children)}</{name}>")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, class_: str = "") -> Html:
    """Return a table that scrolls sideways by itself on a narrow screen; cells of numbers are set flush right."""
    header = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", *(_cell(cell, first=not index) for index, cell in enumerate(row))) for row in rows]
    return tag("div", tag("table", tag("thead", header), tag("tbody", *body), class_=class_ or None), class_="scroll")


def facts(values: Mapping[str, object]) -> Html:
    """Return labels and values below each other; empty values are left out."""
    pairs = [join((tag("dt", label), tag("dd", value))) for label, value in values.items() if value not in (None, "")]
    return tag("dl", *pairs, class_="facts")


def tile(label: str, value: object, note: object = "") -> Html:
    """Return one large number with its name and a line below."""
    return tag(
        "div",
        tag("div", label, class_="tile-label"),
        tag("div", value, class_="tile-value"),
        tag("div", note, class_="tile-note"),
        class_="tile",
    )


def figure(drawing: Html, title: str, legend: Html | None = None, note: object = "") -> Html:
    """Return a drawing under its title, with its legend and a sentence that says how to read it."""
    caption = tag("figcaption", tag("b", title), tag("span", note, class_="muted") if note else "")
    return tag("figure", caption, legend or "", drawing)


def section(identity: str, title: str, *content: object, lead: object = "") -> Html:
    """Return a section with an anchor; `lead` is its first sentence."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else "", *content, id=identity)


def missing(what: str, command: str) -> Html:
    """Say that there is nothing here yet, and which command fills the place."""
    return tag("p", f"{what} ", tag("code", command), class_="missing")


def command(line: str, comment: str = "") -> Html:
    """Return a command line to copy."""
    return tag("div", tag("code", line), tag("span", comment, class_="muted") if comment else "", class_="command")


def document(title: str, header: Html, sections: Sequence[tuple[str, str, Html]], footer: object) -> str:
    """Return the whole page.

    Args:
        title: of the browser's tab.
        header: above everything.
        sections: anchor, short name for the table of contents, content.
        footer: last line.
    """
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    head = join(
        (
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            # Whatever a run's texts contain, the page loads nothing and runs nothing.
            Html(
                '<meta http-equiv="Content-Security-Policy" '
                "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
            ),
            Html('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
            tag("title", title),
            Html(f"<style>{_style()}</style>"),
        )
    )
    body = join(
        (
            tag("header", header),
            tag("nav", *links, aria_label="Sections"),
            tag("main", *(content for _, _, content in sections)),
            tag("footer", footer),
        )
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _cell(cell: object, first: bool) -> Html:
    if first:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_="number" if isinstance(cell, int | float) or _looks_numeric(cell) else None)


def _looks_numeric(cell: object) -> bool:
    return isinstance(cell, str) and not isinstance(cell, Html) and cell[:1] in "0123456789+-−" and len(cell) < 40


def _style() -> str:
    return (resources.files("titans_trm.evaluation.html") / "report.css").read_text(encoding="utf-8")
