//! Documentation only: the formats that this program reads and writes, with their sources.
//!
//! The Go program is the existing program of the same name (github.com/wongfei2009/harmonylite, version of 2026-01) whose
//! databases, streams, snapshots, configuration and command line this program takes over, node by node. Its formats were found
//! by reading it and by running it against a NATS server; messages, a database, a snapshot and leases captured from it lie in
//! `fixtures/golden` and are replayed by the tests. All that it writes is read here; all that is written here is what it can
//! read, unless a setting says otherwise (packed snapshots).
//!
//! # Change streams and messages
//!
//! One JetStream stream a shard, shards counted from 1:
//!
//! | thing | name |
//! |---|---|
//! | stream, `replication_log.compress = true` | `<nats.stream_prefix>-c-<shard>` |
//! | stream, `compress = false` | `<nats.stream_prefix>-<shard>` |
//! | subject, in both cases | `<nats.subject_prefix>-<shard>` |
//!
//! The subject is the same with and without compression, so one cluster cannot have both (the server refuses the second
//! stream: subjects overlap). The stream's configuration: limits retention, file storage, discard old, `max_msgs` =
//! `max_entries` (and `max_bytes` -1; without `max_entries` both follow the database's size), deny delete, allow direct, duplicate
//! window 120 s, replicas as configured (0: half of the shards and one, five at most).
//!
//! A message is one row change: one zstd frame around CBOR if the stream is a compressed one, else CBOR. Definite lengths,
//! shortest heads, keys in this order:
//!
//! ```text
//! map(2)
//!   "FromNodeId" : uint     node id
//!   "Payload"    : map(4 or 5)
//!     "Id"        : uint    change-log id at the origin
//!     "Type"      : text    "insert", "update" or "delete"
//!     "TableName" : text
//!     "Row"       : map     column name (text) to value, in any order
//!     "sh"        : text    schema hash of the origin, 64 hex digits; may be absent
//! ```
//!
//! `insert` and `update` carry all stored columns with their new values, `delete` at least the key; generated columns are never
//! there. The rowid of a table without a primary key travels as the pseudo column `rowid`. Values: NULL `f6`; INTEGER as CBOR
//! integer; REAL always as `fb` and eight bytes; TEXT as text string; BLOB as byte string. TEXT that is not UTF-8 travels as tag
//! 18508 around a byte string (ours; the Go program has no form for it).
//!
//! The Go program rewrites columns whose declared type is exactly `date`, `datetime`, `timestamp` or `boolean` (in any case): a
//! time travels as tag 32 around `{1: Unix seconds}` (or null), a boolean as true or false. Both are understood, as text
//! `YYYY-MM-DD HH:MM:SS+00:00` and as 1 or 0, and never written.
//!
//! Headers: the Go program writes none. We write `Nats-Msg-Id: <node>-<incarnation>-<change-log id>[-<attempt>]`: node in
//! decimal, incarnation in 16 lower-case hex digits. Ids only rise per node, incarnation and stream; the attempt is added when
//! a message is sent again although its stream had acknowledged it.
//!
//! # Change sets
//!
//! A change set is what one pass over the change log found: whole transactions, so that whoever applies it steps from one consistent
//! state of its publisher's database to the next. It is one message or several; those that are not the only one have the header
//! `Hl-Set: <number>` with a `+` unless they are the last: `1+`, `2+`, `3`. Numbers count from 1 for each publisher, stream and set.
//! A set takes effect where its last part stands. One of which a part is missing, or came over 60 seconds after the one before or
//! 30 minutes after the first (by the stream's own times), or whose publisher begins another, takes none: its publisher publishes it again. Go nodes ignore the header.
//!
//! In a stream of sets a payload that is larger than a message of the server is cut: `2&` is a part whose payload goes on in the next part,
//! and parts are joined before they are decompressed. The pieces of one row have message ids that differ in the attempt, to which
//! the piece's number (from 0) times 2^40 is added.
//!
//! A stream whose description is `harmonylite change sets, format 1` (ours) takes messages with many rows, every other one a message
//! for each row, as above. Both forms tell themselves apart by their first byte, and can stand in one stream.
//!
//! A message with many rows is CBOR, in one zstd frame if the stream is a compressed one and the message shorter that way; definite lengths,
//! shortest heads:
//!
//! ```text
//! array(3)
//!   uint 1                     format
//!   bytes                      the first eight bytes of the publisher's schema hash, or none
//!   array of array(5)          for each table, kind and list of columns:
//!     text                     table
//!     uint                     0: the rows have these values; 1: they are gone
//!     array of text            columns; of rows that are gone the key
//!     array of int             change-log ids: the first one, then the difference to the one before
//!     array of value           all values of the first column, then those of the second...
//! ```
//!
//! Values are those of a row's message. The publisher stands in the message id, whose number is the highest change-log id in the message.
//! Rows count in the order of their ids. At most 262,144 values are accepted, 2,000 columns, names of 1,000 bytes, each column
//! once.
//!
//! # Changes of the schema
//!
//! In a stream of sets, the first one: a row of the table `__harmonylite__schema`, which no database has, with the columns `id` (16 hex
//! digits) and `body`, a JSON text (`model/change.rs`): `{"version": 1, "id", "node", "time_ms", "before", "after", "seen", "steps": [...]}`, the
//! hashes of the schema around it, the id of the last change in the order that its node had carried out (empty: none; left out by versions that do not
//! say so), and what became of each thing, in the order in which it can be done. `"script": {"name", "sql"}` instead of steps: statements that
//! every node runs. Its id in the set is negative, so that no row of the change log has it, and grows with each change. A database keeps what it has
//! seen in `__harmonylite__change(n, id, state, time, why, body)`, which also travels inside snapshots (`"comes_to"` in a body: what it came to at its
//! place in the order), what things were before the changes that have no place as yet in `__harmonylite__unsettled(n, change, type, name, tbl, sql)`,
//! the schema as it was looked at last in `__harmonylite__definition(type, name, tbl, sql, columns, number)`, and what others have dropped in `__harmonylite__kept(id, tbl, col, sql, time)` and tables
//! `__harmonylite__kept_<id>`.
//!
//! # Shards
//!
//! `shard = hash mod shards + 1`. The hash is FNV-1 with 64 bits (multiply by `0x100000001b3`, then xor; basis
//! `0xcbf29ce484222325`) over: `9f`, the table's name as CBOR text, for each key column in the order of the names' bytes `82`,
//! the name as CBOR text and the value as in a message (a boolean column as `f4` or `f5`, a time column as plain integer Unix
//! seconds, or null where it is no time), and last `ff`. Without a primary key the one column is `rowid`. A table with a UNIQUE
//! index besides its primary key, or a key that does not compare byte for byte, is hashed by its name alone (ours), for rows
//! that can collide need one common order. In a key column that is not of REAL a whole real number counts as the integer
//! (ours), which is the same key.
//!
//! # Tables and triggers of the Go program
//!
//! All names begin with `__harmonylite__`. `__harmonylite___change_log_global(id, change_table_id, table_name)`; for each table T
//! `__harmonylite__T_change_log(id, val_<column>..., type, created_at, state)`, where state 0 means not published; triggers
//! `__harmonylite__T_change_log_on_insert`, `_on_update`, `_on_delete`; `__harmonylite__schema_version`. What a database holds
//! with state 0 is taken over into our change log when this program opens it; then these tables and triggers are removed.
//!
//! # Our tables
//!
//! `__harmonylite__log(id INTEGER PRIMARY KEY, t, k1, k2, ...)` is the change log: the table's number and the key of each row
//! that was touched (t = 0: a settled entry that keeps its id from being used again). The table's number has 2^24 added for a row that was
//! inserted, and is negative for one that was in the way of another (`log_table::Touch`). `__harmonylite__table(id, name)` numbers
//! the tables. `__harmonylite__state(kind, name, value)` holds the checkpoint: `seq` and `created` of each stream, `folded` (the
//! highest id folded, by `<stream> <node>-<incarnation>`), `nameless` (the sequence of a Go node's message that was applied after the
//! position, while a set was open), and `meta` (`incarnation`, `restored`; in a snapshot `snapshot_node`,
//! `snapshot_time`, `snapshot_revision`, `schema_hash`). Its numbers of kind
//! `writers` say who has written a table with a plain integer key (1 this node, 2 others, 3 both); those of kind `aside` are the last number given to an event that was set aside, and how many were dropped for want of room; `heard` is, by the same
//! names as `folded`, the sequence at which an origin was last heard of, in steps of 1024.
//! `__harmonylite__set_aside(id, stream, seq, row, tbl, key, state, overtaken, missing, why, since, payload)` holds the messages that are
//! set aside: `id` rises in the order of arrival, `row` is the change-log id of a row of a set, and 0 for a message, `state` is 0 waiting, 1 refused, 2 to be tried again, `overtaken` 1 when an event of
//! ours came back that is later, `missing` the first 50 missing columns as JSON, `since` Unix milliseconds, `payload` the message as it
//! came. `key` is the row's key as this node knows it; of one longer than 64 bytes its SHA-256 in hex.
//! `__harmonylite__conflict(id, tbl, key, kind, lost_by, won_by, won_id, stream, seq, time, columns, payload)` holds writes of others that lost
//! to ours: `kind` is 0 update, 1 insert, 2 delete, 3 unique, `won_id` the lowest change-log id of our write, `time` Unix milliseconds,
//! `columns` the names of the key's columns as JSON, `payload` the event. `__harmonylite__block(tbl, first, last)` holds the block of keys in
//! which each AUTOINCREMENT table is. Earlier versions had `__harmonylite__parked(stream, seq, tbl, payload)`, which is taken over. Triggers are named `__harmonylite__<number>_<what>`.
//!
//! # Sequence map
//!
//! The file at `seq_map_path`: one CBOR map from stream name (text) to the highest sequence applied (uint). A reader takes the
//! first CBOR item and ignores what follows, for the Go program never shortens its file; an empty file is an empty map.
//!
//! # Key-value buckets
//!
//! Bucket `e-harmonylite` (stream `KV_e-harmonylite`, subjects `$KV.e-harmonylite.>`): history 1, no age limit, file storage,
//! discard new, rollup and direct access allowed, deny delete. Its keys:
//!
//! | key | value | whose |
//! |---|---|---|
//! | `snapshot-leader` | CBOR `{"NodeID": uint, "Timestamp": Unix milliseconds}` | the Go program's: the leader's lease |
//! | `snapshot` | the same | the Go program's: the lease of an upload, ten seconds |
//! | `founder` | JSON `{"node_id": 3}` | ours |
//! | `snapshot-wanted` | JSON, see `cluster/wanted.rs` | ours |
//! | `keys.<first half of the SHA-256 of a table's name, hex>` | JSON `{"table": "notes", "next": 1025}`: the first key that nobody has claimed | ours |
//! | `migration` | JSON, see `cluster/migration.rs`: who publishes a migration now | ours |
//! | `migration-<id>` | JSON `{"1": "", "2": "no such table: t"}`: what became of it, by node | ours |
//! | `snapshot-proven` | JSON, see `cluster/proven.rs` | ours |
//!
//! Daemons of ours also tell each other on plain subjects, which nothing keeps and Go nodes do not know:
//! `<stream_prefix>.node.<node id>`, JSON `{"id", "database", "host"}` (`cluster/presence.rs`), and `<stream_prefix>.shards`, JSON
//! `{"node_id": 3, "shards": 2, "host": "name"}` (`cluster/shards.rs`). Longer messages than 4 KiB are not read, nor longer values
//! in the bucket than 64 KiB.
//!
//! A lease whose `Timestamp` is 0 was given back. The Go program takes over a lease when `Timestamp` plus the lease's life lies
//! before its own clock; this program when it has seen one revision for that long.
//!
//! # Object store
//!
//! Bucket `snapshot.nats.bucket`, or `<stream_prefix>-snapshot-store`: stream `OBJ_<bucket>`, chunks of 128 KiB on
//! `$O.<bucket>.C.<nuid>`, the description on `$O.<bucket>.M.<base64url of the name>` with `Nats-Rollup: sub`: the standard
//! ObjectInfo of NATS clients, digest `SHA-256=<base64url>`. The object is `snapshot.db`. Our description has headers
//! `harmonylite-<pair>` for the pairs of a label (`storage/label.rs`).
//!
//! # Other stores
//!
//! The object is called `snapshot.db` everywhere. S3: key `<path>/snapshot.db`, without the leading slash that the Go program
//! writes when the path is empty. WebDAV and SFTP: a file in the directory; beside it `snapshot.db.json` describes it
//! (`storage/tree.rs`). A snapshot is a plain SQLite file in rollback-journal mode, unless it is packed (`storage/pack.rs`); a Go
//! node's has no description and no position in it. With a key, the pair `seal` of a label authenticates it
//! (`storage/seal.rs`).
//!
//! # Schema hash
//!
//! SHA-256 in lower-case hex over the replicated tables in the order of the names' bytes: the table's name, for each column in
//! the order of the names' bytes `|<name>:<type>:<not null>:<in the key>`, then a line feed. The type is the declared one,
//! verbatim, or `*schema.BinaryType` without one; the flags are `true` or `false`; generated columns are in it.
//!
//! # Health and metrics
//!
//! Health is JSON with the Go program's keys first, in its order: `status`, `node_id`, `uptime_seconds`, `db_connected`,
//! `nats_connected`, `cdc_installed`, `tables_tracked`, `last_replicated_event_timestamp`, `last_published_event_timestamp`
//! (`0001-01-01T00:00:00Z`: never), `version`. Metrics are named `<namespace>[_<subsystem>]_<name>`, with the label `node_id`.
//!
//! # Node id
//!
//! `node_id`, or the FNV-1 hash (64 bits, as above) of the text of `/var/lib/dbus/machine-id`, else of `/etc/machine-id`,
//! trimmed.
