"""Copies of the default scenario in one process and in two, which share memory with the one that trains.

Each process steps a batch of its own and writes what its copies observed and earned into shared memory; the
parent reads it, and says when to go on, as a trainer would. Each has a core of its own, so what is measured
is what the second core brings: copies stepped a second by two processes, over those by one. By wall clock, so
anything else that runs on these cores is in it.

Beside it stands what the machine gives: the same processes and steps, told once to take all of them, so that
there is no waiting and nothing is shared or read. Two such processes are less than twice as fast as one
where cores share caches, memory and power, or are threads of one core, as those of a virtual machine may be.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from powergrid.envs import BatchedMicrogrids

FLOAT32 = np.dtype(np.float32)


def work(orders: Connection, core: int, copies: int, seed: int) -> None:
    """Step a batch at each order; tell the parent first where its memory is and how large its parts are.

    An order is a number of steps, and whether what they bring is shared; None ends.
    """
    os.sched_setaffinity(0, {core})
    batch = BatchedMicrogrids({"num_envs": copies})
    observations, _ = batch.reset(seed=seed)
    columns = [observed.shape[1] + 1 for observed in observations.values()]
    memory = SharedMemory(create=True, size=copies * sum(columns) * FLOAT32.itemsize)
    try:
        orders.send((memory.name, columns))
        shared = np.ndarray((copies, sum(columns)), FLOAT32, memory.buf)
        parts = np.split(shared, np.cumsum(columns)[:-1], axis=1)
        while (order := orders.recv()) is not None:
            steps, is_shared = order
            for _ in range(steps):
                observations, rewards, *_ = batch.step()
            if is_shared:
                _write(parts, observations.values(), rewards.values())
            orders.send(None)
        del shared, parts
    finally:
        memory.close()
        memory.unlink()


def _write(parts: list[Any], observations: Iterable[Any], rewards: Iterable[Any]) -> None:
    """Write what each agent observed and earned into its part; a function, which leaves no view behind."""
    for part, observed, earned in zip(parts, observations, rewards, strict=True):
        part[:, :-1], part[:, -1] = observed, earned


class Workers:
    """Processes that step together.

    Args:
        cores: One for each.
        copies: Of each.
    """

    def __init__(self, cores: list[int], copies: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._copies = copies
        self._ends, self._processes = [], []
        for number, core in enumerate(cores):
            mine, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, core, copies, number * copies), daemon=True)
            process.start()
            self._ends.append(mine)
            self._processes.append(process)
        told = [end.recv() for end in self._ends]
        self._memories = [SharedMemory(name) for name, _ in told]
        shapes = [(copies, sum(columns)) for _, columns in told]
        self._shared = [
            np.ndarray(shape, FLOAT32, memory.buf)
            for shape, memory in zip(shapes, self._memories, strict=True)
        ]
        self._read = [np.zeros(shape, FLOAT32) for shape in shapes]

    def copies_a_second(self, steps: int) -> float:
        """Step all of them and read what they wrote."""
        began_s = time.perf_counter()
        for _ in range(steps):
            self._order(1, True)
            for mine, theirs in zip(self._read, self._shared, strict=True):
                np.copyto(mine, theirs)
        took_s = time.perf_counter() - began_s
        assert all(np.isfinite(part).all() for part in self._read)
        return len(self._ends) * self._copies * steps / took_s

    def copies_a_second_apart(self, steps: int) -> float:
        """Let each take its steps by itself: nothing is shared, and only the end is waited for."""
        began_s = time.perf_counter()
        self._order(steps, False)
        return len(self._ends) * self._copies * steps / (time.perf_counter() - began_s)

    def _order(self, steps: int, is_shared: bool) -> None:
        """Have all of them take steps, and wait until they have."""
        for end in self._ends:
            end.send((steps, is_shared))
        for end in self._ends:
            end.recv()

    def close(self) -> None:
        """End them."""
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()
        self._shared.clear()  # views, which keep memory from being closed
        for memory in self._memories:
            memory.close()


def measured(rounds: int, copies: int, cores: list[int], steps: int = 24) -> tuple[list[float], list[float]]:
    """Return a ratio a round: of processes that share memory, and of what the machine gives."""
    one, two = Workers(cores[:1], copies), Workers(cores[:2], copies)
    ways: tuple[Callable[[Workers], float], ...] = (
        lambda workers: workers.copies_a_second(steps),
        lambda workers: workers.copies_a_second_apart(steps),
    )
    try:
        for workers in (one, two):
            workers.copies_a_second(steps)
        rows = [[speed(two) / speed(one) for speed in ways] for _ in range(rounds)]
        return [shared for shared, _ in rows], [apart for _, apart in rows]
    finally:
        one.close()
        two.close()
