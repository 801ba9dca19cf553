"""The suite that every replica passes, whatever database it is kept in."""

from truecopy_projections.testing.replica_amending import AmendingSuite
from truecopy_projections.testing.replica_effects import EffectsSuite
from truecopy_projections.testing.replica_fencing import FencingSuite
from truecopy_projections.testing.replica_gathering import GatheringSuite
from truecopy_projections.testing.replica_reading import ReadingSuite
from truecopy_projections.testing.replica_staging import StagingSuite
from truecopy_projections.testing.replica_storing import StoringSuite

__all__ = ["ReplicaSuite"]


class ReplicaSuite(StoringSuite, FencingSuite, ReadingSuite, GatheringSuite, AmendingSuite, EffectsSuite, StagingSuite):
    """Every Replica passes this unchanged. Subclass it, give a `replica` fixture with a new and empty one, add nothing.

    It is for pytest with pytest-asyncio in its automatic mode, and it never waits for time to pass.
    """
