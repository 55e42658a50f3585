//! The first minutes: `-demo`, `-init`, completion.

use super::status::SCHEMA;
use crate::support::*;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn a_demonstration_from_the_binary_alone() {
    let dir = Dir::new("demo");
    let binary = &nats_binaries()[0];
    let output = Command::new(PROGRAM)
        .arg("-demo")
        .env("PATH", binary.parent().unwrap())
        .env("TMPDIR", &dir.0)
        .output()
        .unwrap();
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "node 2 shows them after",
        "bytes in the store",
        "restored, and level",
        "three equal databases",
        "MOMO (Michael Ende)",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0, "nothing is left");
}

fn init(dir: &Dir, arguments: &[&str]) -> std::process::Output {
    Command::new(PROGRAM).arg("-init").args(arguments).current_dir(&dir.0).output().unwrap()
}

#[test]
fn a_configuration_is_checked_shown_and_written_once() {
    let dir = Dir::new("init");
    let nats = Nats::start(&dir);
    let database = dir.0.join("app.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch(SCHEMA).unwrap();
    let file = dir.0.join("harmonylite.toml");
    let url = nats.url().replace("nats://", "nats://u:hunter2@");
    let arguments = ["-db", "app.db", "-nats", &url, "-node-id", "7", "-store", "file:///tmp/x"];
    let output = init(&dir, &[&arguments[..], &["-dry-run"]].concat());
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("node_id = 7") && !text.contains("hunter2"), "{text}");
    assert!(!file.exists(), "only shown");
    let output = init(&dir, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains(&format!("db_path = \"{}\"", database.display())), "{written}");
    let output = init(&dir, &arguments);
    let text = printed(&output);
    assert!(output.status.code() == Some(1) && text.contains("is there already"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    // With what was written a daemon starts.
    let doctor = Command::new(PROGRAM)
        .args(["-config", "harmonylite.toml", "-doctor"])
        .current_dir(&dir.0)
        .output()
        .unwrap();
    assert!(doctor.status.code() <= Some(1), "{}", printed(&doctor));
}

#[test]
fn nothing_is_written_when_something_is_wrong() {
    let dir = Dir::new("init-wrong");
    let nats = Nats::start(&dir);
    std::fs::write(dir.0.join("notes.txt"), "this is a text, and longer than a header").unwrap();
    let away = format!("nats://127.0.0.1:{}", free_port());
    for (arguments, code, why) in [
        (&["-db", "notes.txt", "-nats", &nats.url()][..], 1, "no SQLite database"),
        (&["-db", "none/app.db", "-nats", &nats.url()], 1, "no such directory"),
        (&["-db", "app.db", "-nats", &away], 75, "refused"),
        (&["-db", "app.db", "-nats", "http://h"], 2, "nats.urls"),
        (&["-db", "app.db", "-nats", &nats.url(), "-store", "ftp://h"], 2, "accepted is nats:"),
    ] {
        let output = init(&dir, arguments);
        let text = printed(&output);
        assert!(output.status.code() == Some(code) && text.contains(why), "{arguments:?}: {text}");
        assert!(!dir.0.join("harmonylite.toml").exists());
    }
}

#[test]
fn shells_take_what_is_printed_for_them() {
    let script = |shell: &str| {
        let output = Command::new(PROGRAM).args(["-completion", shell]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let dir = Dir::new("completion");
    let path = dir.0.join("bash");
    std::fs::write(&path, script("bash")).unwrap();
    let complete =
        ". \"$0\"; COMP_WORDS=(harmonylite -conf); COMP_CWORD=1; _harmonylite; echo ${COMPREPLY[@]}";
    let output = Command::new("bash").args(["-c", complete]).arg(&path).output().unwrap();
    let words = printed(&output);
    assert!(
        words.contains("-config") && words.contains("-conflicts") && !words.contains("-quiet"),
        "{words}"
    );
    for shell in ["zsh", "fish"] {
        assert!(script(shell).contains("print-service"), "{shell}");
    }
}
