"""Copies of the default scenario in one process and in two, which share memory with the one that trains.

Each process steps a batch of its own and writes what its copies observed and earned into shared memory; the
parent reads it, and says when to go on, as a trainer would. Each has a core of its own, so what is measured
is what the second core brings: copies stepped a second by two processes, over those by one. By wall clock, so
anything else that runs on these cores is in it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from powergrid.envs import BatchedMicrogrids

FLOAT32 = np.dtype(np.float32)


def work(orders: Connection, core: int, copies: int, seed: int) -> None:
    """Step a batch at each order; tell the parent first where its memory is and how large its parts are."""
    os.sched_setaffinity(0, {core})
    batch = BatchedMicrogrids({"num_envs": copies})
    observations, _ = batch.reset(seed=seed)
    columns = [observed.shape[1] + 1 for observed in observations.values()]
    memory = SharedMemory(create=True, size=copies * sum(columns) * FLOAT32.itemsize)
    try:
        orders.send((memory.name, columns))
        shared = np.ndarray((copies, sum(columns)), FLOAT32, memory.buf)
        parts = np.split(shared, np.cumsum(columns)[:-1], axis=1)
        while orders.recv():
            observations, rewards, *_ = batch.step()
            for part, agent in zip(parts, batch.agents, strict=True):
                part[:, :-1], part[:, -1] = observations[agent], rewards[agent]
            orders.send(None)
        del shared, parts, part
    finally:
        memory.close()
        memory.unlink()


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
        self._shapes = [(copies, sum(columns)) for _, columns in told]

    def copies_a_second(self, steps: int) -> float:
        """Step all of them and read what they wrote."""
        read: list[Any] = []
        began_s = time.perf_counter()
        for _ in range(steps):
            for end in self._ends:
                end.send(True)
            for end in self._ends:
                end.recv()
            parts = zip(self._shapes, self._memories, strict=True)
            read = [np.ndarray(shape, FLOAT32, memory.buf).copy() for shape, memory in parts]
        took_s = time.perf_counter() - began_s
        assert all(np.isfinite(part).all() for part in read)
        return len(self._ends) * self._copies * steps / took_s

    def close(self) -> None:
        """End them."""
        for end in self._ends:
            end.send(False)
        for process in self._processes:
            process.join()
        for memory in self._memories:
            memory.close()


def measured(rounds: int, copies: int, cores: list[int], steps: int = 24) -> list[float]:
    """Return a ratio a round."""
    one, two = Workers(cores[:1], copies), Workers(cores[:2], copies)
    try:
        for workers in (one, two):
            workers.copies_a_second(steps)
        return [two.copies_a_second(steps) / one.copies_a_second(steps) for _ in range(rounds)]
    finally:
        one.close()
        two.close()
