"""Shuffled delivery: what it says, the same for the same seed; and it finds reducers that depend on what they must not."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from tests.services.test_kit import Balance, Deposited, RateSet, bank

from truecopy_bus.log import Log
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.record import Outgoing, TopicSpec
from truecopy_bus.testing import LogSuite
from truecopy_services import Change, Truecopy
from truecopy_services.errors import UsageError
from truecopy_services.testing import NotConvergedError, NotSettledError
from truecopy_services.testing.shuffling import ShufflingLog, interleaved, repeated

SEEDS = range(5)
RECORDS = [Outgoing(b"k%d" % (n % 3), b"%d" % n, n) for n in range(30)]


def of_key(records: list[Outgoing], key: bytes | None) -> list[Outgoing]:
    return [record for record in records if record.key == key]


@pytest.mark.parametrize("seed", SEEDS)
def test_interleaving_changes_the_order_of_keys_and_of_no_key(seed: int) -> None:
    found = interleaved(RECORDS, Random(seed))

    assert found != RECORDS
    assert all(of_key(found, key) == of_key(RECORDS, key) for key in (b"k0", b"k1", b"k2"))
    assert found == interleaved(RECORDS, Random(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_repeating_sends_all_and_some_twice_each_after_its_first(seed: int) -> None:
    sent, late = repeated([], RECORDS, 0.3, Random(seed))
    again, _ = repeated(late, [], 0.3, Random(seed))

    assert [record for n, record in enumerate(sent) if record not in sent[:n]] == RECORDS
    assert set(Counter(sent).values()) == {1, 2}
    assert late
    assert Counter(again) == Counter(late)
    assert repeated([], RECORDS, 0.0, Random(seed)) == (RECORDS, [])


class TestShufflingLog(LogSuite):
    """It is a log like any other to those who do not look at the order of keys."""

    test_keys_values_headers_and_times_survive_to_the_byte = None  # type: ignore[assignment]  # its batch mixes keys

    @pytest.fixture
    async def log(self) -> AsyncIterator[Log]:
        log = ShufflingLog(MemoryLog(), seed=1, shuffle=True, duplicates=0.0)
        yield log
        await log.close()

    async def delete_topic(self, log: Any, topic: str) -> None:
        await log.inner.delete(topic)

    async def trim(self, log: Any, topic: str, partition: int, before_offset: int) -> None:
        await log.inner.trim(topic, partition, before_offset)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_shuffled_reader_gives_a_few_records_of_some_partitions(seed: int) -> None:
    inner = MemoryLog()
    log = ShufflingLog(inner, seed=seed, shuffle=True, duplicates=0.0)
    await log.create(TopicSpec(name="bank.account", partitions=3))
    for partition in range(3):
        await log.append("bank.account", partition, RECORDS)
    reader, at = log.reader("bank.account"), dict.fromkeys(range(3), 0)
    reads: list[list[int]] = []
    while records := await reader.read(at, records_max=5_000, wait_s=0):
        for record in records:
            assert record.offset == at[record.partition]
            at[record.partition] += 1
        reads.append([record.partition for record in records])

    assert at == dict.fromkeys(range(3), len(RECORDS) + 1)
    assert len({len(read) for read in reads}) > 3
    assert len({read[0] for read in reads[:9]}) > 1, "one partition after the other is no shuffled delivery"


async def delivered(seed: int, **options: float | bool) -> tuple[list[list[bytes | None]], int, int]:
    """The values on the log between two marks each, the duplicates that were met, and the calls of the reducer."""
    log = MemoryLog()
    calls = 0
    app = Truecopy("bank", partitions=1)
    balances = app.projection("balance", entity="bank.account", row=Balance)

    @balances.on(Deposited)
    def deposit(row: Balance | None, event: Deposited, _: Change) -> Balance:
        nonlocal calls
        calls += 1
        return Balance((row.amount if row else 0) + event.amount)

    async with app.test(log=log, seed=seed, prove=False, **options) as service:  # type: ignore[arg-type]
        for _ in range(2):
            await service.publish_many((f"a{n % 5}", Deposited(amount=n)) for n in range(20))
            await service.settle()
        reduced = calls
        (report,) = await service.check(deep=True)
        values: list[list[bytes | None]] = [[]]
        for record in log._topics["bank.account"].partitions[0].records:
            values += [[]] if record.headers else []
            values[-1] += [] if record.headers else [record.value]
        await service.prove()
    return [some for some in values if some], report.delivered.facts["duplicates"], reduced


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_seed_repeats_its_delivery_and_another_does_not(seed: int) -> None:
    first = await delivered(seed, shuffle=True, duplicates=0.3)
    again = await delivered(seed, shuffle=True, duplicates=0.3)
    other = await delivered(seed + 1, shuffle=True, duplicates=0.3)

    assert again == first
    assert other[0] != first[0]
    (sooner, later), duplicates, reduced = first
    assert (len({*sooner, *later}), len(sooner) + len(later)) == (40, 40 + duplicates)
    assert len(set(sooner)) < len(sooner), "nothing came twice at once"
    assert set(sooner) & set(later), "nothing came twice much later"
    assert reduced > 40, "no worker died before a commit"


async def test_shuffling_repeats_nothing_and_repeating_shuffles_nothing() -> None:
    shuffled, duplicates, reduced = await delivered(1, shuffle=True)
    assert ([len(some) for some in shuffled], duplicates, reduced) == ([20, 20], 0, 40)

    twice, duplicates, _ = await delivered(1, duplicates=0.3)
    assert duplicates > 0
    assert set(twice[0]) == set(shuffled[0])
    assert list(dict.fromkeys(twice[0])) != shuffled[0]


@dataclass
class Converted:
    amount: int


def converting() -> Truecopy:
    """A reducer that takes its rate from whatever another key said last: it depends on order between keys."""
    app = Truecopy("bank", partitions=1)
    converted = app.projection("converted", entity="bank.account", row=Converted)
    rate = 0

    @converted.on(RateSet)
    def set_rate(_: Converted | None, event: RateSet, __: Change) -> None:
        nonlocal rate
        rate = event.rate

    @converted.on(Deposited)
    def deposit(row: Converted | None, event: Deposited, _: Change) -> Converted:
        return Converted((row.amount if row else 0) + event.amount * rate)

    return app


async def rates_and_deposits(app: Truecopy, *, shuffle: bool, seed: int | None = None) -> None:
    async with app.test(shuffle=shuffle, seed=seed) as service:
        await service.publish("rate", RateSet(rate=1))
        await service.settle()
        for rate in range(2, 7):
            await service.publish("rate", RateSet(rate=rate))
            await service.publish(f"a{rate}", Deposited(amount=10))


async def test_a_reducer_that_depends_on_order_between_keys_passes_in_order() -> None:
    await rates_and_deposits(converting(), shuffle=False)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_reducer_that_depends_on_order_between_keys_is_found_and_the_seed_is_named(seed: int) -> None:
    message = r"converted@1, where in-order delivery gives what is expected: 'a\d' at version 1 is different: amount: stored"
    with pytest.raises(NotConvergedError, match=message) as raised:
        await rates_and_deposits(converting(), shuffle=True, seed=seed)

    assert f"seed={seed}" in raised.value.__notes__[0]


async def test_a_reducer_that_depends_on_where_batches_end_is_found() -> None:
    """It keeps its rows itself, so what was reduced for a batch that nobody committed stays."""
    app = Truecopy("bank", partitions=1)
    balances = app.projection("balance", entity="bank.account", row=Balance)
    kept: dict[str, int] = {}

    @balances.on(Deposited)
    def deposit(_: Balance | None, event: Deposited, change: Change) -> Balance:
        amount = kept.get(change.key, 0) if change.version > 1 else 0
        kept[change.key] = amount + event.amount
        return Balance(kept[change.key])

    async def deposits(*, duplicates: float, seed: int | None = None) -> None:
        async with app.test(duplicates=duplicates, seed=seed) as service:
            for _ in range(10):
                await service.publish("a1", Deposited(amount=1))
                await service.settle()

    await deposits(duplicates=0.0)
    with pytest.raises(NotConvergedError, match=r"computed DIVERGED.*\n.*amount: stored [12]\d, expected 10"):
        await deposits(duplicates=0.5, seed=1)


async def drawn_and_failed(app: Truecopy, seeds: list[int | None]) -> None:
    async with app.test(duplicates=0.1) as service:
        seeds.append(service.seed)
        raise AssertionError


async def test_every_failure_names_the_seed() -> None:
    app, _ = bank()

    with pytest.raises(NotSettledError) as parked:
        async with app.test(shuffle=True, seed=41) as service:
            await service.publish("a1", Deposited(amount=-1))
    seeds: list[int | None] = []
    with pytest.raises(AssertionError) as own:
        await drawn_and_failed(app, seeds)
    with pytest.raises(pytest.fail.Exception) as failed:
        async with app.test(shuffle=True, seed=42):
            pytest.fail("on purpose")

    for raised, seed in ((parked, 41), (own, seeds[0]), (failed, 42)):
        assert f"test(..., seed={seed})" in raised.value.__notes__[0]


@pytest.mark.parametrize("options", [{"seed": 1}, {"duplicates": 1.0}, {"duplicates": -0.1}])
async def test_what_can_not_be_meant_is_refused(options: dict[str, float]) -> None:
    app, _ = bank()

    with pytest.raises(UsageError):
        async with app.test(**options):  # type: ignore[arg-type]
            pass
