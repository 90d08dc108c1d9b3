"""What the site does with pages that read well without it: folders in the navigation, examples and the help of each
command in full, diagrams as tables.

No page needs this file to be read; mkdocs calls it (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DIAGRAM = re.compile(r"^```mermaid\nstateDiagram-v2\n(.*?)^```", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"^\s*(\S+) --> (\S+?)(?:: (.*))?$", re.MULTILINE)


def on_config(config: Any) -> Any:
    config.nav = _with_folders(config.nav)
    return config


def _with_folders(nav: Any) -> Any:
    """A folder stands for its pages, README first."""
    if isinstance(nav, dict):
        return {title: _with_folders(inside) for title, inside in nav.items()}
    if isinstance(nav, list):
        found: list[Any] = []
        for one in nav:
            if isinstance(one, str) and one.endswith("/"):
                pages = sorted(DOCS.joinpath(one).glob("*.md"), key=lambda path: (path.stem != "README", path.name))
                found += [str(page.relative_to(DOCS)) for page in pages]
            else:
                found.append(_with_folders(one))
        return found
    return nav


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri == "examples.md":
        markdown += _examples()
    if page.file.src_uri == "reference/command-line.md":
        markdown += "".join(_commands())
    return DIAGRAM.sub(_as_table, markdown)


def _examples() -> str:
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts.append(f"\n\n## {path.stem}\n\n```python\n{path.read_text()}```\n")
    return "".join(parts)


def _commands() -> Iterator[str]:
    """What each command says when asked for help."""
    import click

    from guildhall.tools.cli import guildhall

    def told(command: click.Command, name: str, above: click.Context | None) -> Iterator[str]:
        context = click.Context(command, info_name=name, parent=above)
        yield f"\n\n## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
        if isinstance(command, click.Group):
            for inside in command.list_commands(context):
                found = command.get_command(context, inside)
                assert found is not None
                yield from told(found, inside, context)

    return told(guildhall, "guildhall", None)


def _as_table(diagram: re.Match[str]) -> str:
    """A browser would draw it with a script from elsewhere."""
    rows = [f"| {a} | {b} | {why} |".replace("[*]", "-") for a, b, why in ARROW.findall(diagram[1])]
    return "\n".join(["| from | to | when |", "| --- | --- | --- |", *rows])
