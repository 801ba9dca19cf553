"""Every bound of the bus, with its unit and its reason."""

__all__ = [
    "APPEND_RECORDS_MAX",
    "APPEND_TIMEOUT_S",
    "BACKOFF_FIRST_S",
    "BACKOFF_LAST_S",
    "CHUNK_BYTES_MAX",
    "CLAIM_ATTEMPTS_MAX",
    "CONNECT_TIMEOUT_S",
    "HISTORY_EVENTS_MAX",
    "LEASE_S",
    "LEASE_STRETCH_MAX",
    "LOG_POLL_S",
    "LOG_WAL_BYTES_KEPT",
    "LOG_WAL_PAGES",
    "MARK_EVENTS_MAX",
    "MARK_IDLE_S",
    "MARK_REQUESTS_KEPT_MS",
    "MARK_WRITING_S",
    "POOL_CONNECTIONS_MAX",
    "PUBLISH_EVENTS_MAX",
    "READ_BYTES_MAX",
    "READ_RECORDS_MAX",
    "READ_WAIT_S",
    "RECORD_BYTES_MAX",
    "REFUSED_REPEAT_S",
    "REFUSED_RETRY_S",
    "RELAY_BYTES_MAX",
    "RELAY_CHECK_S",
    "RELAY_POLL_S",
    "RELAY_ROWS_MAX",
    "RELAY_STAYING_ROWS",
    "REQUEST_TIMEOUT_S",
    "SCHEMA_ANSWER_BYTES_MAX",
    "SCHEMA_MISSING_S",
    "SCHEMA_WAIT_S",
    "SNAPSHOTS_MAX",
    "SNAPSHOT_STRIDE",
    "STALL_TIMEOUT_S",
    "STATEMENT_TIMEOUT_S",
    "TAIL_RECORDS_FIRST",
    "TAIL_RECORDS_MAX",
]

RECORD_BYTES_MAX = 1_000_000
"""Bytes of one record, key, value and headers. Under Kafka's default message.max.bytes (1,048,588) with room for framing."""
APPEND_RECORDS_MAX = 5_000
"""Records in one append. Above this a batch gains nothing and a lost reply costs more to send again."""
APPEND_TIMEOUT_S = 30.0
"""Seconds until an append, or reading one back, is given up. aiokafka's own waits have no end when brokers are away."""
READ_RECORDS_MAX = 50_000
"""Records that one read returns at most: what a worker holds in memory, and what one transaction writes."""
READ_BYTES_MAX = 32 * 1024 * 1024
"""Bytes that one read returns at most (soft: one record more may come)."""
READ_WAIT_S = 0.5
"""Seconds that a read waits for a first record; also how late a stop or a lost lease is noticed."""
LOG_POLL_S = 0.005
"""Seconds between looks at the embedded log by a waiting reader of another process."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds for a connection to a broker or a database."""
REQUEST_TIMEOUT_S = 10.0
"""Seconds for one answer of a broker that we are connected to."""
STALL_TIMEOUT_S = 10.0
"""Seconds of fetching nothing from Kafka, though there is something, until the connection is made anew."""
STATEMENT_TIMEOUT_S = 60.0
"""Seconds for one statement, and for SQLite's wait on a lock."""
SNAPSHOTS_MAX = 4
"""Read connections to one SQLite file that a process holds open: each is a thread."""
POOL_CONNECTIONS_MAX = 8
"""Connections to one PostgreSQL database that a process holds; its default limit for all is 100."""
BACKOFF_FIRST_S = 0.05
"""Seconds before the first retry of something that is away; doubles each time."""
BACKOFF_LAST_S = 5.0
"""Seconds between retries at the most: the delay before a return is noticed."""
LEASE_S = 3.0
"""Seconds after which a silent holder of a partition has lost it. Renewed at each third of it."""
LEASE_STRETCH_MAX = 10
"""Times its length that a lease has at the most for a relay whose turns take longer: by default as long as an append may."""
RELAY_ROWS_MAX = 5_000
"""Outbox rows that one pass of a relay takes."""
RELAY_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of bodies that one pass of a relay holds in memory (soft: one row more may come)."""
RELAY_POLL_S = 0.02
"""Seconds between looks of an idle relay at what other processes have published."""
RELAY_STAYING_ROWS = 100
"""Rows that stay in the outbox, for each so many of which an idle relay looks again one RELAY_POLL_S later."""
RELAY_CHECK_S = 1.0
"""Seconds between looks of a relay for new entities, and at the life of each topic that it fills."""
REFUSED_REPEAT_S = 60.0
"""Seconds until it is said again that a server does not let us in: no log that is read lacks it, and none drowns in it."""
REFUSED_RETRY_S = 10.0
"""Seconds until a relay offers a refused schema again: the registry's rules may have been changed meanwhile."""
PUBLISH_EVENTS_MAX = 50_000
"""Events in one call of publish_many: one transaction's memory."""
MARK_WRITING_S = 1.0
"""Seconds between marks of a partition that is being written."""
MARK_IDLE_S = 10.0
"""Seconds between marks of an idle partition: how stale `verified_through` gets when nothing happens."""
MARK_EVENTS_MAX = 20_000
"""Events between marks of a partition at the most."""
MARK_REQUESTS_KEPT_MS = 10 * 60 * 1000
"""Milliseconds for which Kafka keeps a request for a mark: relays look every second, and nobody waits for ten minutes."""
SCHEMA_WAIT_S = 10.0
"""Seconds until another's schema registry has answered with a whole schema, or counts as away."""
SCHEMA_ANSWER_BYTES_MAX = 1024 * 1024
"""Bytes of that answer, or of a schema's file: four of our own schemas at their largest."""
SCHEMA_MISSING_S = 5.0
"""Seconds for which a schema that was not found is not asked for again: a batch of strangers must not become a flood."""
CLAIM_ATTEMPTS_MAX = 20
"""Tries to claim a schema id while others claim too."""
CHUNK_BYTES_MAX = 128 * 1024
"""Bytes after which the embedded log begins another row: what a read of few records fetches in vain at the most."""
LOG_WAL_PAGES = 8_000
"""Pages of 4 KiB after which the embedded log's write-ahead log is moved into the file: each time costs two flushes."""
LOG_WAL_BYTES_KEPT = 64 * 1024 * 1024
"""Bytes of that write-ahead log that stay on disk after it was moved; a slow reader can make it longer for a while."""
TAIL_RECORDS_FIRST = 1_000
"""Records at the end of a partition among which a relay that takes it looks for a mark first."""
TAIL_RECORDS_MAX = 30_000
"""Records among which it looks at the most: between two marks lie MARK_EVENTS_MAX events and a page or two."""
HISTORY_EVENTS_MAX = 1_000
"""Events of one key that are read at once: a history of any length is folded in this much memory."""
SNAPSHOT_STRIDE = 1_000
"""Versions of a key of which one snapshot is kept: what an old state is folded from at the most."""
