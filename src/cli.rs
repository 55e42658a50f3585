//! The command line: flags, exit codes, and the commands that are not the daemon.

mod operate;
mod values;

use crate::base::error::{Error, Kind};
use crate::base::logger::{self, Output};
use crate::base::worker::{self, Workers};
use crate::base::{files, limits, stop};
use crate::commands::{self, AsideVerb, ConflictFilter, ConflictVerb, Show};
use crate::config::{self, Config};
use crate::daemon;
use crate::db::{self, WhichConflicts};
use crate::equality::Side;
use crate::model::set::Format;
use crate::snapshot;
use lexopt::{Arg, Parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use values::{
    format, list, node_id, on, optional_name, optional_word, side, since, snapshot_name, switch, text, value,
    verb,
};

const HELP: &str = "\
harmonylite: replicates an application's SQLite database between nodes through NATS JetStream

Usage: harmonylite -config FILE [flags]       (flags take one dash or two)

  -config FILE          the configuration, TOML
  -node-id N            this node's number, instead of node_id in the configuration
  -save-snapshot        make a snapshot now, store it, and exit; a daemon may run
  -list-snapshots       show what the store holds
  -verify-snapshot [N]  download snapshot N (snapshot.db unless given), check it, say whether it is good
  -restore-snapshot N -to FILE
                        get snapshot N as a plain database file
  -restore-at WHEN -to FILE
                        the database as it was at a time (2026-11-24T15:00:00Z) or position (1234; stream=1234,...),
                        from a kept snapshot and the streams
  -restore-at WHEN -everywhere
                        the same, brought to all nodes: this node writes what differs (see -help recovery before you use it)
  -verify               compare all running nodes while they write: equal, or which rows of which nodes differ
  -repair -from SIDE    the same, then make those rows equal: as the majority, the leader or a node's number has them
  -table T              with -verify and -repair: of one table; -dry-run with -repair: only say what would be done
  -set-aside [VERB]     what the database could not use or not yet: list, show ID, retry ID (or all), drop ID (or all)
  -conflicts [VERB]     writes of other nodes that lost to ours: list, show ID, drop ID (or TABLE, or all)
  -table T, -since WHEN with -conflicts: of one table, not older than a time
  -conflict-restore ID  write a lost write again; TABLE instead of ID: all of a table
  -autoincrement TABLE  make its INTEGER PRIMARY KEY AUTOINCREMENT, so that every node may insert; -no-autoincrement TABLE: back
  -migrate FILE         run a file of statements once on every node, in order with the changes of rows; -dry-run: only on a copy
  -migrate-status       the changes of the schema that this node has seen, and where they failed
  -schema-undo [N]      what other nodes dropped and this one keeps; with a number: bring it back on all nodes
  -status               this node and all others: alive, behind, what waits and why, snapshots; exit 1: look at it; 75: no daemon
  -doctor               look at everything that replication needs, a line each, and what to do; exit 1: look at it; 2: broken
  -sync                 wait until all that is captured here is in the stream; -everywhere: on every live node
  -timeout S            with -sync: for S seconds at most (60 unless given)
  -init -db FILE        check a database and a broker, and write a configuration (to -config FILE, or harmonylite.toml)
  -nats URL, -store URL with -init: the broker (a nats-server of our own unless given), the store of snapshots; -dry-run: only show it
  -demo                 show two nodes, a snapshot and a third node in a temporary directory, and clean up
  -print-service KIND   print a file for systemd, procd (OpenWrt) or cron, made for this configuration
  -completion SHELL     print what bash, zsh or fish needs to complete these flags
  -stream-format F      from now on all nodes publish change sets (sets) or single rows, as Go nodes do (rows)
  -schema-status        the schema of this database: tables, what is not replicated, what waits because of it
  -schema-status-cluster
                        the schemas of all nodes: which one differs, in which table and column
  -json                 with these: one JSON document instead of text
  -quiet                with these: nothing when all is well
  -cleanup              remove everything of harmonylite from the database, and exit; refused while something is in it that may
                        be nowhere else; -force: all the same
  -cluster-addr H:P     with our own nats-server: where it listens for its cluster
  -cluster-peers A,B    with our own nats-server: routes to other nodes (nats://host:port, dns://name:port)
  -leaf-servers A,B     with our own nats-server: servers that it joins as a leaf (URL?hub=true for a hub), instead of
                        nats.leaf_servers in the configuration
  -version              print the version and exit
  -h, -help [TOPIC]     print this, or a topic of the manual (-help topics lists them), and exit
  -man                  print the whole manual as a page for man(1)

Exit codes: 0 done; 1 failed, or -verify found differences; 2 wrong usage or configuration; 75 not now, the same may succeed later: the broker or the
store cannot be reached, or somebody else is at work.";

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Command {
    #[default]
    Daemon,
    SaveSnapshot,
    ListSnapshots,
    VerifySnapshot,
    RestoreSnapshot,
    RestoreAt,
    SetAside,
    Conflicts,
    ConflictRestore,
    Autoincrement,
    NoAutoincrement,
    StreamFormat,
    SchemaStatus,
    SchemaStatusCluster,
    Verify,
    Repair,
    Migrate,
    MigrateStatus,
    SchemaUndo,
    Status,
    Doctor,
    Sync,
    Init,
    Demo,
    PrintService,
    Completion,
    Cleanup,
    Version,
    Help,
    Man,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Flags {
    command: Command,
    config: Option<PathBuf>,
    node_id: Option<u64>,
    cluster_addr: String,
    cluster_peers: Vec<String>,
    leaf_servers: Vec<String>,
    show: Show,
    /// The snapshot, the moment or the table that is meant.
    name: String,
    /// What `-set-aside` is to do.
    verb: AsideVerb,
    /// What `-conflicts` is to do, and with which.
    conflict_verb: ConflictVerb,
    filter: ConflictFilter,
    /// What `-conflict-restore` brings back.
    lost: Option<WhichConflicts>,
    format: Format,
    /// Whose rows `-repair` takes for right.
    side: Option<Side>,
    dry_run: bool,
    /// `-to`.
    to: Option<PathBuf>,
    /// `-restore-at` changes the whole cluster; `-sync` waits for all nodes.
    everywhere: bool,
    more: operate::More,
}

/// Runs the program with the arguments after its name.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    files::create_private_files();
    let flags = match parse(arguments) {
        Ok(flags) => flags,
        Err(why) => {
            eprintln!("harmonylite: {why}");
            return ExitCode::from(2);
        }
    };
    match flags.command {
        Command::Version => {
            println!("harmonylite {} (SQLite {})", env!("CARGO_PKG_VERSION"), db::sqlite_version());
            return ExitCode::SUCCESS;
        }
        Command::Help => return operate::help(&flags.more, HELP),
        Command::Man => {
            commands::man();
            return ExitCode::SUCCESS;
        }
        Command::Completion => {
            print!("{}", commands::completion(flags.more.shell, HELP));
            return ExitCode::SUCCESS;
        }
        Command::Init | Command::Demo => return operate::without_configuration(&flags),
        _ => {}
    }
    let (config, warnings) = match configuration(&flags) {
        Ok(loaded) => loaded,
        Err(errors) if flags.command == Command::Doctor => {
            return ExitCode::from(commands::refused_configuration(&errors, flags.show));
        }
        Err(errors) => {
            for error in errors {
                eprintln!("harmonylite: {error}");
            }
            return ExitCode::from(2);
        }
    };
    let output = match (flags.command, flags.show.quiet) {
        (Command::Daemon, _) => Output::Daemon,
        (Command::Doctor, _) | (_, true) => Output::Quiet,
        _ if flags.show.json => Output::Command,
        _ => Output::Watched,
    };
    logger::start(config.log_format, config.verbose, config.node_id, output);
    worker::abort_on_panic();
    if flags.command == Command::Doctor {
        return operate::doctor(&config, &warnings, flags.show);
    }
    for warning in warnings {
        log::warn!("{warning}");
    }
    match execute(&flags, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log::error!("{why}");
            ExitCode::from(exit_code(why.kind()))
        }
    }
}

/// `EX_TEMPFAIL` of sysexits.h: nothing is broken, and the same command may succeed later.
const TRY_LATER: u8 = 75;

/// What a failure means to the shell, cron or a supervisor.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 2,
        Kind::Stopped | Kind::Waiting | Kind::Unreachable => TRY_LATER,
        Kind::Refused | Kind::Missing | Kind::Damaged | Kind::Stripped | Kind::Unusable | Kind::Local => 1,
    }
}

fn configuration(flags: &Flags) -> Result<(Config, Vec<String>), Vec<Error>> {
    let (mut config, mut warnings) = config::load(flags.config.as_deref(), flags.node_id)?;
    config.nats.cluster_addr.clone_from(&flags.cluster_addr);
    config.nats.cluster_peers.clone_from(&flags.cluster_peers);
    if !flags.leaf_servers.is_empty() {
        config.nats.leaf_servers.clone_from(&flags.leaf_servers);
    }
    let joins = !flags.cluster_addr.is_empty()
        || !flags.cluster_peers.is_empty()
        || !config.nats.leaf_servers.is_empty();
    if joins && !config.nats.urls.is_empty() {
        return Err(vec![Error::usage(
            "-cluster-addr, -cluster-peers, -leaf-servers and nats.leaf_servers are for our own nats-server: nats.urls must be \
             empty",
        )]);
    }
    if config.nats.cluster_is_open() {
        return Err(vec![Error::usage(format!(
            "-cluster-addr {}: refused without a login, for whoever reaches this port reads and writes all rows: set \
             nats.user_name and nats.user_password (or nats.token), the same on all nodes, or listen on 127.0.0.1",
            flags.cluster_addr
        ))]);
    }
    if flags.cluster_peers.iter().chain(&flags.leaf_servers).any(|url| url.contains('@')) {
        warnings.push(
            "a login in -cluster-peers or -leaf-servers can be read by every user of this machine (ps): leave it out of \
             -cluster-peers, for routes use nats.user_name and nats.user_password, and name leaf servers in nats.leaf_servers"
                .to_owned(),
        );
    }
    if !flags.cluster_peers.is_empty() && flags.cluster_addr.is_empty() {
        return Err(vec![Error::usage(
            "-cluster-peers needs -cluster-addr: where our own nats-server listens for its cluster",
        )]);
    }
    warnings.extend(flags.more.warning());
    if flags.command == Command::RestoreAt {
        snapshot::parse_when(&config, &flags.name).map_err(|error| vec![error.at("-restore-at")])?;
    }
    Ok((config, warnings))
}

fn execute(flags: &Flags, config: &Config) -> Result<(), Error> {
    let (source, stop) = stop::pair();
    // A daemon that was asked to stop has done what it should, however it ends.
    signals(source, i32::from(flags.command != Command::Daemon))?;
    let (show, name) = (flags.show, flags.name.as_str());
    match flags.command {
        Command::Cleanup => commands::cleanup(config, show, flags.more.force),
        Command::Status => commands::status(config, show),
        Command::Sync => commands::sync(config, &stop, show, (flags.everywhere, flags.more.limit())),
        Command::PrintService => commands::print_service(config, flags.config.as_deref(), flags.more.service),
        Command::SetAside => commands::set_aside(config, show, flags.verb),
        Command::Conflicts => commands::conflicts(config, show, &flags.conflict_verb, &flags.filter),
        Command::ConflictRestore => {
            let which = needed(flags.lost.as_ref(), "-conflict-restore needs ID or TABLE")?;
            commands::restore_conflicts(config, show, which)
        }
        Command::Autoincrement => commands::autoincrement(config, show, name, true),
        Command::NoAutoincrement => commands::autoincrement(config, show, name, false),
        Command::StreamFormat => commands::stream_format(config, &stop, flags.format, show),
        Command::Migrate => commands::migrate(config, &stop, show, (name.as_ref(), flags.dry_run)),
        Command::MigrateStatus => commands::migrate_status(config, &stop, show),
        Command::SchemaUndo => commands::schema_undo(config, show, name.parse().ok()),
        Command::SchemaStatus => commands::schema_status(config, show),
        Command::SchemaStatusCluster => commands::schema_status_of_cluster(config, &stop, show),
        Command::Verify => commands::compare(config, &stop, show, flags.filter.table.clone()),
        Command::Repair => {
            let side = needed(flags.side, "-repair needs -from majority, -from leader or -from NODE")?;
            let table = flags.filter.table.clone();
            commands::repair(config, &stop, show, (table, side, flags.dry_run))
        }
        Command::SaveSnapshot => commands::save(config, &stop, show),
        Command::ListSnapshots => commands::list(config, &stop, show),
        Command::VerifySnapshot => commands::verify(config, &stop, show, name),
        Command::RestoreSnapshot => {
            let target = needed(flags.to.as_deref(), "-restore-snapshot needs -to FILE")?;
            commands::restore(config, &stop, show, name, target)
        }
        Command::RestoreAt if flags.everywhere => commands::restore_everywhere(config, &stop, show, name),
        Command::RestoreAt => {
            let target = needed(flags.to.as_deref(), "-restore-at needs -to FILE")?;
            commands::restore_at(config, &stop, show, name, target)
        }
        _ => {
            log::info!("harmonylite {}, node {}", env!("CARGO_PKG_VERSION"), config.node_id);
            daemon::run(config, &stop)
        }
    }
}

fn needed<T>(value: Option<T>, why: &str) -> Result<T, Error> {
    value.ok_or_else(|| Error::usage(why))
}

/// The first SIGTERM or SIGINT stops everything in order, the second ends the process at once. `code` is the exit code of a
/// process that was asked to stop and did not end in time.
fn signals(source: stop::StopSource, code: i32) -> Result<(), Error> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Error::local(format!("signals: {error}")))?;
    // It lives as long as the process.
    Workers::default().spawn("signals", move || {
        let mut source = Some(source);
        for signal in signals.forever() {
            match source.take() {
                Some(source) => {
                    log::info!("signal {signal}: stopping; a second one stops at once");
                    source.stop();
                    stop_in_time(code)?;
                }
                None => stop_at_once("second signal", 1),
            }
        }
        Ok(())
    })
}

/// A store whose server does not answer is waited for in a call that nothing interrupts. What such a call works on may be
/// left at any moment, as after a kill.
fn stop_in_time(code: i32) -> Result<(), Error> {
    Workers::default().spawn("stop-guard", move || {
        let (_source, never) = stop::pair();
        never.wait(limits::STOP);
        stop_at_once("something still waits for an answer", code)
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "a second signal, or a call that does not end, asks for exactly this"
)]
fn stop_at_once(why: &str, code: i32) -> ! {
    log::warn!("{why}: stopping at once");
    std::process::exit(code)
}

/// Long flags with one dash, as Go programs take them, become those with two.
fn two_dashes(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => argument,
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Flags, String> {
    let mut parser = Parser::from_args(arguments.into_iter().map(two_dashes));
    let mut flags = Flags::default();
    let usage = |error: lexopt::Error| format!("{error}; -h shows the flags");
    while let Some(argument) = parser.next().map_err(usage)? {
        let mut command = None;
        match argument {
            Arg::Long("config") => flags.config = Some(value(&mut parser, "config")?.into()),
            Arg::Long("node-id") => flags.node_id = Some(node_id(&mut parser)?),
            Arg::Long("cluster-addr") => flags.cluster_addr = text(&mut parser, "cluster-addr")?,
            Arg::Long("cluster-peers") => flags.cluster_peers = list(&mut parser, "cluster-peers")?,
            Arg::Long("leaf-servers" | "leaf-server") => {
                flags.leaf_servers = list(&mut parser, "leaf-servers")?
            }
            Arg::Long("verify") => command = switch(&mut parser, Command::Verify)?,
            Arg::Long("repair") => command = switch(&mut parser, Command::Repair)?,
            Arg::Long("migrate") => command = named(&mut parser, "migrate", &mut flags, Command::Migrate)?,
            Arg::Long("schema-undo") => command = schema_undo(&mut parser, &mut flags)?,
            Arg::Long("from") => flags.side = Some(side(&text(&mut parser, "from")?)?),
            Arg::Long("dry-run") => flags.dry_run = on(&mut parser)?,
            Arg::Long("save-snapshot") => command = switch(&mut parser, Command::SaveSnapshot)?,
            Arg::Long("list-snapshots") => command = switch(&mut parser, Command::ListSnapshots)?,
            Arg::Long("verify-snapshot") => command = verify_snapshot(&mut parser, &mut flags)?,
            Arg::Long("restore-snapshot") => {
                command = Some(Command::RestoreSnapshot);
                flags.name = snapshot_name(text(&mut parser, "restore-snapshot")?)?;
            }
            Arg::Long("restore-at") => {
                command = named(&mut parser, "restore-at", &mut flags, Command::RestoreAt)?
            }
            Arg::Long("set-aside") => {
                command = Some(Command::SetAside);
                flags.verb = verb(&mut parser, "set-aside", AsideVerb::parse, AsideVerb::ACCEPTED)?;
            }
            Arg::Long("conflicts") => command = conflicts(&mut parser, &mut flags)?,
            Arg::Long("autoincrement") => {
                command = named(&mut parser, "autoincrement", &mut flags, Command::Autoincrement)?
            }
            Arg::Long("no-autoincrement") => {
                command = named(&mut parser, "no-autoincrement", &mut flags, Command::NoAutoincrement)?
            }
            Arg::Long("table") => flags.filter.table = Some(text(&mut parser, "table")?),
            Arg::Long("since") => flags.filter.since_ms = Some(since(&mut parser)?),
            Arg::Long("conflict-restore") => command = conflict_restore(&mut parser, &mut flags)?,
            Arg::Long("stream-format") => {
                command = Some(Command::StreamFormat);
                flags.format = format(&text(&mut parser, "stream-format")?)?;
            }
            Arg::Long("everywhere") => flags.everywhere = on(&mut parser)?,
            Arg::Long("to") => flags.to = Some(value(&mut parser, "to")?.into()),
            Arg::Long("json") => flags.show.json = on(&mut parser)?,
            Arg::Long("quiet") => flags.show.quiet = on(&mut parser)?,
            Arg::Long("cleanup") => command = switch(&mut parser, Command::Cleanup)?,
            Arg::Long("version") | Arg::Short('V') => command = switch(&mut parser, Command::Version)?,
            Arg::Short('h') => command = operate::flag("help", &mut parser, &mut flags.more)?,
            Arg::Long(name) if operate::is_one(name) => {
                let name = name.to_owned();
                command = operate::flag(&name, &mut parser, &mut flags.more)?;
            }
            other => return Err(format!("{}; -h shows the flags", other.unexpected())),
        }
        if let Some(command) = command {
            choose(&mut flags, command)?;
        }
    }
    agree(&flags)?;
    Ok(flags)
}

/// Only one command can be given, unless the other one asks for help.
fn choose(flags: &mut Flags, command: Command) -> Result<(), String> {
    let first = matches!(flags.command, Command::Daemon) || flags.command == command;
    if !first && !matches!(command, Command::Help | Command::Version) {
        return Err("only one of -save-snapshot, -list-snapshots, -verify-snapshot, -restore-snapshot, -restore-at, \
             -set-aside, -conflicts, -conflict-restore, -autoincrement, -no-autoincrement, -stream-format, -schema-status, -schema-status-cluster, -verify, -repair, -migrate, -migrate-status, -schema-undo, -status, -doctor, -sync, -init, -demo, -print-service, -completion and -cleanup can be done at a time"
            .to_owned());
    }
    flags.command = command;
    Ok(())
}

/// Which flags belong together.
fn agree(flags: &Flags) -> Result<(), String> {
    let syncs = flags.command == Command::Sync;
    if flags.everywhere && !syncs && (flags.command != Command::RestoreAt || flags.to.is_some()) {
        return Err("-everywhere is for -restore-at WHEN, instead of -to FILE".to_owned());
    }
    let restores = matches!(flags.command, Command::RestoreSnapshot | Command::RestoreAt);
    if (flags.to.is_some() || (flags.everywhere && !syncs)) != restores {
        return Err("-restore-snapshot NAME or -restore-at WHEN, and -to FILE belong together".to_owned());
    }
    let lists = flags.command == Command::Conflicts && flags.conflict_verb == ConflictVerb::List;
    let compares = matches!(flags.command, Command::Verify | Command::Repair);
    if (flags.filter.table.is_some() && !lists && !compares) || (flags.filter.since_ms.is_some() && !lists) {
        return Err(
            "-table is for -conflicts list, -verify and -repair, and -since for -conflicts list".to_owned()
        );
    }
    let tries = matches!(flags.command, Command::Repair | Command::Init | Command::Migrate);
    if flags.side.is_some() && flags.command != Command::Repair || flags.dry_run && !tries {
        return Err("-from is for -repair, and -dry-run for -repair, -migrate and -init".to_owned());
    }
    flags.more.agree(flags.command)?;
    if flags.command == Command::Daemon && flags.show != Show::default() {
        return Err("-json and -quiet are for commands, such as -save-snapshot".to_owned());
    }
    if !flags.cluster_addr.is_empty() && !flags.cluster_addr.contains(':') {
        return Err(format!("-cluster-addr {}: accepted is host:port", flags.cluster_addr));
    }
    Ok(())
}

/// A command with one name.
fn named(
    parser: &mut Parser,
    flag: &str,
    flags: &mut Flags,
    command: Command,
) -> Result<Option<Command>, String> {
    flags.name = text(parser, flag)?;
    Ok(Some(command))
}

/// The number of what is to come back, if one is given.
fn schema_undo(parser: &mut Parser, flags: &mut Flags) -> Result<Option<Command>, String> {
    if let Some(word) = optional_word(parser) {
        let number = word.to_str().filter(|word| word.parse::<i64>().is_ok());
        flags.name = number.ok_or("-schema-undo: accepted is a number, or nothing for the list")?.to_owned();
    }
    Ok(Some(Command::SchemaUndo))
}

fn verify_snapshot(parser: &mut Parser, flags: &mut Flags) -> Result<Option<Command>, String> {
    flags.name = optional_name(parser)?;
    Ok(Some(Command::VerifySnapshot))
}

fn conflicts(parser: &mut Parser, flags: &mut Flags) -> Result<Option<Command>, String> {
    flags.conflict_verb = verb(parser, "conflicts", ConflictVerb::parse, ConflictVerb::ACCEPTED)?;
    Ok(Some(Command::Conflicts))
}

fn conflict_restore(parser: &mut Parser, flags: &mut Flags) -> Result<Option<Command>, String> {
    flags.lost = Some(commands::which_conflicts(&text(parser, "conflict-restore")?));
    Ok(Some(Command::ConflictRestore))
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
