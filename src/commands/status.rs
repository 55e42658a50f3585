//! `-status`: what a running daemon says of itself and of the others; without one, what the files tell.

use super::Show;
use super::shown::{age as age_of, columns, printable};
use crate::base::error::{Context, Error, Kind};
use crate::base::{clock, files};
use crate::config::Config;
use crate::db;
use crate::model::positions;
use crate::operate::socket;
use crate::operate::words::{age, behind, bytes, roles};
use serde_json::{Value, json};
use std::io::ErrorKind;

/// Shows the status. An error of [`Kind::Unusable`] says that a person should look.
pub fn status(config: &Config, show: Show) -> Result<(), Error> {
    let Some(document) = of_daemon(config)? else { return of_files(config, show) };
    show.print(|| lines(&document).join("\n"), || document.clone());
    match document["node"]["status"].as_str() {
        Some("healthy") => Ok(()),
        word => Err(Error::new(Kind::Unusable, format!("this node is {}", word.unwrap_or("unknown")))),
    }
}

/// What the daemon says; `None`: none runs.
pub fn of_daemon(config: &Config) -> Result<Option<Value>, Error> {
    let path = config.socket_path();
    match socket::ask(&path) {
        Ok(text) => {
            let unreadable = |error: serde_json::Error| {
                Error::waiting(format!("{}: unreadable answer: {error}", path.display()))
            };
            serde_json::from_str(&text).map(Some).map_err(unreadable)
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            if runs(config) {
                let why =
                    "a daemon runs, and does not answer there: is it starting, or of an earlier version?";
                return Err(Error::waiting(format!("{}: {why}", path.display())));
            }
            Ok(None)
        }
        Err(error) => Err(Error::local(format!("{}: {error}", path.display()))),
    }
}

/// Whether a daemon of this database runs.
pub fn runs(config: &Config) -> bool {
    matches!(files::Lock::try_take_existing(&config.lock_path()), Ok(None))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn lines(document: &Value) -> Vec<String> {
    let node = &document["node"];
    let role =
        Some(roles(node)).filter(|role| !role.is_empty()).map_or(String::new(), |role| format!(", {role}"));
    let mut lines = vec![format!(
        "node {} on {}: {}{role}, version {}, for {}",
        text(&node["node_id"]),
        text(&node["host"]),
        text(&node["status"]),
        text(&node["version"]),
        age(&node["uptime_seconds"])
    )];
    lines.extend(list(&node["problems"]).iter().map(|why| format!("  look at     {}", text(why))));
    lines.extend(list(&node["others"]).iter().map(|why| format!("  others      {}", text(why))));
    let mut put = |name: &str, value: String| lines.push(format!("  {name:<11} {value}"));
    let open = if node["database_open"] == true { "" } else { ", not open" };
    put("database", format!("{}{open}, {} tables", text(&node["database"]), text(&node["tables"])));
    let broker = if node["connected"] == true { "connected".to_owned() } else { text(&node["last_error"]) };
    put("broker", broker);
    for stream in list(&document["streams"]) {
        let position = format!("{} of {}", text(&stream["position"]), text(&stream["end"]));
        put("position", format!("{}: {position}", text(&stream["name"])));
    }
    if node["replicate"] == true {
        put("behind", behind(&document["behind"]));
    }
    put("waits", waits(document));
    put("set aside", set_aside(&document["waiting"]));
    put("conflicts", conflicts(&document["conflicts"]));
    put("compared", compared(&document["compared"]));
    put("snapshot", snapshot(&document["snapshot"]));
    put("traffic", traffic(&document["traffic"]));
    for (name, key) in [("today", "today"), ("this month", "this_month")] {
        let of = &document["traffic"][key];
        let all = [("sent", "sent"), ("received", "received"), ("written to the disk", "written_to_disk")];
        put(name, all.map(|(what, key)| format!("{} {what}", bytes(&of[key]))).join(", "));
    }
    let nodes = list(&document["nodes"]);
    if nodes.is_empty() {
        lines.push("no other node was heard of".to_owned());
    } else {
        lines.push(String::new());
        lines.push(table(nodes));
    }
    lines
}

fn waits(document: &Value) -> String {
    let changes = match document["waiting"]["not_confirmed"].as_u64() {
        Some(0) | None => None,
        Some(changes) => Some(format!("{changes} changes of this node have not come back from the stream")),
    };
    let whole = document["node"]["waits_for"].as_str().map(printable);
    let all: Vec<String> = whole.into_iter().chain(changes).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join("; ") }
}

fn set_aside(waiting: &Value) -> String {
    let tables = list(&waiting["set_aside"]);
    let of = |of: &Value| match of["table"].as_str() {
        Some("") | None => format!("{} messages that are no events", text(&of["events"])),
        Some(table) => {
            format!("{} events of {} ({})", text(&of["events"]), printable(table), text(&of["state"]))
        }
    };
    let mut all: Vec<String> = tables.iter().map(of).collect();
    if let Some(dropped) = waiting["dropped"].as_u64().filter(|dropped| *dropped > 0) {
        all.push(format!("{dropped} dropped"));
    }
    if all.is_empty() { "nothing".to_owned() } else { format!("{}: see -set-aside", all.join(", ")) }
}

fn conflicts(conflicts: &Value) -> String {
    match conflicts["kept"].as_u64() {
        Some(0) | None => "none".to_owned(),
        Some(kept) => {
            let kinds = conflicts["by_kind"].as_object();
            let kinds = kinds.into_iter().flatten().map(|(kind, count)| format!("{kind} {count}"));
            format!("{kept} kept ({}): see -conflicts", kinds.collect::<Vec<_>>().join(", "))
        }
    }
}

/// How long ago a time of the document was.
fn ago(time: &Value) -> Option<String> {
    Some(format!("{} ago", age_of(time.as_str().and_then(clock::parse)?)))
}

fn compared(compared: &Value) -> String {
    match (compared["equal"].as_bool(), ago(&compared["time"])) {
        (Some(true), Some(ago)) => format!("equal, {ago}"),
        (Some(false), Some(ago)) => format!("NOT EQUAL, {ago}: {}", text(&compared["text"])),
        _ => "never since the start; -verify compares all nodes".to_owned(),
    }
}

fn snapshot(snapshot: &Value) -> String {
    if snapshot["enabled"] == false {
        return "switched off".to_owned();
    }
    let part =
        |time: &str, by: &str| Some(format!("{}, by node {}", ago(&snapshot[time])?, text(&snapshot[by])));
    let stored = part("stored", "stored_by").unwrap_or_else(|| "none since the start".to_owned());
    let proven = part("proven", "proven_by").map_or(String::new(), |when| format!("; restore proven {when}"));
    stored + &proven
}

fn traffic(traffic: &Value) -> String {
    let mut all =
        format!("{} sent, {} received over NATS", bytes(&traffic["sent"]), bytes(&traffic["received"]));
    if traffic["written_to_disk"].is_number() {
        all += &format!(", {} written to the disk", bytes(&traffic["written_to_disk"]));
    }
    if traffic["written_a_replicated_byte"].is_number() {
        all += &format!(" ({} a replicated byte)", text(&traffic["written_a_replicated_byte"]));
    }
    format!("{all}, in {}", age(&traffic["since_seconds"]))
}

fn table(nodes: &[Value]) -> String {
    let head = ["NODE", "STATE", "SEEN", "BEHIND", "PROBLEMS", "ROLE", "VERSION", "MACHINE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(nodes.iter().map(|node| {
        let seen = format!("{} ago", age(&node["heard_seconds_ago"]));
        let role = Some(roles(node)).filter(|role| !role.is_empty()).unwrap_or_else(|| "-".to_owned());
        vec![
            text(&node["node_id"]),
            text(&node["presence"]),
            seen,
            behind(&node["behind"]),
            text(&node["problems"]),
            role,
            text(&node["version"]),
            text(&node["host"]),
        ]
    }));
    columns(&rows)
}

/// No daemon runs: what lies beside the database.
fn of_files(config: &Config, show: Show) -> Result<(), Error> {
    let path = &config.db_path;
    let shown = path.display();
    if !path.exists() {
        return Err(Error::new(Kind::Missing, format!("no daemon runs, and {shown}: no such file")));
    }
    let positions = match positions::read(&config.seq_map_path) {
        positions::Found::Map(map) => map,
        positions::Found::Missing | positions::Found::Damaged(_) => positions::SeqMap::new(),
    };
    let known = db::is_known(path);
    let (aside, conflicts, unpublished) = if known {
        let aside = db::list_aside(path).context(shown.to_string())?.len();
        let conflicts = db::list_conflicts(path).context(shown.to_string())?.len();
        (aside, conflicts, db::holds_unsettled(path, i64::MAX).context(shown.to_string())?)
    } else {
        (0, 0, false)
    };
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let document = json!({
        "daemon": false,
        "node": { "node_id": config.node_id, "database": path, "size": size, "joined": known },
        "positions": positions,
        "waiting": { "not_confirmed": unpublished, "set_aside": aside },
        "conflicts": { "kept": conflicts },
    });
    let text = || {
        let mut lines = vec![format!("node {}: no daemon runs", config.node_id)];
        lines.push(format!("  database    {shown}, {}", bytes(&size.into())));
        lines.extend(
            positions.iter().map(|(stream, seq)| format!("  position    {}: {seq}", printable(stream))),
        );
        let waits = match (known, unpublished) {
            (false, _) => "the database has not joined a cluster",
            (true, true) => "changes of this node that have not come back from the stream",
            (true, false) => "nothing",
        };
        lines.push(format!("  waits       {waits}"));
        lines.push(format!("  set aside   {aside}"));
        lines.push(format!("  conflicts   {conflicts}"));
        lines.join("\n")
    };
    show.print(text, || document.clone());
    Err(Error::waiting(format!("no daemon runs on {shown}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_in_words() {
        let document = json!({
            "node": { "node_id": 1, "host": "a\u{1b}[2J", "status": "degraded", "leader": true, "publish": true, "replicate": true,
                "whole": true, "problems": ["no snapshot: http 503"], "database": "/d/app.db", "database_open": true,
                "tables": 4, "connected": true, "uptime_seconds": 7200, "version": "0.1.0", "waits_for": null },
            "streams": [{ "name": "s-1", "position": 5, "end": 9 }],
            "behind": { "messages": 4, "seconds": 2 },
            "waiting": { "not_confirmed": 3, "set_aside": [{ "table": "t", "state": "waiting", "events": 2 }], "dropped": 0 },
            "conflicts": { "kept": 2, "by_kind": { "update": 2 } },
            "compared": { "equal": null, "time": null },
            "snapshot": { "enabled": true, "stored": null, "proven": null },
            "traffic": { "since_seconds": 60, "sent": 1500, "received": 2, "written_to_disk": 4096, "written_a_replicated_byte": 2.5 },
            "nodes": [{ "node_id": 2, "presence": "silent", "heard_seconds_ago": 75, "behind": null, "problems": 0, "host": "b",
                "version": "0.1.0", "publish": false, "replicate": true, "whole": true, "leader": false }],
        });
        let text = lines(&document).join("\n");
        assert!(!text.contains('\u{1b}'), "{text}");
        for part in [
            "degraded, leader, version 0.1.0, for 2 h",
            "  look at     no snapshot: http 503",
            "  position    s-1: 5 of 9",
            "  behind      4 messages, 2 s",
            "  waits       3 changes of this node",
            "  set aside   2 events of t (waiting): see -set-aside",
            "  conflicts   2 kept (update 2): see -conflicts",
            "1.5 kB sent, 2 B received over NATS, 4.1 kB written to the disk (2.5 a replicated byte), in 60 s",
            "2     silent  75 s ago  not known  0         read replica  0.1.0    b",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
