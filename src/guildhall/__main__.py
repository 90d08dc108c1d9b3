"""`python -m guildhall` and the command `guildhall`."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line with the arguments of this process."""
    try:
        from .tools import cli
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        print(f"guildhall: the command line needs {missing}; pip install 'guildhall[cli]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(cli.run())


if __name__ == "__main__":
    main()
