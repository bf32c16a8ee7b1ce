"""How far a task is, on stderr: a line that is drawn anew on a terminal, or else one now and then."""

import asyncio
import contextlib
import shutil
import time
from datetime import datetime
from typing import Final, TextIO

from cpctl import states
from cpctl.follow import Task
from cpctl.text import fold, line, width

REDRAW_S: Final = 0.1
LINE_S: Final = 30.0
BAR: Final = 20
FILLS: Final = {
    states.WORKED: "█#",
    states.FAILED: "xx",
    states.SILENT: "??",
    states.CANCELLED: "--",
    states.SKIPPED: "»>",
    states.RUNNING: "▒+",
    states.WAITING: "·.",
}
SHOWN: Final = 5  # of the hosts that are waited for
LEAST_FOR_REST: Final = 0.1


class Progress:
    """Says how a task stands until it is left; drawn from the task as it is, at most ten times a second."""

    def __init__(self, task: Task, err: TextIO) -> None:
        self._task = task
        self._err = err
        self._is_terminal = err.isatty()
        self._began_s = time.monotonic()
        self._is_utf8 = (err.encoding or "").lower().replace("-", "") == "utf8"

    async def run(self) -> None:
        """Draw until it is cancelled, or nobody sees it any more."""
        with contextlib.suppress(BrokenPipeError):
            await self._run()

    async def _run(self) -> None:
        try:
            while True:
                self._draw()
                await asyncio.sleep(REDRAW_S if self._is_terminal else LINE_S)
        finally:
            self.clear()

    def clear(self) -> None:
        """Make room for other lines."""
        if self._is_terminal:
            self._err.write("\r\x1b[K")
            self._err.flush()

    def _draw(self) -> None:
        text = self.text(time.monotonic() - self._began_s)
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns - 1
            while width(text) > columns:
                text = text[:-1]
            self._err.write(f"\r\x1b[K{text}")
        else:
            self._err.write(text + "\n")
        self._err.flush()

    def text(self, elapsed_s: float) -> str:
        """`[██████xx?▒·]  96/98  93 ok  2 failed  1 no answer  2 waiting  0:03  1 s left`."""
        counts = self._task.row["counts"]
        answers = states.answers(counts)
        targets = self._task.row["targets"]
        ended = targets - answers[states.RUNNING] - answers[states.WAITING]
        parts = [f"[{self._bar(answers, targets)}]", f"{ended:,}/{targets:,}"]
        parts += [f"{count:,} {states.WORDS[answer]}" for answer, count in answers.items() if count]
        parts.append(f"{int(elapsed_s) // 60}:{int(elapsed_s) % 60:02}")
        if self._task.trouble:
            parts.append(f"not connected: {line(self._task.trouble)}")
        elif targets > ended >= LEAST_FOR_REST * targets:
            parts.append(self._waiting() or f"{round(elapsed_s * (targets - ended) / ended)} s left")
        elif state := self._held_up():
            parts.append(state)
        text = "  ".join(parts)
        return text if self._is_utf8 else text.replace("·", "-").replace("…", "...")

    def _bar(self, answers: dict[str, int], targets: int) -> str:
        """Each answer that there is has one place at least."""
        place = 0 if self._is_utf8 else 1
        there = {answer: count for answer, count in answers.items() if count}
        spans = {answer: max(1, count * BAR // targets) for answer, count in there.items()}
        while spans and sum(spans.values()) != BAR:
            widest = max(spans, key=lambda answer: spans[answer])
            spans[widest] += 1 if sum(spans.values()) < BAR else -1
        return "".join(FILLS[answer][place] * span for answer, span in spans.items())

    def _held_up(self) -> str | None:
        row = self._task.row
        if row["awaits_approval"]:
            return "waits for an approval after its canary"
        return row["state"] if row["state"] in ("paused", "cancelling") else None

    def _waiting(self) -> str | None:
        """Who is waited for, where none is at work: they are queued, and that may last."""
        waiting = [row["hostname"] for row in self._task.executions.values() if states.is_open(row["state"])]
        if self._held_up() or any(self._task.executions[name]["state"] != "queued" for name in waiting):
            return self._held_up()
        until = datetime.fromisoformat(self._task.row["expires_at"]).astimezone()
        began = datetime.fromisoformat(self._task.row["accepted_at"]).astimezone()
        when = f"{until:%H:%M}" if until.date() == began.date() else f"{until:%Y-%m-%d %H:%M}"
        more = " …" if len(waiting) > SHOWN else ""
        return f"{fold(waiting[:SHOWN])}{more} offline, waiting until {when} · Ctrl-C detaches"
