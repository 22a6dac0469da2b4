"""BLAS on one thread around matrix products that are too small to share.

On a busy machine a second BLAS thread turns a product of 10 us into one of 10 ms: it waits at a barrier for a
core. ``threadpoolctl.threadpool_limits`` looks up the loaded libraries at each use (1 ms). Here they are
looked up once, and a limit costs two calls into the library (1-3 us).
"""

from __future__ import annotations

from types import TracebackType

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

__all__ = ["SingleThreadedBlas"]


class SingleThreadedBlas:
    """A reusable context manager: one BLAS thread inside, the former number restored on leaving.

    The number belongs to the process: work on other threads sees the limit too. Not to be nested in itself.
    """

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._former: list[int] = []

    def __enter__(self) -> None:
        self._former = [library.get_num_threads() for library in self._libraries]
        for library, former in zip(self._libraries, self._former, strict=True):
            if former != 1:
                library.set_num_threads(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for library, former in zip(self._libraries, self._former, strict=True):
            if former != 1:
                library.set_num_threads(former)
