"""How things look in a notebook: a caption and a table of facts."""

from __future__ import annotations

from collections.abc import Iterable

LEFT = "text-align: left"


def table(caption: str, facts: Iterable[tuple[str, object]]) -> str:
    """The facts as HTML, with whatever they contain shown as it is; a list has a line for each of its items."""
    from html import escape  # Its table of names takes longer to load than all of this package's client.

    def cell(fact: object) -> str:
        return "<br>".join(escape(str(one)) for one in (fact if isinstance(fact, list) else [fact]))

    rows = "".join(
        f'<tr><th style="{LEFT}">{escape(name)}</th><td style="{LEFT}">{cell(fact)}</td></tr>' for name, fact in facts
    )
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"
