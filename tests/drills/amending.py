"""The points of a ruling, which have their drill in test_amend_kills."""

from truecopy_bus.points import Point

AMENDING = [point for point in Point if point.value.startswith("amend.")]
