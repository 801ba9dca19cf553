"""A small app for the command line's tests."""

from dataclasses import dataclass

from truecopy_services import Change, Event, Truecopy


class Deposited(Event, entity="bank.account", kind="delta"):
    amount: int


@dataclass
class Balance:
    amount: int


app = Truecopy("bank", partitions=2)
balances = app.projection("balance", entity="bank.account", row=Balance)


@balances.on(Deposited)
def deposit(row: Balance | None, event: Deposited, _: Change) -> Balance:
    if event.amount < 0:
        raise ValueError("negative")
    return Balance((row.amount if row else 0) + event.amount)
