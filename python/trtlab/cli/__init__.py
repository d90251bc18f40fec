"""The command ``trtlab``: doctor, build, inspect, infer, bench, tune.

click and rich are imported by ``main``, so that nobody else pays for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

FAILED = 2
INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None: ``sys.argv``) and return the exit status.

    0: done. 1: done, and the answer is bad (no engine; requests failed). 2: it could not be done; one line on stderr
    says why. 130: Ctrl-C. 141: whoever read the output went away. With ``--debug``, errors are raised instead.
    """
    import click

    from trtlab.cli.application import application
    from trtlab.errors import Error

    for stream in (sys.stdout, sys.stderr):
        # A tensor's name may hold what the terminal's encoding cannot say.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = {"debug": False}
    try:
        # Not standalone: it would end the process, and show an error of ours as a traceback.
        status = application.main(arguments, prog_name="trtlab", standalone_mode=False, obj=options)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # click and rich turn a broken pipe into SystemExit. What is left in the buffer would make the interpreter
        # complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return BROKEN_PIPE
    except (Error, OSError, MemoryError) as error:
        if options["debug"]:
            raise
        print(f"trtlab: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
