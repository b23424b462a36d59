"""Entry point of the ``twusage`` command and of ``python -m twusage``. The commands are in ``twusage.cli``."""

from __future__ import annotations

import sys

from twusage.cli.exit_codes import run_to_exit_code
from twusage.errors import ConfigurationError

__all__ = ["main"]


def main() -> None:
    """Run the command with the process's arguments, and exit with its code."""
    sys.exit(run_to_exit_code(_run))


def _run() -> None:
    try:
        from twusage.cli.app import twusage
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"click", "rich"}:
            raise
        reason = f"the command needs {missing}: pip install 'twusage[cli]'"
        raise ConfigurationError(reason) from None
    twusage(prog_name="twusage")


if __name__ == "__main__":
    main()
