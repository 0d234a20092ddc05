"""What servers for tests have in common: started as a whole or not at all, and gone at the end of the block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Server(ABC):
    """`with Server() as server: ...`"""

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers. Raises: RuntimeError with its log when it does not."""

    @abstractmethod
    def remove(self) -> None:
        """End what runs, also of a start that failed half-way, and remove its files."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
