"""What gathered rows cost: orders of regions applied with and without their totals, and one more order to a group of each size.

    python tests/benchmarks/gathered.py --orders 19000 --groups 1 100 10000 [--postgres ADDRESS]

Plans are made by hand and applied to a replica, 5,000 orders to a batch: what log and decoding cost is left out.
"""

import asyncio
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from truecopy_bus.sql.address import connect
from truecopy_projections.digest import row_hash
from truecopy_projections.projection import Address, Projection
from truecopy_projections.replica import Replica
from truecopy_projections.replicas import SqlReplica
from truecopy_projections.state import StoredRow
from truecopy_projections.testing.replica_plans import key_states, moved_on, taken

BATCH = 5_000
ONE_MORE = 7
"""Single orders whose median is told."""


@dataclass(frozen=True)
class Order:
    region: str
    amount: int


@dataclass(frozen=True)
class Total:
    region: str
    orders: int
    amount: int


def taken_out(whole: Total, part: Total) -> Total:
    return Total(whole.region, whole.orders - part.orders, whole.amount - part.amount)


def orders(name: str, how: str) -> Projection[Order]:
    found = Projection(name, entity="bench.order", row=Order)
    if how != "plain":
        found.gather(
            f"{name}_total",
            row=Total,
            by="region",
            each=lambda one: Total(one.region, 1, one.amount),
            merge=lambda one, other: Total(one.region, one.orders + other.orders, one.amount + other.amount),
            unmerge=taken_out if how == "unmerged" else None,
        )
    return found


def puts(projection: Projection[Order], numbers: Sequence[int], groups: int) -> dict[Address, StoredRow]:
    rows = {f"o{number}": (f"region {number % groups}", number) for number in numbers}
    return {(key, ()): StoredRow(values, row_hash(projection.id, key, values)) for key, values in rows.items()}


async def measured(replica: Replica, projection: Projection[Order], *, total: int, groups: int) -> tuple[float, float]:
    """Orders a second while there come more and more, and the seconds of one more at the end."""
    fences, states = await taken(replica, projection, partitions=1)
    state, spent = states[0], 0.0
    batches = [range(at, min(at + BATCH, total)) for at in range(0, total, BATCH)]
    singles: list[float] = []
    for numbers in [*batches, *(range(total + at, total + at + 1) for at in range(ONE_MORE))]:
        made = puts(projection, numbers, groups)
        plan = moved_on(fences[0], state, puts=made, keys=key_states(*(key for key, _ in made)))
        began = time.perf_counter()
        await replica.apply(projection, [plan])
        took, state = time.perf_counter() - began, plan.state
        if len(numbers) > 1:
            spent += took
        else:
            singles.append(took)
    return total / spent, sorted(singles)[ONE_MORE // 2]


async def main(total: int, sizes: Sequence[int], postgres: str) -> None:
    with TemporaryDirectory() as folder:
        for address in [f"sqlite:{Path(folder) / 'replica.db'}", *([postgres] if postgres else [])]:
            replica = SqlReplica(await connect(address, synchronous="NORMAL"))
            kind = address.partition(":")[0]
            for groups in sizes:
                for how in ("plain", "gathered", "unmerged"):
                    name = f"bench_{groups}_{how}"
                    rate, one = await measured(replica, orders(name, how), total=total, groups=groups)
                    told = f"{kind:10} {total} orders, {groups:6} groups, {name.rpartition('_')[2]:9}"
                    print(f"{told}: {rate:8.0f}/s, one more {1000 * one:7.1f} ms")
            await replica.close()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=19_000)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--postgres", default="")
    asked = parser.parse_args()
    asyncio.run(main(asked.orders, asked.groups, asked.postgres))
