"""An app whose projection has two numbers: `tally@1`, and `tally@2` with a column more, which refuses what it is told to."""

from dataclasses import dataclass

from truecopy_services import Change, Event, Projection, Truecopy


class Paid(Event, entity="till.account", kind="delta"):
    amount: int


@dataclass(frozen=True)
class Tally:
    account: str
    amount: int


@dataclass(frozen=True)
class Counted:
    account: str
    amount: int
    payments: int


refused: set[int] = set()
"""Amounts that the reducer of the second number fails for."""
first = Projection("tally", entity="till.account", row=Tally)
second = Projection("tally", entity="till.account", row=Counted, version=2)


@first.on(Paid)
def _first(row: Tally | None, event: Paid, change: Change) -> Tally:
    return Tally(change.key, event.amount + (row.amount if row else 0))


@second.on(Paid)
def _second(row: Counted | None, event: Paid, change: Change) -> Counted:
    if event.amount in refused:
        raise ValueError("no such amount")
    return Counted(change.key, event.amount + (row.amount if row else 0), 1 + (row.payments if row else 0))


def till(*numbers: Projection[Tally] | Projection[Counted]) -> Truecopy:
    """The app with these numbers declared."""
    app = Truecopy("till", partitions=2)
    for number in numbers:
        app.add(number)
    return app


def payments(keys: int, each: int) -> list[tuple[str, Paid]]:
    return [(f"a{at % keys}", Paid(amount=at)) for at in range(keys * each)]


both = till(first, second)
