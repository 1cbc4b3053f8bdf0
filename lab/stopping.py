"""Asked to stop, by a signal or because the driver is gone: the step is finished and the checkpoint written.

A step or an evaluation that takes longer is left after PATIENCE seconds: the last checkpoint stands.
"""

import os
import signal
import sys
import threading

PATIENCE = 8.0
INTERRUPTED = 75


class Stopping(threading.Event):
    """Set once asked. `words` are said by a process that leaves in the middle of something."""

    def __init__(self, words: str = "") -> None:
        super().__init__()
        self.words = words

    def ask(self) -> None:
        """Stop soon."""
        if not self.is_set():
            self.set()
            timer = threading.Timer(PATIENCE, self._leave)
            timer.daemon = True
            timer.start()

    def on_signals(self) -> None:
        """Let SIGINT and SIGTERM ask; a second one ends the process. A thread hears them: the main one may be in a long step."""
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

        def listen() -> None:
            os.read(heard, 1)
            self.ask()
            os.read(heard, 1)
            self._leave()

        threading.Thread(target=listen, daemon=True).start()

    def _leave(self) -> None:
        if self.words:
            print(self.words, file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)
