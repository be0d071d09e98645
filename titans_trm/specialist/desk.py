"""Where consultations are made: instant specialists at once, all others in a thread that nothing waits for."""

import queue
import threading
from collections import deque

from titans_trm.specialist.command import stop_programs
from titans_trm.specialist.outcome import Outcome, Specialist, failed
from titans_trm.specialist.protocol import ContextPackage

QUEUE_SIZE = 4  # packages waiting; one more is refused


class Desk:
    """Take packages in, give outcomes out. `submit` and `collect` return at once, whatever the specialist does.

    Args:
        specialist: who answers.
    """

    def __init__(self, specialist: Specialist) -> None:
        self.specialist = specialist
        self._waiting: queue.Queue[tuple[int, ContextPackage] | None] = queue.Queue(QUEUE_SIZE)
        self._done: deque[tuple[int, Outcome]] = deque()
        self._thread: threading.Thread | None = None
        self.in_flight = 0

    def submit(self, number: int, context: ContextPackage) -> bool:
        """Hand in consultation `number`; False if too many wait already."""
        if self.specialist.instant:
            self._done.append((number, self._consult(context)))
            self.in_flight += 1
            return True
        try:
            self._waiting.put_nowait((number, context))
        except queue.Full:
            return False
        self.in_flight += 1
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="specialist", daemon=True)
            self._thread.start()
        return True

    def collect(self) -> list[tuple[int, Outcome]]:
        """Return what has been answered since the last call."""
        found = []
        while self._done:
            found.append(self._done.popleft())
        self.in_flight -= len(found)
        return found

    def close(self, patience: float) -> None:
        """Wait at most `patience` seconds for what is under way, then end it."""
        if self._thread is not None and self._thread.is_alive():
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                stop_programs()
            self._thread.join(patience)
            if self._thread.is_alive():
                stop_programs()
                self._thread.join(patience)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            number, context = item
            self._done.append((number, self._consult(context)))

    def _consult(self, context: ContextPackage) -> Outcome:
        try:
            return self.specialist.consult(context)
        except Exception as error:  # a specialist with a bug must not end a training
            return failed("failed", f"{type(error).__name__}: {error}")
