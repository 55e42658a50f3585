//! Parts of a status document in words, for the page and for the terminal.

use serde_json::Value;

/// Roles of a node, in words.
pub fn roles(node: &Value) -> String {
    let of = |key: &str, when: bool, word: &str| (node[key] == when).then(|| word.to_owned());
    let words = [
        of("leader", true, "leader"),
        of("publish", false, "read replica"),
        of("replicate", false, "publishes only"),
        of("whole", false, "not whole"),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How far behind, in words.
pub fn behind(behind: &Value) -> String {
    match (behind["messages"].as_u64(), behind["seconds"].as_u64()) {
        (Some(0), _) => "level".to_owned(),
        (Some(1), Some(seconds)) => format!("1 message, {seconds} s"),
        (Some(messages), Some(seconds)) => format!("{messages} messages, {seconds} s"),
        _ => "not known".to_owned(),
    }
}

/// Seconds for people.
pub fn age(seconds: &Value) -> String {
    seconds.as_u64().map_or_else(|| "-".to_owned(), duration)
}

/// `119 s`, `2 min`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes for people.
pub fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), size)
}

/// `512 B`, `1.5 MB`: powers of a thousand.
pub fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut number = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if number < 999.95 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{number:.1} {unit}") };
        }
        number /= 1000.0;
    }
    format!("{number:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(&json!(999)), "999 B");
        assert_eq!(bytes(&json!(1_550_000)), "1.6 MB");
        assert_eq!(
            (age(&json!(5)), age(&json!(7_199)), age(&json!(172_800))),
            ("5 s".into(), "119 min".into(), "2 d".into())
        );
        assert_eq!(behind(&json!({ "messages": 3, "seconds": 8 })), "3 messages, 8 s");
        assert_eq!(
            (behind(&json!({ "messages": 0, "seconds": 0 })), behind(&json!(null))),
            ("level".into(), "not known".into())
        );
        let node = json!({ "leader": true, "publish": false, "replicate": true, "whole": true });
        assert_eq!(roles(&node), "leader, read replica");
    }
}
