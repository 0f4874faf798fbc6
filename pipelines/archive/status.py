"""Coverage of an archive, finished or not: image shards by blocks of views."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rich.text import Text

from teacher_cache.archive.format.calibration import get_agreement
from teacher_cache.archive.format.layout import MAX_VIEW
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.archive.format.receipts import RECEIPTS, Receipt
from teacher_cache.archive.format.spec import SPEC_FILE
from teacher_cache.archive.format.spec_file import existing_spec
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.labels.agreement import Agreement
from teacher_cache.storage.store import Store

_RECEIPT = re.compile(RECEIPTS + r"/([0-9]{5,10})-([0-9]{3,7})\.json")
State = Literal["done", "elsewhere", "damaged", "missing"]
_STYLES: dict[State, str] = {"done": "green", "elsewhere": "cyan", "damaged": "bold red", "missing": "dim"}
_SIGNS: dict[State, str] = {"done": "█", "elsewhere": "▓", "damaged": "✗", "missing": "·"}
_WORST: tuple[State, ...] = ("damaged", "missing", "elsewhere", "done")


@dataclasses.dataclass(frozen=True)
class Status:
    """Coverage of an archive.

    Attributes:
        finished: Whether the archive has a manifest.
        views_per_unit: Views in a block.
        stops: Index of the first view after each block.
        states: State of each unit, by block and shard; "damaged" is an invalid receipt, or missing objects.
        label_bytes: Bytes of all objects of units that are done.
        agreement: Agreement of the teacher with the true labels; None where it was not measured.
    """

    fingerprint: str
    finished: bool
    views_per_unit: int
    stops: list[int]
    states: list[list[State]]
    label_bytes: int
    agreement: Agreement | None

    def count(self, state: State) -> int:
        """Return the number of units in a state."""
        return sum(states.count(state) for states in self.states)


def status(url: str) -> Status:
    """Return the coverage of an archive, from receipts and the sizes of their objects.

    Raises:
        ArchiveError: There is no archive.
        InputError: The store cannot list files.
    """
    store = Store(url)
    if not store.can_list:
        raise InputError(
            f"status of {url}: a web server lists no files",
            "The units of an unfinished archive cannot be counted without a list of files.",
            f"check a finished archive with teacher-cache verify {url}",
        )
    if store.stat(SPEC_FILE) is None and store.stat(MANIFEST_FILE) is None:
        raise ArchiveError(
            f"{url} is not an archive: it has no {SPEC_FILE}", "Its units cannot be shown.", "check the path"
        )
    writer = ArchiveWriter(store, existing_spec(store))
    receipts, layout = writer.receipts(), writer.spec.layout
    units = _units(writer, receipts, store.list(RECEIPTS))
    num_blocks = max((block for _, block in units), default=-1) + 1
    absent = _UnitState("missing", 0)
    found = [
        [units.get((shard, block), absent) for shard in range(layout.num_shards)]
        for block in range(num_blocks)
    ]
    return Status(
        fingerprint=writer.spec.fingerprint,
        finished=store.stat(MANIFEST_FILE) is not None,
        views_per_unit=layout.views_per_unit,
        stops=[
            max(unit.stop_view for unit in row) or (block + 1) * layout.views_per_unit
            for block, row in enumerate(found)
        ],
        states=[[unit.state for unit in row] for row in found],
        label_bytes=sum(receipt.num_bytes for receipt in receipts),
        agreement=get_agreement(store, writer.spec),
    )


class _UnitState(NamedTuple):
    state: State
    stop_view: int


def _units(
    writer: ArchiveWriter, receipts: Sequence[Receipt], names: Sequence[str]
) -> dict[tuple[int, int], _UnitState]:
    """Return the state of every unit that has a receipt, by shard and block."""
    layout = writer.spec.layout
    units: dict[tuple[int, int], _UnitState] = {}
    for name in names:  # an invalid receipt marks a damaged unit, until a valid one is met
        match = _RECEIPT.fullmatch(name)
        if match and int(match[1]) < layout.num_shards and int(match[2]) < MAX_VIEW // layout.views_per_unit:
            units[int(match[1]), int(match[2])] = _UnitState("damaged", 0)
    for theirs in writer.extends.values():
        for receipt in theirs:
            units[receipt.unit.shard, receipt.unit.block] = _UnitState("elsewhere", receipt.unit.stop_view)
    for receipt in receipts:
        units[receipt.unit.shard, receipt.unit.block] = _UnitState("done", receipt.unit.stop_view)
    return units


def picture(found: Status, width: int) -> Iterator[Text]:
    """Yield a line per block of views, a character per shard or few shards to fit `width`; then counts."""
    for block, states in enumerate(found.states):
        line = Text(f"views {block * found.views_per_unit:>5}:{found.stops[block]:<5} ")
        step = -(-len(states) // max(1, width - len(line)))
        for start in range(0, len(states), step):
            some = states[start : start + step]
            worst = next(state for state in _WORST if state in some)
            is_mixed = worst == "missing" and set(some) != {"missing"}
            line.append("▒" if is_mixed else _SIGNS[worst], "yellow" if is_mixed else _STYLES[worst])
        yield line
    counts = ((state, found.count(state)) for state in reversed(_WORST))
    yield Text(", ").join(
        Text(f"{_SIGNS[state]} {count:,} {state}", _STYLES[state]) for state, count in counts
    )
