"""What one broker allows of the fault matrix, once each; the whole of it is `make chaos`.

What the drills play is not played again here: servers that are killed or away, processes that are frozen, full disks.
"""

import pytest
from tests.chaos.conftest import Brokers, Opening
from tests.chaos.faults import ON_ONE_BROKER
from tests.chaos.scene import play

from truecopy_services.servers import Server


@pytest.mark.parametrize("fault", ON_ONE_BROKER)
async def test_nothing_is_lost_or_done_twice_or_out_of_order(
    scene: Opening, one_broker: Brokers, postgres_server: Server, fault: str
) -> None:
    async with scene(one_broker, postgres_server, seed=7) as on:
        outcome = await play(on, ON_ONE_BROKER[fault])

    assert (outcome.lost, outcome.twice, outcome.order, outcome.verdict) == (0, 0, 0, "EQUAL"), outcome
    assert outcome.found == {}, outcome.told
