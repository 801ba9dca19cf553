"""What the simulator is run with here: events of the small bank, and what its rows must be, said without its reducers."""

from collections.abc import Sequence
from decimal import Decimal
from random import Random

from tests.projections.bank import Balance, Closed, Deposited

from truecopy_schemas import Event


def drawn(random: Random) -> tuple[str, Event]:
    """An event of one of eight accounts, one in ten of which closes it."""
    key = f"k{random.randrange(8)}"
    return key, Closed() if random.random() < 0.1 else Deposited(amount=random.randint(-50, 50))


def balances(key: str, history: Sequence[Event]) -> list[Balance]:
    """The balance that an account must have: of all deposits since it was closed last."""
    since = max((at + 1 for at, event in enumerate(history) if type(event) is Closed), default=0)
    amounts = [event.amount for event in history[since:] if isinstance(event, Deposited)]
    total = sum(amounts)
    return [Balance(key, total, Decimal(total) / len(amounts), len(amounts))] if amounts else []
