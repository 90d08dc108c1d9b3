"""For those who build on this package: processes that a seed kills, stops and interleaves, a clock that is turned by
hand, and histories of what happened. Nothing here is loaded by the rest of the package.

`simulation` plays many processes in one (docs/how-to/simulate.md), `recorder` writes down what processes do, played or
real.
"""

from .simulation import ROUGH, Chances, Explored, Failed, Killed, SimHost, Simulation, explore

__all__ = ["ROUGH", "Chances", "Explored", "Failed", "Killed", "SimHost", "Simulation", "explore"]
