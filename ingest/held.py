"""Rows that can only be read while the partition they come from is certainly ours.

An engine asks a block for its rows in the thread that sends them, right before it does: that is
the last moment at which a worker that was suspended can notice that its partition has gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shared.clickhouse.contract import ColumnBlock, RowBlock
from shared.errors import AppError


class LeaseLostError(AppError):
    """Nobody answered for the partition for too long; nothing was sent."""

    code = "lease_lost"
    retriable = True


class HeldLines:
    """A block with the question before its rows are handed out.

    Args:
        block: The rows.
        is_held: Whether the partition is ours; called in the sending thread.
    """

    def __init__(self, block: RowBlock, is_held: Callable[[], bool]) -> None:
        self._block = block
        self._is_held = is_held

    @property
    def row_count(self) -> int:
        """How many rows."""
        return self._block.row_count

    def json_lines(self) -> Iterable[bytes]:
        """The rows.

        Raises:
            LeaseLostError: The partition is not certainly ours any more.
        """
        self._check()
        return self._block.json_lines()

    def _check(self) -> None:
        if not self._is_held():
            raise LeaseLostError("The partition may belong to another worker by now.")


class HeldColumns(HeldLines):
    """The same for a block that can be asked for its columns too."""

    def __init__(self, block: ColumnBlock, is_held: Callable[[], bool]) -> None:
        super().__init__(block, is_held)
        self._columns = block

    def columns(self) -> Sequence[Sequence[Any]]:
        """The rows by column; raises as ``json_lines``."""
        self._check()
        return self._columns.columns()


def held_block(block: RowBlock, is_held: Callable[[], bool]) -> RowBlock:
    """The block in a form that can only be sent while ``is_held`` says so."""
    return (
        HeldColumns(block, is_held) if isinstance(block, ColumnBlock) else HeldLines(block, is_held)
    )
