//! What the broker holds, in words: for whoever looks for the cause of a failure.

use crate::support::connect_with;
use harmonylite::testing::nats::{Auth, JetStream};
use harmonylite::testing::payload::{Codec, Payload};
use harmonylite::testing::value::Value;
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::path::Path;

/// Writes all events of the change streams to a file.
pub fn write_down(url: &str, to: &Path) {
    let js = JetStream::new(connect_with(url, Auth::default()));
    let mut codec = Codec::new(false).unwrap();
    let mut text = String::new();
    for shard in 1..=3 {
        let stream = format!("harmonylite-changes-c-{shard}");
        let Ok(Some(info)) = js.stream(&stream) else { continue };
        for seq in info.state.first_seq..=info.state.last_seq {
            let found: Result<Json, _> = js.api(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": seq }));
            let Ok(found) = found else { continue };
            let part = |name: &str| {
                let bytes =
                    data_encoding::BASE64.decode(found["message"][name].as_str().unwrap_or("").as_bytes());
                bytes.unwrap_or_default()
            };
            let headers = String::from_utf8_lossy(&part("hdrs")).replace("\r\n", " ");
            let _ = writeln!(text, "{shard} {seq} {} {headers}", found["message"]["time"]);
            let events = match codec.read(&part("data")) {
                Ok(Payload::Row(event)) => vec![event],
                Ok(Payload::Set(events)) => events,
                Err(why) => {
                    let _ = writeln!(text, "    {why}");
                    continue;
                }
            };
            for event in events {
                let row: Vec<String> =
                    event.row.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
                let kind = if event.is_tombstone() { "gone" } else { "row" };
                let _ = writeln!(
                    text,
                    "    {shard} {seq} id {} {}: {kind} ({})",
                    event.id,
                    event.table,
                    row.join(", ")
                );
            }
        }
    }
    let _ = std::fs::write(to, text);
}

/// As the applications show it.
fn shown(value: &Value) -> String {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    match value {
        Value::Null => "n".to_owned(),
        Value::Integer(number) => format!("i{number}"),
        Value::Real(real) => format!("r{:016x}", real.to_bits()),
        Value::Text(text) => format!("t{}", hex(text)),
        Value::Blob(bytes) => format!("b{}", hex(bytes)),
    }
}
