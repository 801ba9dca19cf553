"""The app of the drill: a reducer, a copy that may go by columns, and one with several rows for each key."""

from tests.drills.ledger import latest
from tests.projections.bank import balance, entries

from truecopy_services import Truecopy

PARTITIONS = 6
PROJECTIONS = (balance, entries, latest)

app = Truecopy("ledger", partitions=PARTITIONS)
for projection in PROJECTIONS:
    app.add(projection)
