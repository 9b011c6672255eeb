"""Places where jobs of a sweep are computed: this process, processes of this machine, a Ray cluster."""

import multiprocessing
import os
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

import torch

from foldflat.errors import MissingDependencyError, RecipeError, TeamError

__all__ = ["Here", "Lost", "OwnProcess", "Place", "RayTask", "places_for", "ray_places"]

_ANSWERS_WITHIN = 10.0  # seconds
Lost = BrokenProcessPool
"""What a future raises whose process ended before the job did."""


class Place(Protocol):
    """Compute one call after another."""

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Begin a call; the future raises `Lost` when the process that computes it ends."""

    def close(self) -> None:
        """Give back what the place holds."""


class Here:
    """Compute in this process, at once; `threads` holds while a call runs."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Return the finished future of a call."""
        future: Future[Any] = Future()
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            future.set_result(call(*args))
        finally:
            torch.set_num_threads(before)
        return future

    def close(self) -> None:
        """Do nothing."""


class OwnProcess:
    """Compute in one process of its own; a new one is started where it died.

    A pool of several processes ends them all when one dies, so each place is a pool of one.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Begin a call in the process."""
        try:
            return self._started().submit(call, *args)
        except BrokenProcessPool:  # it died between two calls
            self.close()
            return self._started().submit(call, *args)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),  # a fork of a process with threads may hang
                initializer=_begin,
                initargs=(self._threads,),
            )
        return self._pool

    def close(self) -> None:
        """End the process once its call has ended."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _begin(threads: int) -> None:
    """Hold a new process to its threads, and end it with the process that started it."""
    _limit_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _limit_threads(threads: int) -> None:
    import threadpoolctl

    os.environ["RAYON_NUM_THREADS"] = str(threads)  # tokenizers reads it at its first call
    threadpoolctl.threadpool_limits(threads)
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """Leave no orphan that holds claims: a pool's process does not notice that nobody is left to answer to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def places_for(jobs: int, threads: int | None) -> list[Place]:
    """Return as many places on this machine as asked, of `threads` threads each.

    Args:
        jobs: 1 is this process.
        threads: None shares the cores; for one job, what torch uses already.

    Raises:
        RecipeError: there are fewer cores.
    """
    cores = available_cores()
    if jobs < 1 or (threads is not None and threads < 1):
        raise RecipeError(f"{jobs} jobs of {threads or 1} threads\nhint: at least 1 of each")
    if threads is None:
        threads = torch.get_num_threads() if jobs == 1 else max(1, cores // jobs)
    elif jobs * threads > cores:
        raise _too_many(jobs, threads, cores)
    if jobs == 1:
        return [Here(threads)]
    if jobs > cores:
        raise _too_many(jobs, threads, cores)
    return [OwnProcess(threads) for _ in range(jobs)]


def _too_many(jobs: int, threads: int, cores: int) -> RecipeError:
    return RecipeError(
        f"{jobs} jobs of {threads} threads need {jobs * threads} cores, there are {cores}\n"
        f"hint: --jobs {min(jobs, cores)} --threads {max(1, cores // jobs)}"
    )


def available_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RayTask:
    """Compute on a Ray cluster, one task at a time, wherever as many cores as threads are free."""

    def __init__(self, threads: int, gpus: float) -> None:
        ray = _ray()
        self._call = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_remotely)
        self._threads = threads

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Begin a call on the cluster."""
        ray = _ray()
        theirs = self._call.remote(self._threads, call, *args).future()
        ours: Future[Any] = Future()

        def done(future: "Future[Any]") -> None:
            error = future.exception()
            if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError):
                error = Lost(str(error).splitlines()[0])
            if error is None:
                ours.set_result(future.result())
            else:
                ours.set_exception(error)

        theirs.add_done_callback(done)
        return ours

    def close(self) -> None:
        """Do nothing: the connection is shared."""


def _remotely(threads: int, call: Callable[..., Any], *args: Any) -> Any:
    _limit_threads(threads)
    return call(*args)


def ray_places(address: str, threads: int | None) -> list[Place]:
    """Connect to a Ray cluster and return a place for every `threads` of its cores.

    Args:
        address: as `ray.init` takes it; "local" starts a cluster on this machine.
        threads: of each job; None is 1.

    Raises:
        MissingDependencyError: ray is not installed.
        TeamError: there is no cluster at the address.
        RecipeError: it has too few cores.
    """
    ray = _ray()
    threads = 1 if threads is None else threads
    if not ray.is_initialized():
        try:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except (OSError, ValueError, RuntimeError) as error:
            raise TeamError(f"no Ray cluster at {address!r}: {error}\nhint: `ray start --head` prints one") from error
    resources = ray.cluster_resources()
    count = int(resources.get("CPU", 0)) // threads
    if count < 1:
        raise RecipeError(f"the cluster has {resources.get('CPU', 0):g} cores, a job has {threads} threads")
    gpus = resources.get("GPU", 0) / count
    return [RayTask(threads, min(1.0, gpus)) for _ in range(count)]


def _check_reachable(address: str) -> None:
    """Raise OSError where nobody answers at `host:port`: ray itself tries again for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^/]+):([0-9]+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=_ANSWERS_WITHIN).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingDependencyError('`--ray` needs ray\nhint: pip install "foldflat[eval,ray]"') from None
    return ray
