"""torchrun that ends with the exit code of the process that failed first; its own says 1 for everything.

A Job decides by exit codes whether another pod may do better. `python -m fusery.cluster.torchrun OPTIONS -m fusery …`
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)

_BY_SIGNAL = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or the exit code of the first process that failed; 128 + the signal that ended it or this process."""
    # Seconds of imports, for those who use it.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    given = parse_args(arguments)  # type: ignore[no-untyped-call]
    if given.node_rank == 0:
        # The others meet here. The way to oneself over a Service is one that not every network has.
        given.master_addr = "127.0.0.1"
    try:
        run(given)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        log.error("process %d ended first, with %d; its own lines say why", rank, failure.exitcode)
        return failure.exitcode if failure.exitcode >= 0 else _BY_SIGNAL - failure.exitcode
    except SignalException as stop:
        return _BY_SIGNAL + stop.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
