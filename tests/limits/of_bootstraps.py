"""Drives of the bounds that a bootstrap keeps: how much it copies at a time, how much of the log it reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.limits.drives import drives
from tests.limits.history import copied

from truecopy_bus.record import TopicState
from truecopy_bus.sql import Database
from truecopy_bus.sql.sqlite import SqliteDatabase
from truecopy_projections import limits
from truecopy_projections.certificate_form import Certificate
from truecopy_projections.digest import bucket_of
from truecopy_projections.inheritance import Inheritance, unfit
from truecopy_projections.replicas.landing import Pace, own_room
from truecopy_projections.replicas.landing_beside import beside
from truecopy_projections.replicas.landing_file import as_file
from truecopy_projections.state import Checkpoint, MarkVerdict, PartitionState

INCARNATION = "a" * 32
PAGE_BYTES = 4096


class NotingPace(Pace):
    """Notes the bytes of each step."""

    def __init__(self) -> None:
        super().__init__(None, lambda *_: None)
        self.steps: list[int] = []

    async def moved(self, size: int, total: int | None) -> None:
        self.steps.append(size)
        await super().moved(size, total)


async def peer_of(path: Path, rows: int, text: str = "") -> Database:
    peer, room = SqliteDatabase(str(path), synchronous="NORMAL"), own_room(copied)
    await peer.install((room.rows, room.keys))
    keys = [f"k{each}" for each in range(rows)]
    async with peer.transaction() as tx:
        await tx.put(room.rows, [(key + text, 1, key, 0, b"", bucket_of(key), None, None, None) for key in keys])
    return peer


def refuse(why: Any) -> Exception:
    return RuntimeError(why)


@drives("projections.BOOTSTRAP_COPY_ROWS")
async def the_rows_of_one_transaction(tmp_path: Path) -> None:
    peer = await peer_of(tmp_path / "peer.db", limits.BOOTSTRAP_COPY_ROWS + 1)
    new, pace = SqliteDatabase(str(tmp_path / "new.db"), synchronous="NORMAL"), NotingPace()
    async with beside(new, copied, refuse, service="", replace=False, lease_s=3.0) as landing, peer.snapshot() as source:
        await landing.copy(source, pace)
        async with landing.reading() as copy:
            found = [len(batch.keys) async for batch in landing.room.all_rows(copy)]
    await peer.close()
    await new.close()

    assert sum(found) == limits.BOOTSTRAP_COPY_ROWS + 1
    assert len(pace.steps) == 2
    assert pace.steps[0] > limits.BOOTSTRAP_COPY_ROWS * pace.steps[1] / 2


@drives("projections.BOOTSTRAP_PAGES")
async def the_pages_of_one_step(tmp_path: Path) -> None:
    peer = await peer_of(tmp_path / "peer.db", limits.BOOTSTRAP_PAGES // 2, "x" * 2 * PAGE_BYTES)
    pace = NotingPace()
    async with as_file(tmp_path / "new.db", copied, refuse, service="") as landing, peer.snapshot() as source:
        await landing.copy(source, pace)
    await peer.close()

    assert len(pace.steps) > 1
    assert {*pace.steps[:-1]} == {limits.BOOTSTRAP_PAGES * PAGE_BYTES}


@drives("projections.BOOTSTRAP_TAIL_RECORDS_MAX")
def the_records_beyond_a_mark() -> None:
    position = limits.BOOTSTRAP_TAIL_RECORDS_MAX + 7
    state = PartitionState(partition=0, incarnation=INCARNATION, position=position)
    mark = Checkpoint(
        partition=0, offset=7, epoch=1, number=1, count=0, mark_count=0, input_digest=0, mark_digest=0, row_digest=0,
        verdict=MarkVerdict.EQUAL, at_ms=0,
    )  # fmt: skip
    none = {0: "0" * 64}
    figures: dict[str, Any] = {"positions": {0: 0}, "counts": {0: 0}, "input_digests": none, "row_digests": none}
    certificate = Certificate.model_construct(**figures, amendments=())
    topic = TopicState(name="t", partitions=1, incarnation=INCARNATION, bounds={0: (0, position)})

    def judged(offset: int) -> Any:
        checkpoints = [replace(mark, offset=offset)]
        return unfit(Inheritance(states={0: state}, checkpoints=checkpoints, waiting=[], certificate=certificate), topic)

    assert judged(7) is None
    assert f"{limits.BOOTSTRAP_TAIL_RECORDS_MAX + 1} records beyond its last mark" in judged(6)[0]
