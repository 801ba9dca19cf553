"""The app of the drills: two projections of one entity, run as processes."""

from tests.projections.bank import balance, entries

from truecopy_services import Truecopy

app = Truecopy("ledger", partitions=2)
app.add(balance)
app.add(entries)
