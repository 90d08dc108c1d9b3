"""guildhall and its peers, each at the same works, in one run: `make bench`, or `make bench QUICK=1` for a short one.

A full run writes `bench/results/full.json`, the page `docs/measurements.md`, the pictures in `docs/figures` and the
table of the README; a short or partial one `bench/results/quick.json`. `--report` makes the pages anew from the results
that are there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib import report
from lib.run import FULL, ORDER, QUICK, Run
from lib.works import BY_NAME

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds: about three minutes")
    parser.add_argument("--works", default="", help=f"only these, with commas between: {','.join(BY_NAME)}")
    parser.add_argument("--peers", default="", help=f"only these, with commas between: {','.join(ORDER)}")
    parser.add_argument("--report", action="store_true", help="measure nothing, make page and pictures anew")
    parser.add_argument(
        "--publish", action="store_true", help="make page, pictures and README also of a short or a partial run"
    )
    given = parser.parse_args()
    works, peers = ([name for name in text.split(",") if name] for text in (given.works, given.peers))
    if unknown := [name for name in works if name not in BY_NAME] + [name for name in peers if name not in ORDER]:
        parser.error(f"not known: {', '.join(unknown)}")
    is_full = not (given.quick or works or peers) or given.publish
    path = RESULTS / ("full.json" if is_full else "quick.json")
    if not given.report:
        results = Run(QUICK if given.quick else FULL, is_quick=given.quick, peers=peers, asked=works).all()
        results.save(path)
        print(f"{path}: {len(results.points)} figures in {results.took_s:.0f} s", file=sys.stderr)
    found = report.load(path)
    print(report.markdown(found))
    if is_full:
        report.publish(found)


if __name__ == "__main__":
    main()
