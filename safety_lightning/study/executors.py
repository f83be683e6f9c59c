"""Where the tasks of a study run: in this process, in several of this machine, on a Ray cluster, or under Slurm.

Every executor runs the same function on the same words, `run_stage`: where the study lies, and one of its stages. A
worker needs nothing but the study's folder, where it finds the stage's inputs and leaves its results.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from safety_lightning.errors import UserError
from safety_lightning.study.settings import Executor, ExecutorSettings
from safety_lightning.study.stages import Stage, StageStore

Ended = list[tuple[str, BaseException | None]]
"""The names of stages that have ended, with the error where there was one."""


class LostWorkerError(RuntimeError):
    """A worker went away in the middle of its task, which may be run again."""


class Pool(Protocol):
    """Runs tasks, several at once."""

    num_workers: int

    def submit(self, study: Path, stage: Stage) -> None:
        """Begins a stage."""

    def collect(self) -> Ended:
        """Waits until a task has ended; returns the stages of those that have, with the error where there was one."""


class InlinePool:
    """Runs each task at once in this process."""

    num_workers = 1

    def __init__(self) -> None:
        self._done: Ended = []

    def submit(self, study: Path, stage: Stage) -> None:
        """Runs a stage; its errors go straight on."""
        run_stage(study, stage)
        self._done.append((stage.name, None))

    def collect(self) -> Ended:
        """Returns what has ended."""
        done, self._done = self._done, []
        return done


class ProcessPool:
    """Runs tasks in processes of this machine that stay warm from task to task.

    Args:
        settings: How many, and how often a task is run again whose process was killed.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        self.num_workers = settings.num_workers
        self._threads = settings.num_cpus
        self._pool = self._start()
        self._futures: dict[Future[None], str] = {}

    def submit(self, study: Path, stage: Stage) -> None:
        """Begins a stage."""
        self._futures[self._pool.submit(run_apart, study, stage)] = stage.name

    def collect(self) -> Ended:
        """Waits until a task has ended; a killed process ends all tasks, and new ones are started."""
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        ended: Ended = []
        for future in done:
            error = future.exception()
            lost = isinstance(error, BrokenProcessPool)
            ended.append((self._futures.pop(future), LostWorkerError(str(error)) if lost else error))
        if any(isinstance(error, LostWorkerError) for _, error in ended):
            ended += [(stage, LostWorkerError("its worker was stopped")) for stage in self._futures.values()]
            self._futures.clear()
            self._pool.shutdown(cancel_futures=True)
            self._pool = self._start()
        return ended

    def close(self) -> None:
        """Ends the processes; those that are still at work are stopped."""
        for process in multiprocessing.active_children() if self._futures else []:
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        shares, gpus = context.Queue(), list_gpus()
        for worker in range(self.num_workers):
            shares.put(share_gpus(gpus, worker, self.num_workers))
        return ProcessPoolExecutor(
            self.num_workers, mp_context=context, initializer=_begin_worker, initargs=(shares, self._threads)
        )


class RayPool:
    """Runs tasks on a Ray cluster.

    Args:
        settings: Which cluster, how many tasks at once, and what each may use.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        import ray

        self._ray = ray
        self.num_workers = settings.num_workers
        options: dict[str, Any] = {"ignore_reinit_error": True, "log_to_driver": False, "include_dashboard": False}
        if settings.address is None and "RAY_ADDRESS" not in os.environ:
            options["num_cpus"] = settings.num_workers * settings.num_cpus
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=settings.address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"a Ray cluster must be at {settings.address or 'hand'}, got: {error}") from error
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process with status 15
        self._remote = ray.remote(
            num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_retries=settings.max_retries
        )(_run_limited)
        self._threads = settings.num_cpus
        self._pending: dict[Any, str] = {}

    def submit(self, study: Path, stage: Stage) -> None:
        """Begins a stage."""
        self._pending[self._remote.remote(study, stage, self._threads)] = stage.name

    def collect(self) -> Ended:
        """Waits until a task has ended."""
        ready = self._wait()
        ended: Ended = []
        for reference in ready:
            stage = self._pending.pop(reference)
            try:
                self._ray.get(reference)
                ended.append((stage, None))
            except self._ray.exceptions.RayTaskError as error:
                ended.append((stage, error.cause if isinstance(error.cause, UserError) else error))
            except self._ray.exceptions.RayError as error:
                ended.append((stage, LostWorkerError(f"the Ray cluster lost it: {error}")))
        return ended

    def _wait(self) -> list[Any]:
        """Waits for a task.

        Raises:
            UserError: If the cluster has gone.
        """
        try:
            ready, _ = self._ray.wait(list(self._pending), num_returns=1)
        except (ConnectionError, self._ray.exceptions.RayError) as error:
            waiting = ", ".join(self._pending.values())
            raise UserError(
                f"the Ray cluster must stay until the study has ended, it is gone while {waiting} ran ({error}): "
                "what is finished is kept, and the same command resumes"
            ) from error
        return list(ready)

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()


class SlurmPool:
    """Runs each task as a job of Slurm, by submitit.

    Args:
        settings: How many jobs at once, what each may use, and Slurm's own options.
        folder: Where submitit keeps its files.
    """

    def __init__(self, settings: ExecutorSettings, folder: str) -> None:
        import submitit

        self.num_workers = settings.num_workers
        self._executor = submitit.AutoExecutor(folder=folder)
        self._executor.update_parameters(
            cpus_per_task=settings.num_cpus,
            gpus_per_node=int(settings.num_gpus),
            name="safety_lightning",
            **settings.slurm,
        )
        self._jobs: dict[str, Any] = {}

    def submit(self, study: Path, stage: Stage) -> None:
        """Begins a stage."""
        self._jobs[stage.name] = self._executor.submit(run_apart, study, stage)

    def collect(self) -> Ended:
        """Waits until a job has ended."""
        while not (done := [stage for stage, job in self._jobs.items() if job.done()]):
            time.sleep(1)
        ended: Ended = []
        for stage in done:
            error = self._jobs.pop(stage).exception()
            lost = type(error).__name__ == "UncompletedJobError"
            ended.append((stage, LostWorkerError(str(error)) if lost else error))
        return ended

    def close(self) -> None:
        """Cancels the jobs that have not ended."""
        for job in self._jobs.values():
            job.cancel()


@contextmanager
def open_pool(executor: Executor, settings: ExecutorSettings, *, folder: str) -> Iterator[Pool]:
    """Opens what tasks run in, and closes it at the end of the block.

    Args:
        executor: Where tasks run.
        settings: How many at once, and with what.
        folder: Where an executor may keep files of its own.

    Raises:
        UserError: If the executor's package or its cluster is not there.
    """
    check_executor(executor, settings)
    if executor == "local" and settings.num_workers == 1:
        yield InlinePool()
        return
    makers: Mapping[str, Callable[[], Any]] = {
        "local": lambda: ProcessPool(settings),
        "ray": lambda: RayPool(settings),
        "slurm": lambda: SlurmPool(settings, folder),
    }
    pool = makers[executor]()
    try:
        yield pool
    finally:
        pool.close()


def check_executor(executor: Executor, settings: ExecutorSettings) -> None:
    """Checks, before anything is written, that tasks can run where they are to.

    Args:
        executor: Where tasks run.
        settings: With what.

    Raises:
        UserError: If the executor's package is not installed, or nobody answers at the address of a cluster.
    """
    _check_package(executor)
    if executor == "ray":
        _check_cluster(settings.address or os.environ.get("RAY_ADDRESS"))


def limit_threads(num_threads: int) -> None:
    """Has a worker's libraries use no more than its share of cores."""
    import torch

    torch.set_num_threads(num_threads)


def list_gpus() -> list[str]:
    """Lists the GPUs of this process as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one for one in named.split(",") if one]
    return [str(number) for number in range(torch.cuda.device_count())]


def share_gpus(gpus: Sequence[str], worker: int, num_workers: int) -> list[str]:
    """Returns the GPUs of one of several workers: a part of its own, or one that it shares where there are too few.

    Example:
        >>> [share_gpus(["0", "1", "2"], worker, 2) for worker in range(2)], share_gpus(["0"], 1, 2)
        ([['0', '2'], ['1']], ['0'])
    """
    if not gpus:
        return []
    return list(gpus[worker::num_workers]) or [gpus[worker % len(gpus)]]


def _begin_worker(shares: Any, num_threads: int) -> None:
    """Gives a process of this machine its GPUs, before anything looks for them, and its threads."""
    if own := shares.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    limit_threads(num_threads)


def run_stage(study: Path, stage: Stage) -> None:
    """Runs a stage of a study."""
    StageStore(study).run(stage)


def run_apart(study: Path, stage: Stage) -> None:
    """Runs a stage in a process that others wait for, which an error of a command must not end.

    Raises:
        UserError: If the command has printed an error and ended.
    """
    try:
        run_stage(study, stage)
    except SystemExit as error:
        raise UserError(f"stage {stage.name} ended with status {error.code}; its output says why") from error


def _run_limited(study: Path, stage: Stage, num_threads: int) -> None:
    limit_threads(num_threads)
    run_apart(study, stage)


def _check_cluster(address: str | None) -> None:
    """Raises UserError if nobody listens at ``host:port``: Ray itself asks for five minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(f"a Ray cluster must be at {address}, nobody answers there: {error}") from error


def _check_package(executor: Executor) -> None:
    package = {"local": "torch", "ray": "ray", "slurm": "submitit"}[executor]
    if find_spec(package) is None:
        raise UserError(
            f"--executor {executor} must have the package {package}, it is not installed: "
            f"pip install 'safety_lightning[{executor}]'"
        )
