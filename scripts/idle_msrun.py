"""msrun that sleeps between two polls of its workers, for tests on a few CPU cores.

`msrun --join=True` polls its workers in a loop without a pause, which keeps one CPU core busy for the whole run.
The arguments are those of msrun; everything else is msrun's own code.
"""

from __future__ import annotations

import subprocess
import sys
import time

POLL_SECONDS = 0.05


class _PausingProcess(subprocess.Popen[bytes]):
    """A child process whose `poll` sleeps first if the process was running at the last poll."""

    _was_running = False

    def poll(self) -> int | None:
        if self._was_running:
            time.sleep(POLL_SECONDS)
        exit_code = super().poll()
        self._was_running = exit_code is None
        return exit_code


if __name__ == "__main__":
    from mindspore.parallel.cluster.run import main

    subprocess.Popen = _PausingProcess  # type: ignore[assignment,misc]
    sys.exit(main())
