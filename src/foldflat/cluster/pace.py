"""The pace of an alternation: when all rows are looked at, when a phase opens, when to stop."""

import numpy as np

__all__ = ["Pace"]

_STEPS_PER_PHASE = 4
_STEPS_PER_SWEEP = 4
_LAST_PHASE = 11


class Pace:
    """Say what the next step of an alternation does, from the costs of those before.

    With equal ranks most steps assign doubtful rows only. One that stands still is confirmed by a step on all rows
    before the alternation may end.

    Attributes:
        phase: number of the phase that the step belongs to.
        opening: whether the step opens it, and may move the multiplier.
        confirming: whether the step computes everything anew, so that its result may be delivered.
    """

    def __init__(self, equal: bool, tol: float, floor: float, first_phase: int) -> None:
        """Begin with a phase of the given number; `floor` is the cost that counts as zero."""
        self.phase, self.opening, self.confirming = first_phase, True, True
        self._equal, self._tol, self._floor = equal, tol, floor
        self._last_phase = first_phase if equal else first_phase + _LAST_PHASE
        self._step_in_phase = 0
        self._before, self._previous_phase = np.inf, np.inf

    @property
    def sweeping(self) -> bool:
        """Return whether the assignment before the step looks at all rows."""
        return not self._equal or self.confirming or self._step_in_phase % _STEPS_PER_SWEEP == 1

    def has_converged(self, cost: float) -> bool:
        """Judge the cost of the step and turn to the next."""
        zero = cost <= self._floor
        still = not self.opening and self._before - cost <= self._tol * self._before
        settled = abs(self._previous_phase - cost) <= self._tol * cost
        self.opening, self._before = False, cost
        self._step_in_phase += 1
        self.confirming = self._equal and (zero or still) and not self.confirming
        if self.confirming:
            return False
        if zero or (still and (self.phase >= self._last_phase or settled)):
            return True
        # multipliers may go round in circles; the last phase holds its own, so its costs can only fall
        if self.phase < self._last_phase and (still or self._step_in_phase >= _STEPS_PER_PHASE):
            self.opening, self._previous_phase, self._step_in_phase, self.phase = True, cost, 0, self.phase + 1
        return False
