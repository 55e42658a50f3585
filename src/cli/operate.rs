//! The flags of an operator's commands: doctor, sync, init, demo, service files, completion.

use super::values::{on, optional_word, switch, text, value};
use super::{Command, Flags, exit_code, signals};
use crate::base::logger::{self, Format, Output};
use crate::base::{stop, worker};
use crate::commands::{self, Service, Shell, Show, Wanted};
use crate::config::Config;
use lexopt::Parser;
use std::process::ExitCode;
use std::time::Duration;

/// How long `-sync` waits unless somebody says otherwise.
const SYNC: Duration = Duration::from_secs(60);

/// What these flags say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct More {
    limit: Option<Duration>,
    pub service: Service,
    pub shell: Shell,
    init: Wanted,
    /// What `-help` is asked for.
    topic: Option<String>,
    /// `-pprof`: the Go program's profiler.
    profiles: bool,
    /// `-cleanup` removes what may be nowhere else.
    pub force: bool,
}

impl More {
    /// How long `-sync` waits.
    pub fn limit(&self) -> Duration {
        self.limit.unwrap_or(SYNC)
    }

    /// What is to be said of flags without effect.
    pub fn warning(&self) -> Option<String> {
        self.profiles.then(|| "-pprof has no effect here: this program has no profiler".to_owned())
    }

    /// Which flags belong together.
    pub fn agree(&self, command: Command) -> Result<(), String> {
        if self.limit.is_some() && command != Command::Sync {
            return Err("-timeout is for -sync".to_owned());
        }
        if self.force && command != Command::Cleanup {
            return Err("-force is for -cleanup".to_owned());
        }
        let wanted = &self.init;
        let any =
            !wanted.database.as_os_str().is_empty() || !wanted.nats.is_empty() || !wanted.store.is_empty();
        if command == Command::Init && wanted.database.as_os_str().is_empty() {
            return Err("-init needs -db FILE: the application's database".to_owned());
        }
        if any && command != Command::Init {
            return Err("-db, -nats and -store are for -init".to_owned());
        }
        Ok(())
    }
}

const NAMES: [&str; 18] = [
    "help",
    "man",
    "schema-status",
    "schema-status-cluster",
    "migrate-status",
    "status",
    "doctor",
    "sync",
    "timeout",
    "init",
    "db",
    "nats",
    "store",
    "demo",
    "print-service",
    "completion",
    "pprof",
    "force",
];

/// Whether a flag is one of these.
pub fn is_one(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Takes one of these flags; returns the command that it is, if any.
pub fn flag(name: &str, parser: &mut Parser, more: &mut More) -> Result<Option<Command>, String> {
    match name {
        "schema-status" => return switch(parser, Command::SchemaStatus),
        "schema-status-cluster" => return switch(parser, Command::SchemaStatusCluster),
        "migrate-status" => return switch(parser, Command::MigrateStatus),
        "status" => return switch(parser, Command::Status),
        "doctor" => return switch(parser, Command::Doctor),
        "sync" => return switch(parser, Command::Sync),
        "init" => return switch(parser, Command::Init),
        "demo" => return switch(parser, Command::Demo),
        "man" => return switch(parser, Command::Man),
        "help" => {
            // Go programs take -help=true.
            let word = optional_word(parser).filter(|word| word != "true");
            more.topic = word.map(|word| word.to_string_lossy().into_owned());
            return Ok(Some(Command::Help));
        }
        "timeout" => {
            let text = text(parser, name)?;
            let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
            let accepted = || format!("-timeout {text}: accepted is a number of seconds, 1 to 86400");
            more.limit = Some(Duration::from_secs(seconds.ok_or_else(accepted)?));
        }
        "db" => more.init.database = value(parser, name)?.into(),
        "nats" => more.init.nats = text(parser, name)?,
        "store" => more.init.store = text(parser, name)?,
        "pprof" => {
            value(parser, name)?;
            more.profiles = true;
        }
        "force" => more.force = on(parser)?,
        "print-service" => {
            let word = text(parser, name)?;
            let accepted = || format!("-print-service {word}: {}", Service::ACCEPTED);
            more.service = Service::parse(&word).ok_or_else(accepted)?;
            return Ok(Some(Command::PrintService));
        }
        "completion" => {
            let word = text(parser, name)?;
            let accepted = || format!("-completion {word}: {}", Shell::ACCEPTED);
            more.shell = Shell::parse(&word).ok_or_else(accepted)?;
            return Ok(Some(Command::Completion));
        }
        _ => {
            on(parser)?;
        }
    }
    Ok(None)
}

/// `-help`: the flags, or a topic of the manual.
pub fn help(more: &More, flags: &str) -> ExitCode {
    let Some(topic) = &more.topic else {
        println!("{flags}\n\nTopics (harmonylite -help TOPIC): {}", commands::topics().join(", "));
        return ExitCode::SUCCESS;
    };
    match commands::help(topic) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("harmonylite: {why}");
            ExitCode::from(2)
        }
    }
}

/// `-init` and `-demo`.
pub fn without_configuration(flags: &Flags) -> ExitCode {
    let output = if flags.show == Show::default() { Output::WatchedQuiet } else { Output::Quiet };
    logger::start(Format::Console, false, 0, output);
    worker::abort_on_panic();
    let (source, stop) = stop::pair();
    let done = signals(source, 1).and_then(|()| match flags.command {
        Command::Demo => commands::demo(&stop, flags.show),
        _ => {
            let wanted = Wanted {
                node_id: flags.node_id,
                file: flags.config.clone(),
                dry_run: flags.dry_run,
                ..flags.more.init.clone()
            };
            commands::init(&wanted, &stop, flags.show)
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log::error!("{why}");
            ExitCode::from(exit_code(why.kind()))
        }
    }
}

/// `-doctor`.
pub fn doctor(config: &Config, warnings: &[String], show: Show) -> ExitCode {
    let (source, stop) = stop::pair();
    match signals(source, 1) {
        Ok(()) => ExitCode::from(commands::doctor(config, warnings, &stop, show)),
        Err(why) => {
            log::error!("{why}");
            ExitCode::from(2)
        }
    }
}
