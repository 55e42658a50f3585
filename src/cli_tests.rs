//! The command line, as people and cron write it.

use super::*;

fn flags(arguments: &[&str]) -> Result<Flags, String> {
    parse(arguments.iter().map(OsString::from).collect())
}

#[test]
fn one_dash_or_two() {
    for dash in ["-", "--"] {
        let found = flags(&[
            &format!("{dash}config"),
            "c.toml",
            &format!("{dash}save-snapshot"),
            &format!("{dash}node-id=7"),
        ]);
        let found = found.unwrap();
        assert_eq!(
            (found.config, found.command, found.node_id),
            (Some("c.toml".into()), Command::SaveSnapshot, Some(7))
        );
    }
    assert_eq!(flags(&["-h"]).unwrap().command, Command::Help);
    assert_eq!(flags(&["-version"]).unwrap().command, Command::Version);
    assert_eq!(flags(&["-verify-snapshot", "-json"]).unwrap().name, "snapshot.db");
    let found = flags(&["-verify-snapshot", "snapshot-20261124T131500Z.db", "-quiet"]).unwrap();
    assert_eq!((found.name.as_str(), found.show.quiet), ("snapshot-20261124T131500Z.db", true));
    assert_eq!(flags(&["-cleanup=false"]).unwrap().command, Command::Daemon);
    assert_eq!(flags(&["-cluster-addr", "h:1", "-cluster-peers", "a, b"]).unwrap().cluster_peers, ["a", "b"]);
}

#[test]
fn one_message_each() {
    for (arguments, message) in [
        (&["-frobnicate"][..], "invalid option '--frobnicate'; -h shows the flags"),
        (&["file"], "unexpected argument \"file\"; -h shows the flags"),
        (&["-config"], "-config needs a value; -h shows the flags"),
        (&["-node-id", "x"], "-node-id x: accepted is a number"),
        (
            &["-cleanup", "-save-snapshot"],
            "only one of -save-snapshot, -list-snapshots, -verify-snapshot, -restore-snapshot, -restore-at, -set-aside, -conflicts, -conflict-restore, -autoincrement, -no-autoincrement, -stream-format, -schema-status, -schema-status-cluster, -verify, -repair, -migrate, -migrate-status, -schema-undo, -status, -doctor, -sync, -init, -demo, -print-service, -completion and -cleanup can be done at a time",
        ),
        (&["-everywhere"], "-everywhere is for -restore-at WHEN, instead of -to FILE"),
        (
            &["-restore-snapshot", "snapshot.db", "-everywhere"],
            "-everywhere is for -restore-at WHEN, instead of -to FILE",
        ),
        (
            &["-restore-at", "1", "-to", "x", "-everywhere"],
            "-everywhere is for -restore-at WHEN, instead of -to FILE",
        ),
        (&["-to", "x"], "-restore-snapshot NAME or -restore-at WHEN, and -to FILE belong together"),
        (
            &["-restore-snapshot", "snapshot.db"],
            "-restore-snapshot NAME or -restore-at WHEN, and -to FILE belong together",
        ),
        (&["-quiet"], "-json and -quiet are for commands, such as -save-snapshot"),
        (
            &["-verify-snapshot", "../x"],
            "../x: accepted is a name that -list-snapshots shows, such as snapshot.db",
        ),
        (&["-cleanup=maybe"], "maybe: accepted is true or false"),
        (&["-cluster-addr", "x"], "-cluster-addr x: accepted is host:port"),
        (&["-timeout", "5"], "-timeout is for -sync"),
        (&["-sync", "-timeout", "x"], "-timeout x: accepted is a number of seconds, 1 to 86400"),
        (&["-init"], "-init needs -db FILE: the application's database"),
        (&["-db", "x"], "-db, -nats and -store are for -init"),
        (&["-dry-run"], "-from is for -repair, and -dry-run for -repair, -migrate and -init"),
        (&["-print-service", "x"], "-print-service x: accepted is systemd, procd or cron"),
        (&["-completion", "x"], "-completion x: accepted is bash, zsh or fish"),
    ] {
        assert_eq!(flags(arguments).unwrap_err(), message);
    }
}

#[test]
fn cron_can_tell_later_from_broken() {
    for kind in [Kind::Waiting, Kind::Unreachable, Kind::Stopped] {
        assert_eq!(exit_code(kind), TRY_LATER);
    }
    for kind in [Kind::Refused, Kind::Missing, Kind::Damaged, Kind::Unusable, Kind::Local] {
        assert_eq!(exit_code(kind), 1);
    }
    assert_eq!(exit_code(Kind::Usage), 2);
}

#[test]
fn a_snapshot_and_a_file_belong_together() {
    assert!(flags(&["-restore-snapshot", "snapshot.db"]).is_err());
    assert!(flags(&["-to", "/tmp/x"]).is_err());
    let both = flags(&["-restore-snapshot", "snapshot.db", "-to", "/tmp/x"]).unwrap();
    assert_eq!((both.command, both.name.as_str()), (Command::RestoreSnapshot, "snapshot.db"));
}

#[test]
fn one_command_at_a_time() {
    let error = flags(&["-save-snapshot", "-list-snapshots"]).unwrap_err();
    assert!(error.starts_with("only one of"), "{error}");
    assert_eq!(flags(&["-save-snapshot", "-help"]).unwrap().command, Command::Help);
}

#[test]
fn switches_as_go_programs_take_them() {
    assert_eq!(flags(&["-save-snapshot=true"]).unwrap().command, Command::SaveSnapshot);
    assert_eq!(flags(&["--save-snapshot=false"]).unwrap().command, Command::Daemon);
    assert!(flags(&["-save-snapshot=maybe"]).is_err());
}

#[test]
fn the_profiler_of_the_go_program_is_accepted_and_told_of() {
    let found = flags(&["-pprof", "127.0.0.1:6060"]).unwrap();
    assert_eq!(found.command, Command::Daemon);
    assert!(found.more.warning().unwrap().contains("no effect"));
    assert_eq!(flags(&[]).unwrap().more.warning(), None);
}

#[test]
fn an_operators_flags() {
    let found = flags(&["-sync", "-everywhere", "-timeout", "5"]).unwrap();
    assert_eq!((found.command, found.everywhere, found.more.limit().as_secs()), (Command::Sync, true, 5));
    let found = flags(&["-init", "-db", "/d/app.db", "-nats", "nats://h", "-dry-run"]).unwrap();
    assert_eq!((found.command, found.dry_run), (Command::Init, true));
    assert_eq!(flags(&["-doctor", "-json"]).unwrap().command, Command::Doctor);
    assert_eq!(flags(&["-print-service", "procd"]).unwrap().more.service, commands::Service::Procd);
}
