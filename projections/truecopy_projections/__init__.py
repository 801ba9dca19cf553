"""From the log to rows, and the proof that they are right. See README.md beside it."""
