"""The demo on the history of a git repository: each path an entity, each commit that touches it an event, each tree proven."""

__all__: list[str] = []
