"""Every bound of the projections, with its unit and its reason."""

__all__ = [
    "ALONE_LEASE_S",
    "AMENDMENTS_MAX",
    "BATCH_GROWTH_MAX",
    "BATCH_LEASE_SHARE",
    "BATCH_RECORDS_FIRST",
    "BECAUSE_CHARS_MAX",
    "BOOTSTRAP_COPY_ROWS",
    "BOOTSTRAP_PAGES",
    "BOOTSTRAP_TAIL_RECORDS_MAX",
    "BUCKETS",
    "CHECKPOINTS_KEPT",
    "CHECK_POLL_S",
    "CHECK_WAIT_S",
    "COLUMN_RECORDS_MIN",
    "COMPARED_BUCKETS",
    "COMPARED_SAMPLES",
    "DETAIL_CHARS_MAX",
    "EFFECTS_EVENT_MAX",
    "EFFECT_BYTES_MAX",
    "EFFECT_KIND_CHARS_MAX",
    "EXPLAINED_KEYS_MAX",
    "GROUP_LOCKS",
    "GROUP_ROWS_MAX",
    "INCARNATION_CHECK_S",
    "KEYS_PARKED_MAX",
    "MARKS_LOOKED_MAX",
    "PARKED_RETRY_S",
    "PEER_WAIT_S",
    "QUARANTINE_LINE_BYTES_MAX",
    "QUARANTINE_RECORDS",
    "READ_AT_LEAST_S",
    "READ_POLL_S",
    "REPAIR_LEASE_S",
    "REPAIR_ROWS_FREE",
    "REPAIR_ROWS_MAX",
    "REPAIR_SHARE_MAX",
    "REPLAY_STALL_S",
    "ROLLBACK_KEYS",
    "SCAN_ROWS",
    "SCRUB_AGE_MAX_S",
    "SCRUB_ROWS_NAMED_MAX",
    "SNAPSHOT_EVENTS",
    "SNAPSHOT_KEEP_S",
    "SWAP_ARRIVE_S",
    "SWAP_TRIES",
    "TAIL_EVENTS_MAX",
    "THREAD_RECORDS_MIN",
    "TOPIC_POLL_S",
    "TOPIC_QUIET_S",
    "WAITING_BYTES_MAX",
    "WAITING_REPEAT_S",
    "WAITING_SHARE_MAX",
    "WARM_KEYS_MAX",
    "WATCHDOG_S",
]

BUCKETS = 1_024
"""Buckets of a row digest: 32 KiB for each table and partition, and a thousandth of the rows to compare at a difference."""
KEYS_PARKED_MAX = 1_000
"""Parked keys of a partition. More is no longer a few bad keys but a fault of the whole: the partition halts."""
WAITING_BYTES_MAX = 64 * 1024 * 1024
"""Bytes that wait behind parked keys of a partition before it halts."""
QUARANTINE_RECORDS = 50
"""Quarantined records that a reader of the quarantine holds at a time: 50 MB if each is as large as a record may be."""
EFFECTS_EVENT_MAX = 100
"""Effects of one event. They are written in the transaction that applies it; a fan-out to more is the receiver's to make."""
EFFECT_BYTES_MAX = 256 * 1024
"""Bytes of an effect's payload as JSON: a message, or a reference to what is larger."""
EFFECT_KIND_CHARS_MAX = 200
"""Characters of an effect's kind: a name."""
WAITING_SHARE_MAX = 0.8
"""Share of KEYS_PARKED_MAX or of WAITING_BYTES_MAX from which on a worker warns: there is a fifth left to act in."""
WAITING_REPEAT_S = 60.0
"""Seconds between two such warnings of a partition: more often nobody reads them."""
AMENDMENTS_MAX = 1_000
"""Rulings about events of a projection. Each stands in every certificate, and more are no longer a few bad events."""
QUARANTINE_LINE_BYTES_MAX = 8_000_000
"""Bytes of a line of an exported quarantine: a record's bytes in base64, and its fields twice, escaped."""
DETAIL_CHARS_MAX = 1_000
"""Characters of the reason that is kept with a waiting record: a reducer's error may quote all that it was given."""
CHECKPOINTS_KEPT = 10_000
"""Checkpoints kept for each partition: nearly three hours of marks at one a second."""
COLUMN_RECORDS_MIN = 200
"""Records from which on a batch is planned by columns: setting a block up takes as long as some hundred records do."""
THREAD_RECORDS_MIN = 2_000
"""Records from which on a batch is planned beside the event loop: fewer take less than the loop may be kept from its turn."""
WARM_KEYS_MAX = 131_072
"""Keys whose newest state a worker keeps in memory, some 400 bytes each; twice as many for a moment."""
BATCH_RECORDS_FIRST = 5_000
"""Records of a worker's first batch, and the fewest that it asks for; it grows while a batch takes less than its share."""
BATCH_GROWTH_MAX = 8.0
"""Times as many records as in the batch before, at the most: what few records took tells little of what many will."""
BATCH_LEASE_SHARE = 0.5
"""Share of a lease that a batch may take from read to commit. Between batches the lease is renewed."""
GROUP_ROWS_MAX = 20_000
"""Contributions of one gathered row: they are folded anew with each batch that touches it, within a share of a lease."""
GROUP_LOCKS = 256
"""Locks among which the groups of a gathered projection are spread: a server holds some thousands for all its sessions."""
SCAN_ROWS = 2_000
"""Rows that a scan holds in memory at a time."""
SCRUB_ROWS_NAMED_MAX = 1_000
"""Rows that one scrub names, some hundred bytes each. Where all differ nobody reads the list, and memory is bounded."""
INCARNATION_CHECK_S = 1.0
"""Seconds after which a worker asks the log again whether the topic is still the one that it knows."""
TOPIC_POLL_S = 0.5
"""Seconds at most between looks for a topic that does not exist yet."""
TOPIC_QUIET_S = 3.0
"""Seconds for which a topic may be missing before it is said: a new owner makes it with its first event."""
WATCHDOG_S = 10.0
"""Seconds without progress, though the log has more, after which a worker opens its reader anew."""
PARKED_RETRY_S = 30.0
"""Seconds between tries of parked keys: what parks them may be mended from outside while the worker runs."""
READ_AT_LEAST_S = 5.0
"""Seconds that a read waits for the replica to reach a token."""
READ_POLL_S = 0.01
"""Seconds between looks at a replica by a waiting read."""
CHECK_WAIT_S = 5.0
"""Seconds that a check waits for the replica, and for the owner's mark, to reach where the log stood when it began."""
CHECK_POLL_S = 0.1
"""Seconds between looks at a replica by a waiting check."""
REPAIR_LEASE_S = 300.0
"""Seconds for which a repair holds all partitions while it folds the log. It gives them back at its end."""
BOOTSTRAP_COPY_ROWS = 10_000
"""Rows that go from a peer to a new replica in one transaction, where the two are not databases of one kind."""
BOOTSTRAP_PAGES = 1_000
"""Pages of a peer's SQLite file, 4 KiB each, that are copied in one step: some 5 ms of reading between two pauses."""
BOOTSTRAP_TAIL_RECORDS_MAX = 100_000
"""Records of a partition behind a peer's position that are held against its copy: five times those between two marks."""
MARKS_LOOKED_MAX = 100
"""Newest checkpoints of each partition that a quick check and a comparison look at: some minutes of marks at one a second."""
SCRUB_AGE_MAX_S = 24 * 3600.0
"""Seconds since a row was hashed again after which what is on the disk counts as unproven: a scrub a day is little work."""
PEER_WAIT_S = 5.0
"""Seconds for which a comparison waits for a common mark, or for a later one where rows may just have moved on."""
EXPLAINED_KEYS_MAX = 20
"""Differing keys that one check explains: each is folded on its own, and who sees twenty knows what happened."""
REPLAY_STALL_S = 10.0
"""Seconds without a record after which a fold of the log is given up."""
BECAUSE_CHARS_MAX = 500
"""Characters of the reason that a certificate may give for what went back: a sentence or three."""
REPAIR_ROWS_MAX = 10_000
"""Rows that one repair changes at most without being told to: above this, rebuild."""
REPAIR_SHARE_MAX = 0.1
"""Share of all rows that one repair changes at most without being told to: where more differ, look for the cause first."""
REPAIR_ROWS_FREE = 100
"""Rows that a repair may change whatever their share: of a small table a few are much."""
SNAPSHOT_EVENTS = 12
"""Events that a load of an entity folds until it keeps a snapshot: so few that a long history loads as a short one does."""
SNAPSHOT_KEEP_S = 0.5
"""Seconds for which a load waits until it may keep a snapshot: who asks may hold the store's writer himself."""
ROLLBACK_KEYS = 100
"""Keys that a rollback of many restores in one transaction: what an owner's writers may have to wait for."""
ALONE_LEASE_S = 30.0
"""Seconds of the leases of a worker that takes all partitions for itself: after a kill nobody else has them for so long."""
SWAP_ARRIVE_S = 10.0
"""Seconds that both numbers of a swap have to come to one position, while neither is applied by anybody else."""
SWAP_TRIES = 5
"""Tries of a swap that PostgreSQL refuses because somebody reads the view, each for a second."""
COMPARED_BUCKETS = 32
"""Buckets of two sets of rows that are compared at a time: a thirty-second part of either is in memory."""
COMPARED_SAMPLES = 5
"""Rows of each kind of difference that are told of, with what caused them; the others are counted."""
TAIL_EVENTS_MAX = 20_000
"""Events applied since a proof that are folded while a swap holds all up: some seconds of folding."""
