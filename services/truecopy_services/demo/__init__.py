"""The demo mesh: a shop's real purchases, two services that copy them, a kill, a proof, a damaged row and its repair."""

__all__: list[str] = []
