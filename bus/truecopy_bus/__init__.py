"""From a service's write to the log: event store, outbox, relay, and logs behind one port. See README.md beside it."""
