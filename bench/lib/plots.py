"""Pictures of results, light and dark: one line for each peer; the colour of a peer is the same in all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import model
from .run import ORDER
from .works import ALL, BY_NAME, Work

COLOURS = {
    "guildhall": "#e4572e", "Dask": "#2e86de", "Dask 2025.3": "#2e86de", "Ray": "#12a2b8", "Manager": "#8e6bbf",
    "multiprocessing": "#5f8f3e", "ProcessPoolExecutor": "#b0872b", "loky": "#c2578f", "filelock": "#7a869a",
    "diskcache": "#a0522d", "redis-py": "#d64161", "pyzmq": "#3fae8c",
}  # fmt: skip
INK = {"light": "#1f2328", "dark": "#e6e6e6"}
FAINT = {"light": "#d8dce2", "dark": "#43474e"}
UNITS = {"us": "µs", "1/s": "per second", "MB/s": "MB/s", "ms": "ms", "MiB": "MiB", "%": "% of a core"}
ALONE = ("get", "set", "add", "lock", "queue", "round-trip")


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """All pictures there are figures for."""
    import matplotlib as mpl

    mpl.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for shade in ("light", "dark"):
        with _style(shade):
            for work in ALL:
                if work.axis and any(point["work"] == work.name for point in results["points"]):
                    made.append(_curve(results, work, shade, folder))
            made.append(_alone(results, shade, folder))
    return made


def draw_soak(samples: list[dict[str, float]], shown: Sequence[str], folder: Path) -> list[Path]:
    """What was sampled over the minutes, a panel for each of the figures."""
    import matplotlib as mpl

    mpl.use("svg")
    made = []
    for shade in ("light", "dark"):
        with _style(shade):
            made.append(_soak(samples, shown, shade, folder))
    return made


@contextmanager
def _style(shade: str) -> Iterator[None]:
    import matplotlib as mpl

    ink, faint = INK[shade], FAINT[shade]
    changes: dict[str, Any] = {
        "svg.hashsalt": "guildhall", "svg.fonttype": "none", "font.size": 10,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.transparent": True,
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink,
        "axes.edgecolor": faint, "grid.color": faint, "grid.linewidth": 0.6, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 11, "legend.frameon": False,
    }  # fmt: skip
    with mpl.rc_context(changes):
        yield


def _peers(results: dict[str, Any], work: str) -> list[str]:
    there = {point["peer"] for point in results["points"] if point["work"] == work}
    return [name for name in COLOURS if name in there]


def _save(figure: Any, name: str, shade: str, folder: Path) -> Path:
    import matplotlib.pyplot as plt

    path = folder / f"{name}-{shade}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", path.read_text(), flags=re.DOTALL)
    path.write_text(re.sub(r"\s*\n\s*", " ", text).replace("> <", ">\n<").strip() + "\n")
    return path


def _curve(results: dict[str, Any], work: Work, shade: str, folder: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    ends = []
    for peer in _peers(results, work.name):
        points = sorted(
            (point["x"], point["value"], point["p99"])
            for point in results["points"]
            if (point["work"], point["peer"]) == (work.name, peer)
        )
        xs, middles, worst = zip(*points)
        is_ours = peer == "guildhall"
        colour = COLOURS[peer]
        axes.plot(xs, middles, "o-", color=colour, lw=2.4 if is_ours else 1.3, ms=4, zorder=3 if is_ours else 2)
        lower, upper = (worst, middles) if work.is_more_better else (middles, worst)
        axes.fill_between(xs, lower, upper, color=colour, alpha=0.12, lw=0)
        ends.append((middles[-1], xs[-1], peer, colour))
    if work.name == "adds":
        ends += _by_the_model(results, axes)
    axes.set(xscale="log", yscale="log", xlabel=work.axis)
    axes.set_title(f"{work.title}, {UNITS[work.unit]} ({'more' if work.is_more_better else 'less'} is better)")
    _ticks(axes, sorted({point["x"] for point in results["points"] if point["work"] == work.name}))
    axes.grid(True, axis="y")
    _name_lines(figure, axes, ends)
    return _save(figure, work.name, shade, folder)


def _by_the_model(results: dict[str, Any], axes: Any) -> list[tuple[float, float, str, str]]:
    """What one writer would do if each add cost what it costs alone (docs/performance.md)."""
    alone = [one["value"] for one in results["points"] if (one["work"], one["peer"]) == ("add", "guildhall")]
    xs = sorted({one["x"] for one in results["points"] if (one["work"], one["peer"]) == ("adds", "guildhall")})
    if not alone or not xs:
        return []
    rates = [model.together(alone[0] / 1e6, 0.0, x) for x in xs]
    axes.plot(xs, rates, "--", color=COLOURS["guildhall"], lw=1.2)
    return [(rates[-1], xs[-1], "by the model", COLOURS["guildhall"])]


def _ticks(axes: Any, xs: list[int]) -> None:
    def name(x: int) -> str:
        power = max(power for power in range(0, 12, 3) if 10**power <= x)
        return f"{x // 10**power} {' KMG'[power // 3]}".strip()

    axes.set_xticks(xs, [name(x) for x in xs])
    axes.minorticks_off()


def _name_lines(figure: Any, axes: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Each line has its peer's name at its end, moved apart where they would lie on each other."""
    figure.canvas.draw()
    right = axes.get_xlim()[1]
    height = None
    for value, _, peer, colour in sorted(ends):
        place = axes.transData.transform((right, value))[1]
        height = place if height is None else max(place, height + 13)
        x, y = axes.transAxes.inverted().transform((axes.transData.transform((right, value))[0], height))
        axes.text(x + 0.015, y, peer, color=colour, va="center", transform=axes.transAxes,
                  weight="bold" if peer == "guildhall" else "normal")  # fmt: skip


def _alone(results: dict[str, Any], shade: str, folder: Path) -> Path:
    """One operation at a time: a point at p50, a line to p99."""
    import matplotlib.pyplot as plt

    works = [name for name in ALONE if _peers(results, name)]
    figure, every = plt.subplots(2, 3, figsize=(9.6, 5.6), sharex=True)
    for axes, name in zip(every.flat, works):
        peers = _peers(results, name)[::-1]
        for row, peer in enumerate(peers):
            point = next(one for one in results["points"] if (one["work"], one["peer"]) == (name, peer))
            axes.plot([point["value"], point["p99"]], [row, row], color=COLOURS[peer], lw=1.5, alpha=0.6)
            axes.plot(point["value"], row, "o", color=COLOURS[peer], ms=7 if peer == "guildhall" else 5)
        axes.set_yticks(range(len(peers)), peers, fontsize=8)
        axes.set_xscale("log")
        axes.set_title(BY_NAME[name].title, fontsize=9, loc="left")
        axes.grid(True, axis="x")
    for axes in every.flat:
        axes.minorticks_off()
    for axes in every.flat[len(works) :]:
        axes.set_axis_off()
    figure.suptitle("Microseconds of one operation, p50 and up to p99 (less is better)", x=0.02, ha="left", fontsize=11)
    figure.tight_layout()
    return _save(figure, "alone", shade, folder)


def _soak(samples: list[dict[str, float]], shown: Sequence[str], shade: str, folder: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, every = plt.subplots(len(shown) // 3, 3, figsize=(9.6, 1.75 * (len(shown) // 3)), sharex=True)
    for axes, what in zip(every.flat, shown, strict=True):
        seen = [one for one in samples if what in one]
        minutes = [(one["at"] - samples[0]["at"]) / 60 for one in seen]
        axes.plot(minutes, [one[what] for one in seen], color=COLOURS["guildhall"], lw=1)
        if what.startswith("p"):  # A latency: one that others disturbed would flatten all that is to be seen.
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(what, fontsize=9)
        axes.grid(True, axis="y")
    for axes in every[-1]:
        axes.set_xlabel("minutes")
    figure.tight_layout()
    return _save(figure, "soak", shade, folder)


assert len(COLOURS) == len(ORDER), "each peer has its colour"
