//! In which form a stream's messages are published: the stream's description says it. What is read says it by itself, so both
//! forms can stand in one stream, and a stream can be changed while nodes publish.

use crate::base::error::{Error, Kind};
use crate::model::set::Format;
use crate::nats::StreamInfo;

/// The description of a stream of sets begins so, and ends with the number of the format.
const SETS: &str = "harmonylite change sets, format ";
/// The number that this version knows.
const NUMBER: &str = "1";

/// The description of a stream of this form.
pub fn description(format: Format) -> String {
    match format {
        Format::Rows => String::new(),
        Format::Sets => format!("{SETS}{NUMBER}"),
    }
}

/// The form of a stream; an error for one that only a newer version knows: nothing of it may be passed over.
pub fn format_of(info: &StreamInfo) -> Result<Format, Error> {
    let described = info.config["description"].as_str().unwrap_or_default();
    match described.strip_prefix(SETS) {
        None => Ok(Format::Rows),
        Some(NUMBER) => Ok(Format::Sets),
        Some(other) => Err(Error::new(
            Kind::Waiting,
            format!(
                "holds change sets of format {:?}, and this version knows {NUMBER}: a newer version of harmonylite is needed",
                other.chars().take(16).collect::<String>()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::StreamState;
    use serde_json::json;

    fn described(description: &str) -> StreamInfo {
        let state = StreamState::default();
        StreamInfo {
            config: json!({ "description": description }),
            created: "a".into(),
            state,
            ts: String::new(),
        }
    }

    #[test]
    fn descriptions_and_back() {
        for format in [Format::Rows, Format::Sets] {
            assert_eq!(format_of(&described(&description(format))), Ok(format));
        }
        assert_eq!(format_of(&described("somebody's own words")), Ok(Format::Rows));
    }

    #[test]
    fn a_newer_format_is_waited_for() {
        let error = format_of(&described("harmonylite change sets, format 2")).unwrap_err();
        assert_eq!(error.kind(), Kind::Waiting);
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}
