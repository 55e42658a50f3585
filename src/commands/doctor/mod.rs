//! `-doctor`: looks at everything that replication needs, one line each: good, look at this, or broken, and what to do.

mod broker;
mod machine;
mod store;

use super::shown::printable;
use super::{Show, escaped};
use crate::base::error::Error;
use crate::base::secret;
use crate::base::stop::Stop;
use crate::config::Config;
use serde_json::{Value, json};

/// How a thing is. The worst one is the exit code, as in the checks of the `nats` tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Good,
    Look,
    Broken,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Good => "good",
            Level::Look => "look at this",
            Level::Broken => "broken",
        }
    }

    fn code(self) -> u8 {
        match self {
            Level::Good => 0,
            Level::Look => 1,
            Level::Broken => 2,
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    what: &'static str,
    text: String,
    /// What to do; empty: nothing.
    advice: String,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

impl Report {
    fn put(&mut self, level: Level, what: &'static str, (text, advice): (String, &str)) {
        let text = secret::redact(&text);
        self.0.push(Finding { level, what, text, advice: advice.to_owned() });
    }

    /// All is well with a thing.
    pub fn good(&mut self, what: &'static str, text: impl Into<String>) {
        self.put(Level::Good, what, (text.into(), ""));
    }

    /// A person should look at a thing.
    pub fn look(&mut self, what: &'static str, text: impl Into<String>, advice: &str) {
        self.put(Level::Look, what, (text.into(), advice));
    }

    /// A thing is broken.
    pub fn broken(&mut self, what: &'static str, text: impl Into<String>, advice: &str) {
        self.put(Level::Broken, what, (text.into(), advice));
    }

    fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Good)
    }
}

/// Looks at everything and prints it; returns the exit code. `warnings`: what the configuration's reader said.
pub fn doctor(config: &Config, warnings: &[String], stop: &Stop, show: Show) -> u8 {
    let mut report = Report::default();
    if warnings.is_empty() {
        report.good("configuration", format!("node {} of {}", config.node_id, config.nats.stream_prefix));
    }
    for warning in warnings {
        report.look("configuration", warning, "change the configuration file, or leave it if it is meant so");
    }
    machine::look(config, &mut report, stop);
    let broker = broker::look(config, &mut report, stop);
    store::look(config, &mut report, broker.as_ref(), stop);
    if let Some(broker) = broker {
        broker.stop();
    }
    print(&report, show);
    report.worst().code()
}

/// The same for a configuration with mistakes: nothing else can be looked at.
pub fn refused_configuration(errors: &[Error], show: Show) -> u8 {
    let mut report = Report::default();
    for error in errors {
        report.broken("configuration", error.to_string(), "correct the file");
    }
    print(&report, show);
    report.worst().code()
}

fn print(report: &Report, show: Show) {
    let worst = report.worst();
    if show.json {
        let findings: Value = report.0.iter().map(describe).collect();
        println!("{}", escaped(&json!({ "result": worst.word(), "findings": findings }).to_string()));
        return;
    }
    for finding in &report.0 {
        if !show.quiet || finding.level > Level::Good {
            println!("{}", line(finding));
        }
    }
    if !show.quiet {
        let count = |level: Level| report.0.iter().filter(|finding| finding.level == level).count();
        println!(
            "{} good, {} to look at, {} broken",
            count(Level::Good),
            count(Level::Look),
            count(Level::Broken)
        );
    }
}

fn describe(finding: &Finding) -> Value {
    json!({
        "level": finding.level.word(),
        "what": finding.what,
        "text": finding.text,
        "advice": (!finding.advice.is_empty()).then_some(&finding.advice),
    })
}

fn line(finding: &Finding) -> String {
    let Finding { level, what, text, advice } = finding;
    let advice = if advice.is_empty() { String::new() } else { format!(": {advice}") };
    format!("{:<13} {what:<14} {}{}", level.word(), printable(text), printable(&advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_no_secret_is_shown() {
        let mut report = Report::default();
        report.good("a", "fine");
        assert_eq!(report.worst().code(), 0);
        report.look("b", "nats://u:hunter2@h", "do this");
        assert_eq!(report.worst().code(), 1);
        report.broken("c", "gone", "do that");
        assert_eq!(report.worst().code(), 2);
        let lines: Vec<String> = report.0.iter().map(line).collect();
        assert_eq!(lines[1], "look at this  b              nats://***@h: do this");
        assert_eq!(describe(&report.0[2])["level"], "broken");
    }
}
