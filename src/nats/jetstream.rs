//! The JetStream API: streams, their state, single messages.

use super::connection::Connection;
use super::error::Error;
use super::wire::{Headers, Message};
use crate::base::limits;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The streams of the account that the connection is logged in to.
#[derive(Clone)]
pub struct JetStream {
    connection: Connection,
}

/// A stream as the server describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamInfo {
    /// The whole configuration: also settings that this program does not know.
    pub config: Value,
    /// When it was created, RFC 3339: tells a stream that was deleted and created anew from the old one.
    pub created: String,
    pub state: StreamState,
    /// The server's time when it answered, RFC 3339; empty from a server before 2.10.
    #[serde(default)]
    pub ts: String,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamState {
    pub messages: u64,
    /// As the server counts them, with subjects and headers.
    #[serde(default)]
    pub bytes: u64,
    /// Sequence of the first message. When the stream is empty: the next message's; 0 in a new stream.
    pub first_seq: u64,
    /// Sequence of the last message that the stream ever took; 0: none yet.
    pub last_seq: u64,
}

#[derive(Deserialize)]
struct ApiError {
    /// As in HTTP.
    code: u16,
    /// What exactly went wrong: a number of nats-server's `server/errors.json`.
    #[serde(default)]
    err_code: u16,
    #[serde(default)]
    description: String,
}

/// A stored message as the API returns it.
#[derive(Deserialize)]
pub(super) struct Stored {
    pub seq: u64,
    /// Base64 of the header block.
    #[serde(default)]
    hdrs: String,
    /// Base64 of the payload.
    #[serde(default)]
    data: String,
    /// When the server stored it, RFC 3339.
    #[serde(default)]
    time: String,
}

impl Stored {
    /// Its headers; none when they cannot be read.
    pub fn headers(&self) -> Headers {
        Headers::parse(&data_encoding::BASE64.decode(self.hdrs.as_bytes()).unwrap_or_default())
    }

    pub fn data(&self) -> Result<Vec<u8>, Error> {
        data_encoding::BASE64
            .decode(self.data.as_bytes())
            .map_err(|error| Error::Permanent(format!("message data: {error}")))
    }
}

impl JetStream {
    /// The API as the connection's account sees it.
    pub fn new(connection: Connection) -> JetStream {
        JetStream { connection }
    }

    /// For what goes past the API: subscriptions, pipelines.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// One API request; an error in the answer becomes an [`Error`].
    pub fn api<T: serde::de::DeserializeOwned>(&self, operation: &str, body: &Value) -> Result<T, Error> {
        self.api_within(operation, body, limits::API_TIMEOUT)
    }

    fn api_within<T: serde::de::DeserializeOwned>(
        &self,
        operation: &str,
        body: &Value,
        timeout: Duration,
    ) -> Result<T, Error> {
        let subject = format!("$JS.API.{operation}");
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let answer = self.connection.request(&subject, &[], &body, timeout)?;
        parse(&answer).map_err(|error| error.at(operation))
    }

    /// A stream's description; `None` when it does not exist.
    pub fn stream(&self, name: &str) -> Result<Option<StreamInfo>, Error> {
        self.stream_within(name, limits::API_TIMEOUT)
    }

    /// The same for who has little time.
    pub fn stream_within(&self, name: &str, timeout: Duration) -> Result<Option<StreamInfo>, Error> {
        if_found(self.api_within(&format!("STREAM.INFO.{name}"), &Value::Null, timeout))
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
            // Another node created it meanwhile, perhaps with other limits: then creating it is an error.
            Err(error) => match self.stream(name)? {
                Some(info) => Ok((info, false)),
                None => Err(error),
            },
        }
    }

    /// Changes single settings of a stream, leaving all others as they are. Returns whether any was another before.
    pub fn change_stream(&self, info: &StreamInfo, changes: &[(&str, Value)]) -> Result<bool, Error> {
        let Some(config) = changed(&info.config, changes) else { return Ok(false) };
        let name = config["name"].as_str().unwrap_or_default();
        self.api::<StreamInfo>(&format!("STREAM.UPDATE.{name}"), &config).map(|_| true)
    }

    /// The newest message of a subject; `None`: there is none.
    pub(super) fn last_message(&self, stream: &str, subject: &str) -> Result<Option<Stored>, Error> {
        self.message(stream, &json!({ "last_by_subj": subject }))
    }

    /// When the server stored a message (RFC 3339); `None`: the stream does not hold it.
    pub fn message_time(&self, stream: &str, seq: u64) -> Result<Option<String>, Error> {
        Ok(self.message(stream, &json!({ "seq": seq }))?.map(|stored| stored.time))
    }

    /// The body of a message; `None`: the stream does not hold it.
    pub fn message_of(&self, stream: &str, seq: u64) -> Result<Option<Vec<u8>>, Error> {
        self.message(stream, &json!({ "seq": seq }))?.map(|stored| stored.data()).transpose()
    }

    fn message(&self, stream: &str, which: &Value) -> Result<Option<Stored>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            message: Stored,
        }
        let answer: Option<Answer> = if_found(self.api(&format!("STREAM.MSG.GET.{stream}"), which))?;
        Ok(answer.map(|answer| answer.message))
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

/// A stream's acknowledgement of a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ack {
    /// The message's sequence in the stream.
    #[serde(default)]
    pub seq: u64,
    /// The stream had a message with this id already, and `seq` is that one's.
    #[serde(default)]
    pub duplicate: bool,
}

/// A stream's configuration with single settings changed; `None` when all are so already.
fn changed(config: &Value, changes: &[(&str, Value)]) -> Option<Value> {
    let mut wanted = config.clone();
    for (key, value) in changes {
        // The server leaves out what is empty.
        if *value != wanted[*key] && !(wanted[*key].is_null() && *value == "") {
            wanted[*key] = value.clone();
        }
    }
    (wanted != *config).then_some(wanted)
}

/// What is missing is `None`.
fn if_found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a publish acknowledgement: an error first, then a sequence above 0. Anything else is no acknowledgement.
pub(super) fn ack(message: &Message) -> Result<Ack, Error> {
    if let Some(status) = message.headers.status {
        return Err(Error::Transient(format!("no stream takes the subject (status {status})")));
    }
    let ack: Ack = parse_with(message, classify_refusal)?;
    if ack.seq == 0 {
        return Err(Error::Transient("acknowledgement without a sequence".to_owned()));
    }
    Ok(ack)
}

/// Whether a message is the acknowledgement of one that was stored.
pub(super) fn is_stored(message: &Message) -> bool {
    ack(message).is_ok()
}

/// Reads an API answer: its `error` first.
fn parse<T: serde::de::DeserializeOwned>(message: &Message) -> Result<T, Error> {
    parse_with(message, classify)
}

fn parse_with<T: serde::de::DeserializeOwned>(
    message: &Message,
    classify: fn(&ApiError) -> Error,
) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<ApiError>,
    }
    let unreadable = |error: serde_json::Error| Error::Transient(format!("unreadable answer: {error}"));
    let failed: Failed = serde_json::from_slice(&message.payload).map_err(unreadable)?;
    match failed.error {
        Some(error) => Err(classify(&error)),
        None => serde_json::from_slice(&message.payload).map_err(unreadable),
    }
}

// Numbers of nats-server's `server/errors.json` that mean something else than their HTTP code does, with their names there.
/// `JSAccountResourcesExceededErr`
const ACCOUNT_IS_FULL: u16 = 10_002;
/// `JSInsufficientResourcesErr`
const INSUFFICIENT_RESOURCES: u16 = 10_023;
/// `JSStorageResourcesExceededErr`
const NO_STORAGE: u16 = 10_047;
/// `JSStreamStoreFailedF`: the stream's bounds are reached and it discards what is new, or the disk fails.
const NOT_STORED: u16 = 10_077;
/// `JSStreamSubjectOverlapErr`
const SUBJECTS_OVERLAP: u16 = 10_065;
/// `JSStreamWrongLastSequenceErrF`
const WRONG_LAST_SEQUENCE: u16 = 10_071;
/// `JSStreamExpectedLastSeqPerSubjectNotReady`
const LAST_SEQUENCE_NOT_READY: u16 = 10_163;
/// `JSStreamWrongLastSequenceConstantErr`
const WRONG_LAST_SEQUENCE_CONSTANT: u16 = 10_164;

/// What the caller can do about an error of the API.
fn classify(error: &ApiError) -> Error {
    let text = format!("{} ({}, {})", error.description, error.code, error.err_code);
    match (error.code, error.err_code) {
        (_, WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_CONSTANT) => Error::Conflict(text),
        (_, SUBJECTS_OVERLAP) => Error::Overlap(text),
        (_, NO_STORAGE | ACCOUNT_IS_FULL) => Error::NoRoom(text),
        (_, LAST_SEQUENCE_NOT_READY) => Error::Transient(text),
        (404, _) => Error::NotFound(text),
        (400, _) => Error::Permanent(text),
        // Among them 503, JetStream is switched off: somebody may well change that while we wait.
        _ => Error::Transient(text),
    }
}

/// The same for a message that a stream does not take.
fn classify_refusal(error: &ApiError) -> Error {
    match (classify(error), error.err_code) {
        (Error::Transient(why), INSUFFICIENT_RESOURCES | NOT_STORED) => Error::NoRoom(why),
        (other, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::queued::Queued;

    fn message(payload: &str) -> Message {
        Message {
            sid: 1,
            subject: "x".into(),
            reply: None,
            headers: Headers::default(),
            payload: payload.into(),
            queued: Queued::default(),
        }
    }

    fn failed(code: u16, err_code: u16) -> Error {
        classify(&ApiError { code, err_code, description: "why".into() })
    }

    #[test]
    fn acknowledgements() {
        let good = ack(&message(r#"{"stream":"S","seq":5,"duplicate":true}"#)).unwrap();
        assert_eq!((good.seq, good.duplicate), (5, true));
        assert_eq!(ack(&message(r#"{"seq":1}"#)), Ok(Ack { seq: 1, duplicate: false }));
    }

    #[test]
    fn mutants_of_answers_are_errors_or_can_be_used() {
        let valid = [
            r#"{"type":"pub_ack","stream":"S","seq":5,"duplicate":true,"domain":"d"}"#,
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"seq":7}"#,
            r#"{"type":"stream_info","config":{"name":"S","max_msgs":-1},"created":"2024-07-01T12:00:00.1Z",
                "state":{"messages":3,"first_seq":1,"last_seq":18446744073709551615,"subjects":{"a":1}}}"#,
            r#"{"message":{"subject":"s","seq":3,"hdrs":"TkFUUy8xLjANCkE6IGINCg0K","data":"aGk=",
                "time":"2024-07-01T12:00:00.123456789Z"}}"#,
        ];
        let valid = valid.map(|text| text.as_bytes().to_vec());
        crate::base::mutants::each("answers of JetStream", &valid, |mutant| {
            let answer = Message { payload: mutant.to_vec(), ..message("") };
            assert!(ack(&answer).is_ok_and(|ack| ack.seq > 0) || ack(&answer).is_err());
            if let Ok(info) = parse::<StreamInfo>(&answer) {
                let wanted = changed(&json!({}), &[("config", info.config.clone())]);
                assert_eq!(wanted.unwrap_or_default()["config"], info.config);
            }
            if let Ok(answer) = parse::<Value>(&answer)
                && let Ok(stored) = serde_json::from_value::<Stored>(answer["message"].clone())
            {
                let (_, _) = (stored.headers(), stored.data());
                let _ = crate::base::clock::parse(&stored.time);
            }
        });
    }

    #[test]
    fn a_rejected_publish_is_never_an_acknowledgement() {
        for (bad, transient) in [
            (
                r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"S","seq":0}"#,
                false,
            ),
            (r#"{"error":{"code":400,"err_code":65000,"description":"new"},"seq":7}"#, false),
            (r#"{"error":{"code":503,"err_code":10008}}"#, true),
            (r#"{"stream":"S","seq":0}"#, true),
            (r#"{"stream":"S"}"#, true),
            ("", true),
            ("[]", true),
        ] {
            let error = ack(&message(bad)).unwrap_err();
            assert_eq!(matches!(error, Error::Transient(_)), transient, "{bad}: {error:?}");
        }
        for full in [
            "400,\"err_code\":10002",
            "503,\"err_code\":10023",
            "500,\"err_code\":10047",
            "503,\"err_code\":10077",
        ] {
            let error = ack(&message(&format!("{{\"error\":{{\"code\":{full}}}}}"))).unwrap_err();
            assert!(matches!(error, Error::NoRoom(_)), "{full}: {error:?}");
        }
        let mut nobody = message("");
        nobody.headers.status = Some(503);
        assert_eq!(ack(&nobody), Err(Error::Transient("no stream takes the subject (status 503)".into())));
    }

    #[test]
    fn errors_by_what_can_be_done_about_them() {
        let text = |code, err_code| format!("why ({code}, {err_code})");
        assert_eq!(failed(400, 10_071), Error::Conflict(text(400, 10_071)));
        assert_eq!(failed(400, 10_164), Error::Conflict(text(400, 10_164)));
        assert_eq!(failed(400, 10_065), Error::Overlap(text(400, 10_065)));
        assert_eq!(failed(400, 10_163), Error::Transient(text(400, 10_163)));
        assert_eq!(failed(404, 10_059), Error::NotFound(text(404, 10_059)));
        assert_eq!(failed(400, 10_003), Error::Permanent(text(400, 10_003)));
        assert_eq!(failed(503, 10_076), Error::Transient(text(503, 10_076)));
        assert_eq!(failed(500, 0), Error::Transient(text(500, 0)));
    }

    #[test]
    fn only_what_is_missing_is_none() {
        assert_eq!(if_found(Ok(1)), Ok(Some(1)));
        assert_eq!(if_found::<u8>(Err(Error::NotFound("x".into()))), Ok(None));
        let other = Error::Permanent("x".into());
        assert_eq!(if_found::<u8>(Err(other.clone())), Err(other));
    }

    #[test]
    fn settings_change_alone_and_only_when_they_differ() {
        let config = json!({ "name": "S", "max_msgs": 5, "unknown": [1] });
        assert_eq!(changed(&config, &[("max_msgs", json!(5)), ("description", json!(""))]), None);
        let wanted = changed(&config, &[("max_msgs", json!(5)), ("num_replicas", json!(3))]).unwrap();
        assert_eq!(wanted, json!({ "name": "S", "max_msgs": 5, "unknown": [1], "num_replicas": 3 }));
    }

    #[test]
    fn stored_messages() {
        let stored: Stored =
            serde_json::from_str(r#"{"seq":3,"hdrs":"TkFUUy8xLjANCkE6IGINCg0K","data":"aGk="}"#).unwrap();
        assert_eq!((stored.headers().get("A"), stored.data()), (Some("b"), Ok(b"hi".to_vec())));
        let odd: Stored = serde_json::from_str(r#"{"seq":3,"hdrs":"?","data":"?"}"#).unwrap();
        assert_eq!(odd.headers(), Headers::default());
        assert!(matches!(odd.data(), Err(Error::Permanent(_))));
    }
}
