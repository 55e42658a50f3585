//! Mutants of what a server says, in pieces of any size.

use super::objects::ObjectInfo;
use super::shared::State;
use super::wire::{Headers, Op, Parser, ServerInfo};
use crate::base::mutants;

/// What a nats-server says in a greeting.
const INFO: &str = "INFO {\"server_id\":\"NA\",\"version\":\"2.10.7\",\"proto\":1,\"host\":\"127.0.0.1\",\"port\":4222,\
    \"headers\":true,\"max_payload\":1048576,\"jetstream\":true,\"client_id\":5,\"connect_urls\":[\"10.0.0.1:4222\",\
    \"[::1]:4223\"],\"tls_required\":false,\"tls_available\":true,\"nonce\":\"bm9uY2U\"}\r\n";

/// A message with headers or, if there are none, without.
fn message(subject: &str, headers: &str, payload: &str) -> String {
    let (block, total) = (headers.len(), headers.len() + payload.len());
    if headers.is_empty() {
        format!("MSG {subject} {total}\r\n{payload}\r\n")
    } else {
        format!("HMSG {subject} {block} {total}\r\n{headers}{payload}\r\n")
    }
}

/// Replies to requests.
fn replies() -> String {
    let ack = "{\"type\":\"io.nats.jetstream.api.v1.pub_ack_response\",\"stream\":\"S\",\"seq\":5}";
    let nobody = message("_INBOX.a.3 1", "NATS/1.0 503\r\n\r\n", "");
    format!("PONG\r\n{}{nobody}PING\r\n", message("_INBOX.a.2 1", "", ack))
}

/// What a consumer brings.
fn deliveries() -> String {
    let id = "NATS/1.0\r\nNats-Msg-Id: 7-00abcdef01234567-12\r\nA: b\r\n\r\n";
    let beat = "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 8\r\nNats-Last-Stream: 43\r\n\r\n";
    [
        message("s.1 2 $JS.ACK.S.C.1.42.7.1700000000000000000.5", id, "hello"),
        message("s.2 2 $JS.ACK._.H.S.C.1.43.8.1700000000000000000.4", "", "abc"),
        message("_INBOX.b 2", beat, ""),
        message("_INBOX.b 2", "NATS/1.0 404 No Messages\r\n\r\n", ""),
    ]
    .concat()
}

const ERRORS: &str =
    "+OK\r\n-ERR 'Permissions Violation for Publish to \"x\"'\r\n-ERR 'Stale Connection'\r\n";

/// Operations of bytes that come in pieces, and what ended them.
fn parsed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Op>, Option<String>) {
    let (mut parser, mut found) = (Parser::default(), vec![]);
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next() {
                Ok(Some(op)) => found.push(op),
                Ok(None) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    (found, None)
}

fn traffic() -> Vec<Vec<u8>> {
    let traffic = [
        format!("{INFO}{}", replies()),
        format!("{}{}", deliveries(), replies()),
        format!("{ERRORS}{}{INFO}", deliveries()),
    ];
    traffic.map(String::into_bytes).to_vec()
}

#[test]
fn the_traffic_is_what_a_server_says() {
    let counts: Vec<_> = traffic()
        .iter()
        .map(|bytes| parsed([&bytes[..]].into_iter()))
        .map(|(ops, why)| (ops.len(), why))
        .collect();
    assert_eq!(counts, [(5, None), (8, None), (8, None)]);
}

#[test]
fn mutants_of_nats_traffic_say_the_same_in_pieces_of_any_size() {
    let valid = traffic();
    mutants::each_seed("NATS traffic", |mutator| {
        let mutant = mutator.mutant(&valid);
        let (ops, why) = parsed([&mutant[..]].into_iter());
        let (mut pieces, mut rest) = (vec![], &mutant[..]);
        while !rest.is_empty() {
            let most = 1 << mutator.below(8);
            let (piece, more) = rest.split_at(1 + mutator.below(rest.len().min(most)));
            pieces.push(piece);
            rest = more;
        }
        assert_eq!(parsed(pieces.into_iter()), (ops.clone(), why));
        let mut state = State::default();
        for op in ops {
            if let Op::Info(json) = &op
                && let Ok(info) = ServerInfo::parse(json)
            {
                assert!((1..=crate::base::limits::MESSAGE_BYTES).contains(&info.max_payload));
            }
            // An error ends the connection.
            if state.handle(op).is_err() {
                break;
            }
            assert!(state.out.len() <= "PONG\r\n".len() && state.announced.len() <= 100);
        }
    });
}

#[test]
fn mutants_of_headers_have_names_and_values_in_one_line() {
    let valid = [
        b"NATS/1.0\r\nNats-Msg-Id: 7-00abcdef01234567-12\r\nNats-Pending-Messages: 7\r\n\r\n".to_vec(),
        b"NATS/1.0 409 Consumer Deleted\r\nNats-Last-Consumer: 18446744073709551615\r\nempty:\r\n\r\n"
            .to_vec(),
    ];
    mutants::each("headers", &valid, |mutant| {
        let headers = Headers::parse(mutant);
        for name in ["Nats-Msg-Id", "Nats-Last-Consumer", "Nats-Pending-Messages", "empty"] {
            let number = headers.number(name);
            let value = headers.get(name);
            assert!(number.is_none() || value.is_some());
            assert!(value.is_none_or(|value| !value.contains("\r\n") && value.trim() == value));
        }
        assert!(!headers.description.contains("\r\n"));
    });
}

#[test]
fn mutants_of_descriptions_of_objects_are_refused_or_read_the_same_again() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/object-store.2.bin");
    let valid = [
        std::fs::read(golden).unwrap(),
        br#"{"name":"snapshot.db","headers":{"A":["b"]},"options":{"max_chunk_size":131072},"bucket":"b","nuid":"N",
            "size":18446744073709551615,"mtime":"0001-01-01T00:00:00Z","chunks":3,"digest":"SHA-256=x","deleted":true}"#
            .to_vec(),
    ];
    assert!(valid.iter().all(|bytes| serde_json::from_slice::<ObjectInfo>(bytes).is_ok()));
    mutants::each("descriptions of objects", &valid, |mutant| {
        let Ok(info) = serde_json::from_slice::<ObjectInfo>(mutant) else { return };
        let mut again: ObjectInfo = serde_json::from_slice(&serde_json::to_vec(&info).unwrap()).unwrap();
        // Of others' options that are no integers, the last bit may differ.
        if info.options.to_string().contains(['.', 'e']) {
            again.options.clone_from(&info.options);
        }
        assert_eq!(again, info);
    });
}
