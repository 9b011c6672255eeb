"""Hand jobs to places as what they need gets finished; jobs of a lost process are tried once more."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from foldflat.workflow.sweep.folder import ResultsFolder
from foldflat.workflow.sweep.jobs import Job, with_needs
from foldflat.workflow.sweep.places import Lost, Place
from foldflat.workflow.sweep.work import Outcome, work

__all__ = ["compute"]

_TRIES = 2
_Running = dict["Future[Outcome]", tuple[Job, Place]]


@dataclasses.dataclass
class _Open:
    """Hold the jobs that are still to be begun, in order, and those that another sweep is computing."""

    jobs: dict[str, Job]
    finished: set[str]
    busy: set[str] = dataclasses.field(default_factory=set)
    lost: dict[str, int] = dataclasses.field(default_factory=dict)
    compressions: dict[int, Any] = dataclasses.field(default_factory=dict)

    def next(self, place: Place) -> Job | None:
        """Take the first job whose needs are finished for a place; None where there is none.

        One of the compression that the place did last comes before one of any that no other place did last; jobs that
        are busy in another sweep come after all others.
        """
        own = self.compressions.get(id(place))
        others = {compression for other, compression in self.compressions.items() if other != id(place)}

        def order(job: Job) -> tuple[bool, bool, bool]:
            same = own is not None and job.compression == own
            return job.key in self.busy, not same, job.compression is not None and job.compression in others

        ready = [job for job in self.jobs.values() if all(need.key in self.finished for need in job.needs)]
        if not ready:
            return None
        job = self.jobs.pop(min(ready, key=order).key)
        self.compressions[id(place)] = job.compression
        return job

    def without_needs(self, failed: Job) -> list[Job]:
        """Take every job that needs one that failed, directly or not."""
        lost, found = {failed.key}, []
        for job in list(self.jobs.values()):  # each stands after what it needs
            if any(need.key in lost for need in job.needs):
                lost.add(job.key)
                found.append(self.jobs.pop(job.key))
        return found


def compute(
    cells: list[Job],
    folder: ResultsFolder,
    places: list[Place],
    ended: Callable[[Job, Outcome], None],
    say: Callable[[str], None],
) -> None:
    """Compute cells and what they need, as many jobs at a time as there are places, each after what it needs.

    Args:
        cells: in the order in which they are to be computed.
        folder: where they are kept.
        places: where they are computed.
        ended: called with every job and how it ended.
        say: called with what went wrong.
    """
    jobs = with_needs(cells, folder.has)
    finished = {key for key, job in jobs.items() if folder.has(job)}
    left = _Open({key: job for key, job in jobs.items() if key not in finished}, finished)
    free = list(places)
    running: _Running = {}
    while True:
        while free and (job := left.next(free[-1])) is not None:
            place = free.pop()
            # a job that another sweep computes is waited for once there is nothing else to do
            running[place.submit(work, job, str(folder.path), job.key in left.busy)] = job, place
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, place = running.pop(future)
            free.append(place)
            outcome = _outcome(future, job, place, left, say)
            if outcome is not None:
                _take(job, outcome, left, folder, ended)


def _outcome(
    future: "Future[Outcome]", job: Job, place: Place, left: _Open, say: Callable[[str], None]
) -> Outcome | None:
    """Return how a job ended; None where its process was lost and it is to be tried again."""
    try:
        return future.result()
    except Lost as error:
        place.close()
        left.lost[job.key] = left.lost.get(job.key, 0) + 1
        again = left.lost[job.key] < _TRIES
        say(f"{job.label}: its process ended, {'it is tried again' if again else 'for the second time'}")
        if again:
            left.jobs = {job.key: job, **left.jobs}
            return None
        return Outcome(
            "failed", error={"class": "ProcessLost", "message": f"its process ended {_TRIES} times: {error}"}
        )


def _take(
    job: Job, outcome: Outcome, left: _Open, folder: ResultsFolder, ended: Callable[[Job, Outcome], None]
) -> None:
    if outcome.state == "busy":
        left.busy.add(job.key)
        left.jobs[job.key] = job
        return
    if outcome.state != "failed":
        left.finished.add(job.key)
        ended(job, outcome)
        return
    assert outcome.error is not None
    folder.write_error(job, outcome.error)
    ended(job, outcome)
    for dependent in left.without_needs(job):
        error = {**outcome.error, "message": f"{job.label} failed: {outcome.error['message']}"}
        folder.write_error(dependent, error)
        ended(dependent, Outcome("failed", error=error))
