"""What the verbs for operators have in common: decisions over values. The verbs in `cli/` do the asking and the showing."""

__all__: list[str] = []
