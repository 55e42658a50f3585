//! The JetStream API: streams, their state, single messages.

use super::Error;
use super::connection::Connection;
use super::wire::Message;
use crate::base::limits;
use serde::Deserialize;
use serde_json::{Value, json};

/// Streams of one account.
#[derive(Clone)]
pub struct JetStream {
    connection: Connection,
}

/// A stream as the server describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamInfo {
    /// Its configuration, whole: also what this program does not know.
    pub config: Value,
    /// When it was created, RFC 3339: tells a recreated stream from the old one.
    pub created: String,
    /// What it holds.
    pub state: StreamState,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct StreamState {
    /// Number of messages.
    pub messages: u64,
    /// Sequence of the first message; of the next one when there is none. 0 in a new stream.
    pub first_seq: u64,
    /// Sequence of the last message ever; 0: none.
    pub last_seq: u64,
}

#[derive(Deserialize)]
struct ApiError {
    code: u16,
    #[serde(default)]
    err_code: u16,
    #[serde(default)]
    description: String,
}

/// A stored message as the API returns it.
#[derive(Deserialize)]
pub(super) struct Stored {
    pub seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Stored {
    pub fn headers(&self) -> super::wire::Headers {
        super::wire::Headers::parse(&data_encoding::BASE64.decode(self.hdrs.as_bytes()).unwrap_or_default())
    }

    pub fn data(&self) -> Result<Vec<u8>, Error> {
        data_encoding::BASE64
            .decode(self.data.as_bytes())
            .map_err(|e| Error::Permanent(format!("message data: {e}")))
    }
}

impl JetStream {
    /// JetStream over a connection.
    pub fn new(connection: Connection) -> JetStream {
        JetStream { connection }
    }

    /// The connection itself.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// One API request; an error in the answer becomes an [`Error`].
    pub fn api<T: serde::de::DeserializeOwned>(&self, operation: &str, body: &Value) -> Result<T, Error> {
        let subject = format!("$JS.API.{operation}");
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let answer = self.connection.request(&subject, &[], &body, limits::API_TIMEOUT)?;
        parse(&answer).map_err(|error| error.at(operation))
    }

    /// A stream's description; `None` when it does not exist.
    pub fn stream(&self, name: &str) -> Result<Option<StreamInfo>, Error> {
        match self.api(&format!("STREAM.INFO.{name}"), &Value::Null) {
            Ok(info) => Ok(Some(info)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a stream.
    pub fn create_stream(&self, config: &Value) -> Result<StreamInfo, Error> {
        let name = config["name"].as_str().unwrap_or_default();
        self.api(&format!("STREAM.CREATE.{name}"), config)
    }

    /// Returns the stream, created with `config` if it was missing, and whether it was.
    pub fn ensure_stream(&self, config: &Value) -> Result<(StreamInfo, bool), Error> {
        let name = config["name"].as_str().unwrap_or_default();
        if let Some(info) = self.stream(name)? {
            return Ok((info, false));
        }
        match self.create_stream(config) {
            Ok(info) => Ok((info, true)),
            // Another node was faster, perhaps with other limits.
            Err(error) => match self.stream(name)? {
                Some(info) => Ok((info, false)),
                None => Err(error),
            },
        }
    }

    /// Changes single settings of a stream, leaving all others as they are.
    pub fn change_stream(&self, info: &StreamInfo, changes: &[(&str, Value)]) -> Result<bool, Error> {
        let mut config = info.config.clone();
        let name = config["name"].as_str().unwrap_or_default().to_owned();
        let mut changed = false;
        for (key, value) in changes {
            if config[*key] != *value {
                config[*key] = value.clone();
                changed = true;
            }
        }
        if changed {
            let _: StreamInfo = self.api(&format!("STREAM.UPDATE.{name}"), &config)?;
        }
        Ok(changed)
    }

    /// The newest message of a subject.
    pub(super) fn last_message(&self, stream: &str, subject: &str) -> Result<Option<Stored>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            message: Stored,
        }
        match self.api::<Answer>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "last_by_subj": subject })) {
            Ok(answer) => Ok(Some(answer.message)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// When the server stored a message (RFC 3339); `None`: the stream does not hold it.
    pub fn message_time(&self, stream: &str, seq: u64) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            message: Time,
        }
        #[derive(Deserialize)]
        struct Time {
            time: String,
        }
        match self.api::<Answer>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": seq })) {
            Ok(answer) => Ok(Some(answer.message.time)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the messages of a subject.
    pub fn purge(&self, stream: &str, subject: &str) -> Result<(), Error> {
        self.api::<Value>(&format!("STREAM.PURGE.{stream}"), &json!({ "filter": subject })).map(drop)
    }

    /// Publishes with headers and waits for the stream's acknowledgement.
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<Ack, Error> {
        let answer = self.connection.request(subject, headers, payload, limits::API_TIMEOUT)?;
        ack(&answer)
    }
}

/// A stream's acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ack {
    /// The stream that took the message.
    #[serde(default)]
    pub stream: String,
    /// Its sequence there.
    #[serde(default)]
    pub seq: u64,
    /// The message's id was known: this is the earlier message's sequence.
    #[serde(default)]
    pub duplicate: bool,
}

/// Reads a publish acknowledgement: an error first, then a sequence above 0.
pub(super) fn ack(message: &Message) -> Result<Ack, Error> {
    if message.headers.status.is_some() {
        return Err(Error::Transient(format!(
            "no stream takes the subject (status {})",
            message.headers.status.unwrap_or_default()
        )));
    }
    let ack: Ack = parse(message)?;
    if ack.seq == 0 {
        return Err(Error::Transient("acknowledgement without a sequence".to_owned()));
    }
    Ok(ack)
}

/// Reads an API answer: its `error` first.
fn parse<T: serde::de::DeserializeOwned>(message: &Message) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<ApiError>,
    }
    let unreadable = |e: serde_json::Error| Error::Transient(format!("unreadable answer: {e}"));
    let failed: Failed = serde_json::from_slice(&message.payload).map_err(unreadable)?;
    match failed.error {
        Some(error) => Err(classify(&error)),
        None => serde_json::from_slice(&message.payload).map_err(unreadable),
    }
}

/// Error codes by what can be done about them.
fn classify(error: &ApiError) -> Error {
    let text = format!("{} ({}, {})", error.description, error.code, error.err_code);
    match (error.code, error.err_code) {
        (_, 10_071 | 10_164) => Error::Conflict(text),
        (_, 10_163) => Error::Transient(text),
        // JetStream is switched off: a configuration that somebody must change, but it may well be changed while we wait.
        (404, _) => Error::NotFound(text),
        (400, _) => Error::Permanent(text),
        _ => Error::Transient(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> Message {
        Message {
            sid: 1,
            subject: "x".into(),
            reply: None,
            headers: Default::default(),
            payload: payload.into(),
        }
    }

    #[test]
    fn a_rejected_publish_is_never_an_acknowledgement() {
        let good = ack(&message(r#"{"stream":"S","seq":5,"duplicate":true}"#)).unwrap();
        assert_eq!((good.seq, good.duplicate), (5, true));
        for (bad, transient) in [
            (
                r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"S","seq":0}"#,
                false,
            ),
            (r#"{"error":{"code":400,"err_code":65000,"description":"new"},"seq":7}"#, false),
            (r#"{"error":{"code":503,"err_code":10023}}"#, true),
            (r#"{"stream":"S","seq":0}"#, true),
            (r#"{"stream":"S"}"#, true),
            ("", true),
            ("[]", true),
        ] {
            let error = ack(&message(bad)).unwrap_err();
            assert_eq!(matches!(error, Error::Transient(_)), transient, "{bad}: {error:?}");
        }
        let mut nobody = message("");
        nobody.headers.status = Some(503);
        assert!(matches!(ack(&nobody), Err(Error::Transient(_))));
    }
}
