"""The history of a git repository as events: replicated, proven at any commit, rolled back and forward again."""
