"""The bar of an epoch: batches, time left, loss, active share, best metric."""

from __future__ import annotations

import time
from collections.abc import Callable

from tqdm import tqdm

from mml_plugin.engine.schedule import Schedule
from mml_plugin.engine.step import StepResult
from mml_plugin.engine.tally import Tally, active_share


class Progress:
    """A bar with ETA; looks at the device a few times a second at most.

    Args:
        batches: how many the epoch has.
        epoch: its number, from 1.
        epochs: how many there are.
        tally: the losses so far.
        schedule: has the best metric.
        check: called with the mean loss at each look, also without a bar; may raise.
        shown: whether to show a bar, where there is a terminal.
    """

    INTERVAL = 0.5  # seconds between looks

    def __init__(
        self,
        batches: int,
        epoch: int,
        epochs: int,
        tally: Tally,
        schedule: Schedule,
        check: Callable[[float], None],
        shown: bool = True,
    ) -> None:
        self._tally, self._schedule, self._check = tally, schedule, check
        self._done, self._shown, self._last = 0, 0, time.monotonic()
        self.bar = tqdm(
            total=batches,
            desc=f"epoch {epoch}/{epochs}",
            unit=" batches",
            disable=None if shown else True,
            leave=False,
        )

    def advance(self, result: StepResult) -> None:
        """One more batch."""
        self._done += 1
        if time.monotonic() - self._last < self.INTERVAL:
            return
        self._last = time.monotonic()
        loss = float(self._tally.total) / self._done
        self._check(loss)
        if self.bar.disable:
            return
        facts = {"loss": f"{loss:.4f}", "active": f"{100 * active_share(result.gradient):.2f} %"}
        if self._schedule.best_epoch:
            facts["best"] = f"{self._schedule.best:.4f}"
        self.bar.set_postfix(facts, refresh=False)
        self.bar.update(self._done - self._shown)
        self._shown = self._done
