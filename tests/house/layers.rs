//! Which room stands on which. A file that is not listed fails.

use crate::source::{Source, root, sources};
use std::collections::{BTreeMap, BTreeSet};

/// From the ground up: rooms of one floor do not know each other. Each room with its files (`mod.rs` is the room itself).
const FLOORS: &[&[(&str, &[&str])]] = &[
    &[(
        "base",
        &[
            "child",
            "clock",
            "copies",
            "digest",
            "error",
            "fail",
            "files",
            "limits",
            "logger",
            "md5",
            "memory",
            "once",
            "progress",
            "random",
            "retry",
            "rights",
            "secret",
            "stop",
            "temporary",
            "worker",
        ],
    )],
    &[
        (
            "model",
            &[
                "agree",
                "blocks",
                "change",
                "epoch",
                "event",
                "fold",
                "gate",
                "gotime",
                "lists",
                "moments",
                "origin",
                "payload",
                "positions",
                "reach",
                "set",
                "shard",
                "value",
            ],
        ),
        (
            "nats",
            &[
                "chunks",
                "connection",
                "consume",
                "dial",
                "error",
                "jetstream",
                "keeper",
                "kv",
                "login",
                "objects",
                "publish",
                "queued",
                "shared",
                "url",
                "wire",
            ],
        ),
    ],
    &[
        (
            "db",
            &[
                "apply",
                "apply/again",
                "apply/anew",
                "apply/applier",
                "apply/aside",
                "apply/beneath",
                "apply/bring_back",
                "apply/carry",
                "apply/checkpoint",
                "apply/claims",
                "apply/collisions",
                "apply/conflicts",
                "apply/facts",
                "apply/feed",
                "apply/feed_queue",
                "apply/feed_sql",
                "apply/follows",
                "apply/hidden",
                "apply/incoming",
                "apply/lost",
                "apply/deferred",
                "apply/displaced",
                "apply/doubles",
                "apply/ousted",
                "apply/ousting",
                "apply/overtaken",
                "apply/recent",
                "apply/marks",
                "apply/mirrored",
                "apply/orphan_review",
                "apply/orphan_search",
                "apply/orphans",
                "apply/renewal",
                "apply/rows",
                "apply/savepoint",
                "apply/session",
                "apply/subject",
                "apply/touched",
                "apply/travel",
                "apply/trigger",
                "apply/visit",
                "apply/writers",
                "autoincrement",
                "capture",
                "capture/all_rows",
                "capture/changelog",
                "capture/entries",
                "capture/install",
                "capture/log_table",
                "capture/plan",
                "capture/takeover",
                "capture/triggers",
                "capture/watch",
                "describe",
                "digits",
                "equality",
                "equality/print",
                "equality/ranges",
                "equality/sights",
                "equality/watch",
                "error",
                "examine",
                "foreign_keys",
                "indexes",
                "lists",
                "look",
                "migrate",
                "migrate/carry",
                "migrate/definitions",
                "migrate/history",
                "migrate/kept",
                "migrate/matching",
                "migrate/notice",
                "migrate/order",
                "migrate/origins",
                "migrate/people",
                "migrate/rebuild",
                "migrate/rules",
                "migrate/scratch",
                "migrate/script",
                "migrate/settle",
                "migrate/shape",
                "migrate/statement",
                "migrate/translate",
                "migrate/unsettled",
                "open",
                "opening",
                "ours",
                "restore",
                "restore/check",
                "restore/copy",
                "restore/encoding",
                "restore/everywhere",
                "restore/fill",
                "restore/header",
                "restore/included",
                "restore/keep",
                "restore/rebuilt",
                "restore/reconcile",
                "restore/replace",
                "restore/snapshot",
                "rowids",
                "sample",
                "schema",
                "schema_rows",
                "sql",
                "state",
                "steering",
                "table",
                "writable",
            ],
        ),
        (
            "storage",
            &[
                "directory",
                "http",
                "label",
                "nats",
                "open",
                "options",
                "pack",
                "pour",
                "probe",
                "s3",
                "s3/bucket",
                "s3/dialect",
                "s3/credentials",
                "s3/multipart",
                "s3/sigv4",
                "seal",
                "sftp",
                "sftp/host_keys",
                "sftp/opening",
                "sftp/relay",
                "sftp/rename",
                "store",
                "tree",
                "urls",
                "webdav",
                "webdav/auth",
            ],
        ),
    ],
    &[("config", &["keys", "reader", "stores"])],
    &[("streams", &["format", "judge", "made", "reader"]), ("broker", &["blocks", "server", "settings"])],
    &[(
        "operate",
        &[
            "board",
            "fleet",
            "flow",
            "health",
            "histogram",
            "lookout",
            "metrics",
            "notify",
            "page",
            "responder",
            "signals",
            "socket",
            "status",
            "trouble",
            "usage",
            "verdict",
            "words",
        ],
    )],
    &[(
        "cluster",
        &[
            "blocks",
            "epoch",
            "founder",
            "lease",
            "migration",
            "presence",
            "proven",
            "registry",
            "shards",
            "states",
            "teller",
            "wanted",
            "watch",
        ],
    )],
    &[
        (
            "replicator",
            &[
                "audit",
                "changes",
                "chores",
                "claimer",
                "cut",
                "followed",
                "follower",
                "healing",
                "later",
                "orders",
                "outbox",
                "pacing",
                "publisher",
                "reaching",
                "rebuilt",
                "reports",
                "setup",
                "waiting",
            ],
        ),
        (
            "equality",
            &[
                "answer",
                "ask",
                "candidates",
                "compare",
                "comparing",
                "due",
                "repair",
                "report",
                "settle",
                "spoken",
                "wire",
            ],
        ),
    ],
    &[(
        "snapshot",
        &[
            "at",
            "begin",
            "due",
            "heal",
            "included",
            "inherit",
            "inspect",
            "join",
            "ping",
            "proof",
            "replay",
            "restore",
            "save",
            "scheduler",
            "scratch",
            "search",
            "transfer",
            "tried",
        ],
    )],
    &[(
        "daemon",
        &[
            "check",
            "claim",
            "lookout",
            "lookout/broker",
            "lookout/machine",
            "lookout/memory",
            "lookout/store",
            "open",
            "session",
            "state",
            "supervise",
        ],
    )],
    &[(
        "commands",
        &[
            "aside",
            "autoincrement",
            "cleanup",
            "completion",
            "conflicts",
            "demo",
            "doctor",
            "doctor/broker",
            "doctor/machine",
            "doctor/store",
            "equality",
            "format",
            "init",
            "manual",
            "manual/blocks",
            "manual/plain",
            "manual/roff",
            "migrate",
            "schema",
            "service",
            "shown",
            "snapshots",
            "status",
            "sync",
        ],
    )],
    &[("cli", &["operate", "values"])],
    &[("main", &[])],
];

fn floor(room: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.iter().any(|(name, _)| *name == room));
    found.unwrap_or_else(|| panic!("{room}: this room is on no floor of tests/house/layers.rs"))
}

fn graph() -> (Vec<Source>, BTreeMap<String, BTreeSet<String>>) {
    let all = sources();
    let names: BTreeSet<String> = all.iter().map(|source| source.name.clone()).collect();
    let graph = all.iter().map(|source| (source.name.clone(), source.imports(&names))).collect();
    (all, graph)
}

#[test]
fn every_file_is_listed_and_every_listed_file_exists() {
    let listed: BTreeSet<String> = FLOORS
        .iter()
        .flat_map(|floor| floor.iter())
        .flat_map(|(room, files)| {
            let inside = files.iter().map(move |file| format!("{room}/{file}"));
            std::iter::once((*room).to_owned()).chain(inside)
        })
        .collect();
    let present: BTreeSet<String> = sources().into_iter().map(|source| source.name).collect();
    let unlisted: Vec<_> = present.difference(&listed).collect();
    assert!(unlisted.is_empty(), "not in the table of floors: {unlisted:?}");
    let absent: Vec<_> = listed.difference(&present).collect();
    assert!(absent.is_empty(), "in the table of floors, and not there: {absent:?}");
}

#[test]
fn nobody_reaches_up_or_aside() {
    let (_, graph) = graph();
    let room = |name: &str| name.split('/').next().unwrap().to_owned();
    for (file, imports) in &graph {
        for import in imports {
            let (mine, theirs) = (room(file), room(import));
            assert!(
                mine == theirs || floor(&theirs) < floor(&mine),
                "src/{file}.rs uses {import}, which stands above or beside it"
            );
        }
    }
}

#[test]
fn no_circles() {
    let (_, mut graph) = graph();
    // Take away, again and again, what imports nothing that is left.
    loop {
        let free: Vec<String> =
            graph.iter().filter(|(_, imports)| imports.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            graph.remove(&name);
            for imports in graph.values_mut() {
                imports.remove(&name);
            }
        }
    }
    assert!(graph.is_empty(), "these files import each other in a circle, or stand on one: {graph:#?}");
}

#[test]
fn knowledge_has_one_home() {
    for (word, homes) in [
        ("rusqlite", &["db"][..]),
        ("TcpStream", &["nats", "storage/sftp", "operate/responder"]),
        ("rustls::", &["nats"]),
        ("ureq::", &["storage/http"]),
        ("ssh2::", &["storage/sftp"]),
        ("roxmltree::", &["storage"]),
        ("ciborium::", &["model/positions", "cluster"]),
        ("ciborium_ll", &["model/event"]),
        ("unsafe {", &["base/child", "base/memory", "db/digits"]),
        ("std::process::exit", &["cli"]),
        ("std::thread::Builder", &["base/worker"]),
    ] {
        for source in sources() {
            let at_home =
                homes.iter().any(|home| source.name == *home || source.name.starts_with(&format!("{home}/")));
            assert!(at_home || !source.code.contains(word), "src/{}: names {word}", source.file);
        }
    }
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "Makefile",
        "README.md",
        "clippy.toml",
        "fixtures",
        "rustfmt.toml",
        "src",
        "tests",
        "target",
        "build",
    ];
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name}: not at the top level");
    }
}
