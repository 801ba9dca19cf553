"""What every embedded reader asks of the positions that it is handed: are they stored, and whose turn is it."""

from collections.abc import Mapping, Sequence

from truecopy_bus.errors import PositionLostError

__all__ = ["refuse_lost", "rotated"]


def refuse_lost(topic: str, positions: Mapping[int, int], bounds: Mapping[int, tuple[int, int]]) -> None:
    """Raise PositionLostError for the first position outside of its partition's bounds; the end itself is inside."""
    for partition, position in positions.items():
        start, end = bounds.get(partition, (0, -1))
        if not start <= position <= end:
            raise PositionLostError(topic=topic, partition=partition, position=position, start=start, end=max(end, 0))


def rotated(positions: Mapping[int, int], turn: int) -> Sequence[tuple[int, int]]:
    """The (partition, position) pairs, begun by another one each turn, so that none is last for ever."""
    pairs = sorted(positions.items())
    cut = turn % len(pairs) if pairs else 0
    return pairs[cut:] + pairs[:cut]
