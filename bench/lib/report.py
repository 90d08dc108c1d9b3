"""Pages of results: tables of all figures with what they do not prove, and the few that the README shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from . import model, plots
from .works import ALL, BY_NAME, Work

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "measurements.md"
FIGURES = ROOT / "docs" / "figures"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures of make bench -->", "<!-- end of the figures of make bench -->"

CHOSEN = (
    ("get", 1), ("lock", 1), ("add", 1), ("queue", 1), ("increments", 2), ("round-trip", 1), ("map", 1000),
    ("fan-out", 8), ("scatter", 10**8), ("start", 1), ("idle", 1), ("memory", 1), ("import", 1),
)  # fmt: skip
"""What the README shows."""
README_PEERS = ("guildhall", "Dask", "Ray", "Manager", "multiprocessing", "ProcessPoolExecutor", "redis-py")


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def short(value: float) -> str:
    """Three digits that say something."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    if value >= 1e4:
        return f"{value / 1e3:.3g} k"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def size(x: int, axis: str) -> str:
    if axis == "bytes":
        power = min((len(str(x)) - 1) // 3, 3)
        return f"{x // 1000**power} {['B', 'KB', 'MB', 'GB'][power]}"
    return f"{x:,}".replace(",", " ")


def points_of(results: dict[str, Any], work: str) -> dict[tuple[str, int], dict[str, Any]]:
    return {(one["peer"], one["x"]): one for one in results["points"] if one["work"] == work}


def markdown(results: dict[str, Any]) -> str:
    """Every figure."""
    parts = [_where(results)]
    for work in ALL:
        if points_of(results, work.name):
            parts.append(_section(results, work))
    parts.append(_left_out(results))
    return "\n\n".join(parts) + "\n"


def _where(results: dict[str, Any]) -> str:
    facts, busy = results["machine"], results["cores_busy_with_others"]
    state = "idle otherwise" if busy < 0.1 else f"busy with other work as it began: {busy:g} cores of it"
    known = {name: version for name, version in results["versions"].items() if version[0].isdigit()}
    versions = ", ".join(f"{name.removesuffix(' 2025.3')} {version}" for name, version in known.items())
    missing = "".join(f"\n- Missing: {name}, as {why}." for name, why in results["missing"].items())
    return (
        f"- Machine: {facts['cores']} cores of {facts['processor']}, {facts['memory_gib']:g} GiB, {facts['system']}, "
        f"Python {facts['python']}; **{state}**.\n"
        f"- Run: {results['took_s'] / 60:.0f} minutes"
        f"{', a short one: fewer sizes and rounds' if results['is_quick'] else ''}.\n"
        f"- Versions: {versions}.{missing}"
    )


def _section(results: dict[str, Any], work: Work) -> str:
    unit = plots.UNITS[work.unit]
    better = "more" if work.is_more_better else "less"
    title = f"## {work.title[0].upper()}{work.title[1:]}"
    picture = f"\n\n{shown(work.name, work.title)}" if work.axis else ""
    doubt = f"*Not proved:* {work.doubt.rstrip('.')}."
    table = _curve_table(results, work) if work.axis else _table(results, work)
    return f"{title}\n\n{unit}, {better} is better.{picture}\n\n{table}\n\n{doubt}"


def shown(name: str, title: str) -> str:
    """The picture that fits the page's colours; without colours, the light one."""
    return f"![{title}](figures/{name}-light.svg#only-light)\n![{title}](figures/{name}-dark.svg#only-dark)"


def _table(results: dict[str, Any], work: Work) -> str:
    found = points_of(results, work.name)
    lines = ["| | p50 | p99 | guildhall is |", "| --- | --- | --- | --- |"]
    ours = next((one["value"] for (peer, _), one in found.items() if peer == "guildhall"), None)
    for (peer, _), one in sorted(found.items(), key=lambda item: item[1]["value"], reverse=work.is_more_better):
        lines.append(f"| {peer} | {short(one['value'])} | {short(one['p99'])} | {_times(work, ours, peer, one)} |")
    return "\n".join(lines)


def _times(work: Work, ours: float | None, peer: str, one: dict[str, Any]) -> str:
    if not ours or peer == "guildhall" or not one["value"]:
        return ""
    times = ours / one["value"] if work.is_more_better else one["value"] / ours
    return f"{short(times)} times better" if times >= 1 else f"{short(1 / times)} times worse"


def _curve_table(results: dict[str, Any], work: Work) -> str:
    found = points_of(results, work.name)
    xs = sorted({x for _, x in found})
    lines = [f"| {work.axis} | {' | '.join(size(x, work.axis) for x in xs)} |", "| --- |" + " --- |" * len(xs)]
    for peer in plots.COLOURS:
        if any((peer, x) in found for x in xs):
            cells = (short(found[peer, x]["value"]) if (peer, x) in found else "-" for x in xs)
            lines.append(f"| {peer} | {' | '.join(cells)} |")
    late = {peer: one["call_us"]["p99"] for (peer, x), one in found.items() if "call_us" in one and x == xs[-1]}
    if late:
        cells = ", ".join(f"{peer} {short(value)}" for peer, value in late.items())
        lines.append(f"\np99 of one call among {size(xs[-1], work.axis)}, µs: {cells}.")
    return "\n".join(lines)


def _left_out(results: dict[str, Any]) -> str:
    """In one line for each work and peer, as the reason is the same for all larger sizes."""
    why: dict[tuple[str, str], list[Any]] = {}
    for one in results["left_out"]:
        why.setdefault((one["work"], one["peer"]), [one["x"], one["why"]])
    lines = ["## Left out", "", "| what | peer | from | as |", "| --- | --- | --- | --- |"]
    for (work, peer), (x, reason) in why.items():
        known = BY_NAME[work]
        reason = reason.replace("|", "/").replace("`", "'")
        lines.append(f"| {known.title} | {peer} | {size(x, known.axis) if known.axis else ''} | {reason} |")
    return "\n".join(lines) if why else "## Left out\n\nNothing."


# -- the pages --------------------------------------------------------------------------------------------------------

HEAD = """# Measurements

Made by `make bench`: all peers in one run, each in a process of its own, round after round in turn. The ratios are what
to read: machines differ, and the same machine from minute to minute. Where a value is "-", see [left out](#left-out).
How to read the figures, and where one writer is full: [performance](performance.md). All of it as JSON:
`bench/results/full.json`.

Nowhere is anything proved of more than one machine, of more cores than these, or of other systems than Linux. What
waits in the background costs all of them: a peer runs as long as it has works to do, idle while others have their turn.
"""


def publish(results: dict[str, Any]) -> None:
    """The page, the pictures, the README's table."""
    plots.draw(results, FIGURES)
    where, *sections = markdown(results).split("\n\n## ")
    alone = shown("alone", "Microseconds of one operation")
    PAGE.write_text("\n\n## ".join([f"{HEAD}\n{where}\n\n{alone}", *sections]) + _model(results))
    text = README.read_text()
    inside = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert inside.search(text), f"README.md has no place for figures: {BEGIN}"
    README.write_text(inside.sub(lambda _: f"{BEGIN}\n{readme(results)}\n{END}", text))


PICTURE = """<picture>
<source media="(prefers-color-scheme: dark)" srcset="docs/figures/alone-dark.svg">
<img alt="Microseconds of one operation, of guildhall and its peers" src="docs/figures/alone-light.svg">
</picture>
"""


def readme(results: dict[str, Any]) -> str:
    lines = [PICTURE, f"| what | {' | '.join(README_PEERS)} |", "| --- |" + " --- |" * len(README_PEERS)]
    for name, x in CHOSEN:
        work, found = BY_NAME[name], points_of(results, name)
        cells = (short(found[peer, x]["value"]) if (peer, x) in found else "" for peer in README_PEERS)
        lines.append(f"| {_at(work, x)}, {plots.UNITS[work.unit]} | {' | '.join(cells)} |")
    facts, busy = results["machine"], results["cores_busy_with_others"]
    state = "" if busy < 0.1 else f" while other work kept {busy:g} of them busy"
    lines += ["", f"p50, one run on {facts['cores']} cores{state} (Python {facts['python']})."]
    return "\n".join(lines)


def _at(work: Work, x: int) -> str:
    """The title with a number in the place of x."""
    return re.sub(r"\bx bytes\b|\bx\b", size(x, work.axis), work.title)


def _model(results: dict[str, Any]) -> str:
    """What the model of docs/performance.md says with this run's figures."""
    alone, adds = points_of(results, "add"), points_of(results, "adds")
    if ("guildhall", 1) not in alone or not adds:
        return ""
    service = alone["guildhall", 1]["value"] / 1e6
    found = ", ".join(f"{x}: {short(one['value'])}" for (peer, x), one in sorted(adds.items()) if peer == "guildhall")
    lines = [
        "",
        "## The writer, by the model",
        "",
        f"An add alone took {service * 1e6:.1f} µs: by the model, one writer is full at {short(1 / service)} a second.",
        f"Measured with so many processes: {found}.",
        "",
        "| work between two operations | processes that fill one writer | of 8 stores, evenly used | "
        "of 8, if the k-th name is used 1/k as often |",
        "| --- | --- | --- | --- |",
    ]
    even, skewed = [1 / 8] * 8, model.zipf(1000, 8)
    for think_us in (0, 10, 100, 1000, 10_000):
        bend = model.bend(service, think_us / 1e6)
        cells = (short(bend * model.sharded(1, shares)) for shares in ([1.0], even, skewed))
        lines.append(f"| {think_us} µs | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
