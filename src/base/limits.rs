//! Every bound of the daemon in one place: sizes of queues, time limits, pauses.

use std::time::Duration;

/// Tables that are not replicated and of which it is noted that events were passed over.
pub const TABLES_PASSED: usize = 1_024;
/// Names that a list of tables holds at most.
pub const LISTED_TABLES: usize = 1_000;
/// Keys of a bucket that are listed at most.
pub const KEYS: usize = 1_000;
/// After this long, a node's entry in the registry of schemas goes unless the node renews it; fixed in the Go program.
pub const REGISTRY_TTL: Duration = Duration::from_secs(300);
/// Pause between two renewals.
pub const REGISTRY_RENEWAL: Duration = Duration::from_secs(60);
/// Pause between two looks whether the application has changed the schema, for the registry.
pub const REGISTRY_LOOK: Duration = Duration::from_secs(1);
/// Pause between two looks at what the others have told.
pub const REGISTRY_READ: Duration = Duration::from_secs(60);
/// The same while a program asks for health.
pub const REGISTRY_READ_PROGRAM: Duration = Duration::from_secs(10);
/// From so many tables on, a changed schema is told after some looks more.
pub const LARGE_TELLING: usize = 300;
pub const LARGE_TELLING_LOOKS: u32 = 5;
/// Bytes of an entry in it: beyond, tables are told without their columns, then not at all.
pub const REGISTRY_ENTRY: usize = 40 << 10;
/// Names of tables that one line of the log holds at most.
pub const NAMES_SHOWN: usize = 20;
/// Entries that the publisher reads from the change log at once, unless `scan_max_changes` says otherwise.
pub const SCAN_MAX_CHANGES: u64 = 16_384;
/// Bytes of images that the publisher reads at once.
pub const SCAN_MAX_BYTES: usize = 1 << 20;
/// Published messages without an acknowledgement. When full, the publisher waits.
pub const PUBLISH_WINDOW: usize = 512;
/// Bytes of published messages without an acknowledgement; one larger message still passes alone.
pub const PUBLISH_WINDOW_BYTES: usize = 2 << 20;
/// After this long without an acknowledgement, all unacknowledged messages are sent again.
pub const PUBLISH_RESEND: Duration = Duration::from_secs(2);
/// The same after repetitions have brought no acknowledgement: the line may be thin.
pub const PUBLISH_RESEND_MAX: Duration = Duration::from_secs(64);
/// Messages asked of a stream at once. The subscription's queue has room for twice as many, so the socket's reader never waits.
pub const PULL_BATCH: usize = 1024;
/// Bytes asked of a stream at once, raised to the server's largest message.
pub const PULL_BYTES: usize = 1 << 20;
/// The bytes that a pull asks for: they let the server's largest message pass, headers and line included.
pub const fn pull_bytes(max_payload: usize) -> usize {
    let largest = max_payload.saturating_add(64 << 10);
    if largest > PULL_BYTES { largest } else { PULL_BYTES }
}
/// Life of one pull request.
pub const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// Heartbeat asked of the server while a pull waits.
pub const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which a consumer is built anew: three heartbeats.
pub const PULL_SILENCE: Duration = Duration::from_secs(15);
/// Streams of a cluster, at most.
pub const SHARDS: usize = 64;
/// Columns of an event: as many as SQLite's tables have at most, unless it was compiled with another limit.
pub const EVENT_COLUMNS: usize = 2_000;
/// Bytes of the messages of one change set; a larger one is published in pieces, each a set of its own.
pub const SET_MESSAGES_BYTES: usize = 16 << 20;
/// Bytes of parts whose sets are open, of one stream; beyond that the oldest ones take no effect.
pub const SETS_OPEN_BYTES: usize = 64 << 20;
/// Open sets of one stream; beyond that the oldest one takes no effect.
pub const SETS_OPEN: usize = 1_024;
/// Bytes that a part takes beside those of its message.
pub const PART_WEIGHT: usize = 256;
/// Milliseconds from the first part of a change set to its last one, by the stream's clock: the largest set on the thinnest line.
pub const SET_LIFE_MS: i64 = 1_800_000;
/// Milliseconds between two parts of a change set, by the stream's clock; what comes later takes no effect.
pub const SET_SILENCE_MS: i64 = 60_000;
/// A transaction that applies a change set takes this much work at most; a longer one goes on in the next. On a machine that is
/// busy with other things the same work takes longer, and an application that waits for a lock does not give up so soon.
pub const SET_WORK: Duration = Duration::from_millis(800);
/// The time that it takes at most, waiting for the disk and for others included.
pub const SET_TIME: Duration = Duration::from_millis(2_500);
/// Memory for the decoded rows that one transaction takes of a change set; the rest goes on in the next. A row of two columns takes
/// some 220 bytes.
pub const SET_BYTES: usize = 48 << 20;
/// Bytes of one row; a larger one stays in the change log. Less than [`MESSAGE_BYTES`], for names and lengths are beside them.
pub const ROW_BYTES: usize = 60 << 20;
/// Bytes of the message of one row that is cut into pieces, compressed: what is open before it has room beside it.
pub const CUT_BYTES: usize = 40 << 20;
/// Bytes of values in one message of a change set; one larger row still passes alone.
pub const PART_BYTES: usize = 512 << 10;
/// Bytes that a message takes in its stream beside its payload: subject, headers, the record.
pub const MESSAGE_OVERHEAD: usize = 100;
/// Bytes published between two looks whether the streams reach back far enough.
pub const REACH_LOOK: usize = 16 << 20;
/// Time between two such looks after one in vain; while somebody looks it is [`LOOKOUT_QUESTION`].
pub const REACH_AGAIN: Duration = Duration::from_secs(60);
/// Messages read that have no effect, after which the position is written nevertheless.
pub const UNUSED: u64 = 1_024;
/// Messages read and not applied yet: their bytes; one larger message still passes alone.
pub const WAITING_BYTES: usize = 4 << 20;
/// Rows in one message of a change set.
pub const PART_ROWS: usize = 8_192;
/// Values in one message of a change set: each takes a byte there and dozens in memory.
pub const SET_VALUES: usize = 1 << 18;
/// Columns of a key. SQLite compiles no condition of more than 1,000 terms.
pub const KEY_COLUMNS: usize = 500;
/// Events of one kind (waiting, refused) that are set aside; beyond that the oldest ones go.
pub const ASIDE_EVENTS: i64 = 100_000;
/// Bytes of their messages, and of what is kept beside them.
pub const ASIDE_BYTES: i64 = 32 << 20;
/// Time between two looks whether somebody has changed a stream's form.
pub const FORMAT_LOOK: Duration = Duration::from_secs(30);
/// Keys of a table that a node claims the first time. Most applications insert fewer at once, or in a second.
pub const BLOCK_FIRST: i64 = 1_024;
/// The least that it claims, after it was found that few are used before a higher key comes.
pub const BLOCK_LEAST: i64 = 20;
/// The most.
pub const BLOCK_MOST: i64 = 8_192;
/// The most for a node that has inserted half as many at once.
pub const BLOCK_BURST: i64 = 262_144;
/// How long the applying of a row waits at most until there is a block of keys above it.
pub const CLAIM_WAIT: Duration = Duration::from_secs(3);
/// After a wait in vain, nobody waits for so long.
pub const CLAIM_PAUSE: Duration = Duration::from_secs(30);
/// Nodes that claim keys of one table at the same moment.
pub const CLAIM_RIVALS: usize = 50;
/// Lost writes of others that are kept; beyond that the oldest ones go.
pub const CONFLICTS: i64 = 10_000;
/// Bytes of them.
pub const CONFLICT_BYTES: i64 = 16 << 20;
/// Rows of other nodes whose writer is remembered while writes of ours are on their way.
pub const RECENT_ROWS: usize = 4_096;
/// Parameters that we give one statement: SQLite takes 32,766.
pub const SQL_PARAMETERS: usize = 32_000;
/// Rows that foreign keys refer to of which it is remembered that the stream has removed them.
pub const REMOVED_ROWS: usize = 4_096;
/// Missing columns that are kept of an event: compressed, thousands of long names are a few kilobytes.
pub const ASIDE_COLUMNS: usize = 50;
/// Time between two looks whether what is set aside can be tried again.
pub const ASIDE_LOOK: Duration = Duration::from_secs(1);
/// The same while something is.
pub const ASIDE_LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Longest pause before events are tried again that wait for a write of ours to come back.
pub const ASIDE_PUT_OFF: Duration = Duration::from_secs(30);
/// Bytes of the keys of changes that have not come back, which are remembered in memory; more are in a temporary table, where each
/// costs three times as much time. Two hundred thousand rows fit that have a number for a key.
pub const TOUCHED_NEAR: usize = 20 << 20;
/// What a key takes there beside its own bytes.
pub const TOUCHED_WEIGHT: usize = 88;
/// Origins whose highest folded id is remembered in one stream; beyond that those are forgotten that were heard of longest ago.
pub const ORIGINS: usize = 4_096;
/// Bytes of a name in an event: of a table, a column or a schema's hash. A table with a longer name is not replicated.
pub const EVENT_NAME: usize = 1_000;
/// Memory for the decoded rows that one apply transaction takes; one larger event still passes alone.
pub const APPLY_BYTES: usize = 8 << 20;
/// Events in one apply transaction.
pub const APPLY_BATCH: usize = 512;
/// How long echoes alone wait at most before they are applied: settling the change log is not urgent, and each transaction of ours
/// makes the application's writers wait.
pub const ECHO_WAIT: Duration = Duration::from_secs(10);
/// They wait no longer when the application has been quiet for this time.
pub const ECHO_QUIET: Duration = Duration::from_millis(300);
/// Time between two transactions that apply events of others, while these come so fast.
pub const APPLY_SPACING: Duration = Duration::from_millis(25);
/// This many echoes end that wait, or fewer where the streams are short.
pub const ECHO_BATCH: usize = 2048;
/// This many bytes of waiting events end it, too.
pub const ECHO_BYTES: usize = 512 << 10;
/// After this time an apply transaction takes no more events, so that the application's writers wait little.
pub const APPLY_TIME: Duration = Duration::from_millis(15);
/// After the application was seen to write, it is given the lock between our transactions for so long.
pub const YIELD_FOR: Duration = Duration::from_secs(2);
/// While it was not seen to write, after transactions of this length and more.
pub const YIELD_FROM: Duration = Duration::from_millis(5);
/// The longest pause for that; otherwise as long as the transaction took.
pub const YIELD_MAX: Duration = Duration::from_millis(100);
/// Wait for a reply of the JetStream API.
pub const API_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction goes on that makes triggers for tables. After each, the application's connections read the schema anew, so
/// a few of this length let it write sooner than many short ones.
pub const INSTALL_TIME: Duration = Duration::from_millis(250);
/// How many messages of a stream, the newest ones that a Go node had read, are compared with what it left.
pub const VISIT_MESSAGES: u64 = 16_384;
/// How many indexes are made in one transaction: SQLite reads all of the schema for each.
pub const INDEXES_AT_ONCE: usize = 100;
/// What the application's SQLite takes to read a row of a large schema. After each change of it, we wait until it may have read all.
pub const READ_SCHEMA_ROW: Duration = Duration::from_micros(50);
/// The longest such pause.
pub const INSTALL_PAUSE: Duration = Duration::from_secs(2);
/// So many times as long as our SQLite the application's may take for that: its hash tables do not grow.
pub const SLOWER_READERS: u32 = 5;
/// In a database of more tables each table gets fewer triggers.
pub const MANY_TABLES: usize = 1_000;
/// Attempts to make triggers without the lock until the schema is known, while the application changes it again and again.
pub const INSTALL_TRIES: u32 = 3;
/// Connecting to one NATS server, TLS and greeting included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without a byte from the server, we send a PING.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// After this many PINGs without an answer, a connection counts as dead.
pub const PINGS_MISSED: u32 = 2;
/// Bytes waiting to be written to the broker; writers wait when full.
pub const OUT_BUFFER: usize = 1 << 20;
/// Longest control line of the NATS protocol that we accept (INFO lists the cluster's servers).
pub const CONTROL_LINE: usize = 64 << 10;
/// Largest message that we accept from the broker, and largest event after decompression.
pub const MESSAGE_BYTES: usize = 64 << 20;
/// How long a statement waits for the application's write lock in one try; tries go on until stop.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two tries of the applying connection for the write lock. SQLite's own pauses grow to 100 ms and lose nearly
/// every race against an application that writes without pause.
pub const BUSY_STEP: Duration = Duration::from_micros(400);
/// Page cache of each of our connections, in KiB.
pub const PAGE_CACHE_KIB: i64 = 512;
/// Rows of `sqlite_schema` from which on a quiet connection gives back the schema that it has read: each takes 1.5 KiB.
pub const LARGE_SCHEMA: i64 = 2_000;
/// After this time without work it does. Reading it again takes 0.2 s with 5,000 tables.
pub const REST_AFTER: Duration = Duration::from_secs(3);
/// Statements kept prepared by a connection, of some kilobytes each: an application that writes a hundred tables in turn must not make
/// each one be prepared anew.
pub const STATEMENTS: usize = 512;
/// From this size of the WAL file on, we checkpoint what we wrote ourselves.
pub const WAL_CHECKPOINT_BYTES: u64 = 4 << 20;
/// Pause between two looks of the watcher without a file event, unless `polling_interval` says otherwise.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses between looks after a file event, in microseconds: the event comes before the commit is visible.
pub const LOOK_AGAIN_US: [u64; 10] = [0, 150, 300, 600, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000];
/// Pause before the next look when another event comes at once; it doubles up to `LOOK_SPACING_MAX` while they keep coming.
pub const LOOK_SPACING_MIN: Duration = Duration::from_micros(100);
/// The longest such pause.
pub const LOOK_SPACING_MAX: Duration = Duration::from_micros(800);
/// An event that comes so long after the one before is looked at without a pause.
pub const LOOK_RARE: Duration = Duration::from_millis(3);
/// The sequence-map file is written at most once in this time, and at stop.
pub const SEQMAP_INTERVAL: Duration = Duration::from_secs(1);
/// Time for the workers of a session to end after the first signal; our own nats-server may take four more seconds, and all
/// must end within ten.
pub const DRAIN: Duration = Duration::from_secs(5);
/// After this time from the first signal the process ends, whatever it waits for.
pub const STOP: Duration = Duration::from_millis(9_300);
/// Pause before a database is opened anew from which somebody has dropped tables of ours.
pub const STRIPPED_PAUSE: Duration = Duration::from_millis(500);
/// First pause between two tries; the following ones double up to `RETRY_MAX`.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between tries.
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// Chunk of the NATS Object Store, as its clients make them.
pub const OBJECT_CHUNK: usize = 128 << 10;
/// Object chunks in flight.
pub const OBJECT_WINDOW: usize = 4;
/// A chunk that is acknowledged within this time leaves room for another one on the line.
pub const OBJECT_ACK_FAST: Duration = Duration::from_millis(500);
/// Bytes of a disk that a download of unknown size leaves free, at least; a tenth of what is free, if that is more.
pub const RESERVE: u64 = 64_000_000;
/// From this many bytes on, a copy is announced in the log: it may take a while.
pub const LONG_COPY: u64 = 256 << 20;
/// Time between two log lines on the progress of a transfer.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A transfer without any progress for this long has failed.
pub const TRANSFER_STALL: Duration = Duration::from_secs(30);
/// An HTTP server's answer to a request that gives it work, counted from the end of the request: completing a large upload, or
/// copying a large file, takes its time, in silence.
pub const HTTP_ANSWER: Duration = Duration::from_secs(120);
/// Bytes of an upload that may be in buffers between this process and a server.
pub const IN_BUFFERS: u64 = 8 << 20;
/// Bytes a second of the thinnest line that uploads must get over.
pub const THIN_LINE: u64 = 32 << 10;
/// The beginning of an HTTP server's answer to a request that only reads. Disks that sleep have begun to turn by then.
pub const HTTP_LOOK: Duration = Duration::from_secs(20);
/// The text of such an answer, from its beginning to its end.
pub const HTTP_LIST: Duration = Duration::from_secs(60);
/// After this time a look at a store is not tried again: whoever looks knows what to do without.
pub const LOOK_TRIES: Duration = Duration::from_secs(10);
/// An idle HTTP connection is not used again after this time: servers close theirs.
pub const HTTP_IDLE: Duration = Duration::from_secs(4);
/// Longest text that is read from an HTTP server, in bytes.
pub const HTTP_TEXT: u64 = 1 << 20;
/// Tries of one request or transfer of a snapshot, however many steps it has.
pub const STORE_TRIES: u32 = 5;
/// The list of an SFTP server's directory, counted from its beginning.
pub const SFTP_LIST: Duration = Duration::from_secs(120);
/// Files in an SFTP server's directory, ours and those of others.
pub const SFTP_NAMES: usize = 100_000;
/// Snapshots that are looked at in an S3 bucket or in a directory: more than are ever kept.
pub const SNAPSHOTS: usize = 4_000;
/// Pages of one list that are asked of an S3 server: a hundred thousand snapshots.
pub const S3_PAGES: usize = 100;
/// Time for an SSH server to say that it is one.
pub const SSH_BANNER: Duration = Duration::from_secs(5);
/// Time from a connection to an SSH server to an SFTP session, the login included.
pub const SSH_OPENING: Duration = Duration::from_secs(30);
/// Bytes that an SSH server may send on a connection beyond those that were of use.
pub const SSH_UNASKED: u64 = 8 << 20;
/// Bytes of an SSH server's answer to one short request.
pub const SSH_ANSWER: usize = 8 << 10;
/// Part of an S3 upload, at least.
pub const S3_PART: u64 = 16 << 20;
/// How long `-save-snapshot` and the scheduler wait until the changes inside a snapshot are published.
pub const SETTLE_WAIT: Duration = Duration::from_secs(30);
/// How long `-save-snapshot` waits for a snapshot that is being made.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long the scheduler waits for the upload lease: longer than a dead holder keeps it.
pub const UPLOAD_PATIENCE: Duration = Duration::from_secs(15);
/// Time between two looks of the leader whether a node asked for a snapshot. Also the first pause after a snapshot that a node
/// asked for, before that node's next request counts; it doubles up to `ASK_AGAIN_MAX`.
pub const ASKED_LOOK: Duration = Duration::from_secs(5);
/// Nodes whose requests the leader tells apart. A request that any of them, invented or not, makes is also served by the
/// snapshot that another one got.
pub const ASKERS: usize = 16;
/// Time between two messages by which a daemon says that it is there.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two messages in which a node tells its state, in a cluster of so many others: each gets one in fifty seconds from all
/// of them together.
pub fn state_interval(nodes: usize) -> Duration {
    Duration::from_secs(50) * u32::try_from(nodes + 1).unwrap_or(u32::MAX).max(2)
}
/// The same after something has changed that others should know.
pub const STATE_CHANGES: Duration = Duration::from_secs(10);
/// The same after others have asked.
pub const STATE_ANSWERS: Duration = Duration::from_millis(300);
/// Time between two questions, while somebody looks.
pub fn state_questions(nodes: usize) -> Duration {
    Duration::from_millis(100) * u32::try_from(nodes).unwrap_or(u32::MAX).max(5)
}
/// A node that has not answered for so long is called silent.
pub const STATE_ANSWER: Duration = Duration::from_millis(1_200);
/// What a node has told so short a time ago is as good as an answer.
pub const STATE_FRESH: Duration = Duration::from_millis(400);
/// Nodes are asked for so long after somebody has looked.
pub const STATE_LOOKED: Duration = Duration::from_secs(6);
/// A program that asks for health every few seconds makes the nodes of a cluster of so many be asked, after so long.
pub const STATE_GLANCE: Duration = Duration::from_secs(30);
pub const STATE_GLANCE_NODES: usize = 10;
/// Time between two rounds of the lookout while somebody looks, and while nobody does.
pub const LOOKOUT_ROUND: Duration = Duration::from_millis(500);
pub const LOOKOUT_REST: Duration = Duration::from_secs(20);
/// The same while nobody looks and the broker does not answer as it should.
pub const LOOKOUT_FAILING: Duration = Duration::from_secs(5);
/// The same at least, however many look.
pub const LOOKOUT_SPACING: Duration = Duration::from_millis(250);
/// The lookout goes on for so long after somebody has looked.
pub const LOOKOUT_LOOKED: Duration = Duration::from_secs(3);
/// Who asks for health waits so long for a round; the whole answer has 50 ms.
pub const LOOKOUT_HEALTH: Duration = Duration::from_millis(25);
/// Time between two questions of the lookout to the broker, and to a store that is away.
pub const LOOKOUT_QUESTION: Duration = Duration::from_secs(1);
/// Broker and store have this long to answer.
pub const LOOKOUT_ANSWER: Duration = Duration::from_secs(1);
/// How long a round waits for the store's answer.
pub const LOOKOUT_MOMENT: Duration = Duration::from_millis(15);
/// Time between two questions to a store that answers, while a person looks, and while a program does.
pub const STORE_LOOK_PERSON: Duration = Duration::from_millis(1_200);
pub const STORE_LOOK_PROGRAM: Duration = Duration::from_secs(60);
/// Pause between two writes of what was sent and received.
pub const USAGE_STORE: Duration = Duration::from_secs(3_600);
/// A write lock that is held for so long without a commit is shown.
pub const LOCK_HELD: Duration = Duration::from_secs(1);
/// Memory of the machine, or of its control group, below which it is called scarce, unless there is very little in all.
pub const MEMORY_SCARCE: u64 = 32 << 20;
/// A disk with fewer bytes is called full, unless it is a very small one.
pub const DISK_FULL: u64 = 1 << 20;
/// Clocks that are farther apart are wrong, in milliseconds.
pub const CLOCKS_APART_MS: u64 = 10_000;
/// A node that is behind for so long is said to be, in seconds.
pub const BEHIND: u64 = 1;
/// How long `-status` waits for their answers.
pub const STATE_PATIENCE: Duration = Duration::from_millis(700);
/// Somebody who asks for health or metrics has this long for the whole request and its answer.
pub const HEALTH_ASKER: Duration = Duration::from_secs(2);
/// Name of the snapshot in every store.
pub const SNAPSHOT_NAME: &str = "snapshot.db";
/// Name of the file of SFTP host keys, beside the sequence map.
pub const SFTP_HOST_KEYS: &str = "sftp-known-hosts";
/// Steps of one change of the schema.
pub const CHANGE_STEPS: usize = 100_000;
/// Changes of the schema that a database remembers; the oldest ones go first.
pub const CHANGES_KEPT: i64 = 1_000;
/// Rows with a value of their own that are looked through to tell a renamed column from a dropped and a new one.
pub const RENAME_LOOK: usize = 1_000;
/// Rows of one table that a UNIQUE rule of another node may remove.
pub const DOUBLES: usize = 1_000;
/// How long the node that made the rule is given to say which rows are gone, and how often it is looked whether it has.
pub const DOUBLES_PATIENCE: Duration = Duration::from_secs(20);
pub const DOUBLES_AGAIN: Duration = Duration::from_secs(1);
/// Pause before a change of the schema is tried again that a node could not carry out.
pub const CHANGE_AGAIN: Duration = Duration::from_secs(15);
/// How long events wait for a change of the schema to be noted that the application has just made.
pub const LOOK_PATIENCE: Duration = Duration::from_millis(300);
/// Time between two looks for what was kept long enough.
pub const KEPT_LOOK: Duration = Duration::from_secs(3_600);
/// Milliseconds after which somebody who publishes a migration and does not end counts as dead.
pub const MIGRATION_LIFE_MS: i64 = 120_000;
/// A key of the cluster's bucket is read again after this time although nobody was heard to write it.
pub const WATCH_READ: Duration = Duration::from_secs(60);
/// What is heard may not be stored yet: a key is read again for so long.
pub const WATCH_STORED: Duration = Duration::from_millis(1_500);
/// How long who publishes a migration waits for the nodes to say what became of it.
pub const MIGRATION_WAIT: Duration = Duration::from_secs(60);
/// So long after the last node that says it, no other one is waited for.
pub const MIGRATION_QUIET: Duration = Duration::from_secs(2);
/// Prefix of every table and trigger of ours and of a Go node.
pub const PREFIX: &str = "__harmonylite__";
/// What the names of all objects begin with by which the application feeds its virtual tables.
pub const FEED: &str = "__harmonylite__feed";
/// The same for the temporary ones with which our connection tries an entry.
pub const TRIAL: &str = "__harmonylite__trial";
/// Queued rows that one write of the application runs besides its own.
pub const FEED_ROWS: usize = 32;
/// Queued rows of one table; beyond it the index is built anew, or not fed any more.
pub const FEED_MAX_ROWS: i64 = 50_000;
/// Bytes of the queued rows' old values, likewise.
pub const FEED_MAX_BYTES: i64 = 64 << 20;
/// Entries of a queue that are tried again at once, besides those that the application's next write runs.
pub const FEED_AGAIN: i64 = 96;
/// Transactions of ours in a row that find a queue empty before its hooks are taken away.
pub const FEED_IDLE: u32 = 20;

/// Time between two looks whether a comparison is over.
pub const COMPARE_LOOK: Duration = Duration::from_secs(1);
/// Rows of one range when nodes are compared: one short read transaction.
pub const COMPARE_ROWS: u64 = 20_000;
/// Bytes of their values, about.
pub const COMPARE_BYTES: usize = 8 << 20;
/// Processor time that such a transaction takes.
pub const COMPARE_WORK: Duration = Duration::from_millis(15);
/// Time that it takes on a busy machine.
pub const COMPARE_TIME: Duration = Duration::from_millis(60);

/// Time from the start of a session until all pages of the database are checked once.
pub const CHECK_AFTER: Duration = Duration::from_secs(2);
/// Bytes of a database whose pages are checked again while somebody looks. A larger one is checked at the start of a session alone.
pub const CHECK_BYTES: u64 = 32 << 20;
/// Time between two such checks while a person looks, and while a program does, at least.
pub const CHECK_PERSON: Duration = Duration::from_millis(800);
pub const CHECK_PROGRAM: Duration = Duration::from_secs(600);
/// So many times as long as the last one took that time is at least.
pub const CHECK_SHARE: [u32; 2] = [20, 2_000];

/// How long a node that joins waits for the founder's first snapshot.
pub const FIRST_SNAPSHOT: Duration = Duration::from_secs(60);
/// How long a node that joins waits for a store that cannot be reached.
pub const STORE_ABSENT: Duration = Duration::from_secs(10);

/// Longest time from a failed proof to the next one.
pub const PROVE_AGAIN: Duration = Duration::from_secs(600);
/// How long a list of snapshots waits for NATS to learn which was proven.
pub const PROOF_LOOK: Duration = Duration::from_secs(3);

/// Pause before a database that was just recovered is recovered again; it doubles.
pub const RECOVERY_PAUSE: Duration = Duration::from_secs(5);
/// Damage after this long without any counts as the first; also the longest pause between two recoveries.
pub const RECOVERED_FOR_GOOD: Duration = Duration::from_secs(3600);
/// First pause after a worker called the database damaged and SQLite's check did not; the following ones double up to
/// `UNFOUNDED_MAX`.
pub const UNFOUNDED_FIRST: Duration = Duration::from_secs(1);
/// The longest such pause.
pub const UNFOUNDED_MAX: Duration = Duration::from_secs(300);

/// Copies of one kind (damaged databases, databases before they joined) that are kept beside the database.
pub const COPIES_KEPT: usize = 3;
/// Pause between two looks whether what a node without a database waits for has come by itself.
pub const ARRIVAL_LOOK: Duration = Duration::from_millis(250);

/// Longest pause before a snapshot that was downloaded and did not serve is downloaded again; the pauses double up to this.
pub const DOWNLOAD_AGAIN_MAX: Duration = Duration::from_secs(300);
/// Pause between two requests for another snapshot than a damaged one; it doubles.
pub const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The longest such pause.
pub const ASK_AGAIN_MAX: Duration = Duration::from_secs(3600);
/// Longest pause between two attempts to find a snapshot, of a node that fell out of the streams' reach or joins.
pub const RECOVERY_LOOK_MAX: Duration = Duration::from_secs(5);
/// A transfer that brings fewer bytes than this in `TRANSFER_STALL` has stalled, however often one of them comes.
pub const TRANSFER_LEAST: u64 = 1 << 10;
/// Nodes that are counted when it is decided who leads into a new epoch of the streams.
pub const EPOCH_NODES: usize = 200;
/// How long nobody must have come before that is decided.
pub const EPOCH_GATHER: Duration = Duration::from_secs(2);
/// Pause between two looks whether another epoch has begun.
pub const EPOCH_LOOK: Duration = Duration::from_secs(5);
/// Pause between two looks while a node compares itself because of one.
pub const EPOCH_STEP: Duration = Duration::from_millis(300);
/// How long nodes wait for a snapshot while nobody leads; then they go on with what they have.
pub const EPOCH_PATIENCE: Duration = Duration::from_secs(20);
/// Pause before a stream is made anew that was removed while it was followed.
pub const REMOVED_PAUSE: Duration = Duration::from_millis(1_500);
