"""`python -m reinit`: the entry point of a pod, and of a worker of `reinit run`. What it does is in `reinit.pod`.

Law: a signal is heard before anything is imported that takes time. As the main process of a container this one would
otherwise never hear of it, and anywhere else it would be ended with an exit code that claims progress.
"""

from __future__ import annotations

import sys

from reinit.stop import Stop


def main() -> int:
    """Listen, then import and run the program; its exit code."""
    stop = Stop()
    stop.listen()
    from reinit.pod import main as run

    return run(sys.argv[1:], stop)


if __name__ == "__main__":
    sys.exit(main())
