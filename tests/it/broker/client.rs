//! Our NATS client against both servers, with the crate `nats` as the independent peer.

use crate::support::*;
use crossbeam_channel::bounded;
use harmonylite::testing::Secret;
use harmonylite::testing::nats::{Auth, Consumer, Error, JetStream, Kv, Objects, Pipeline, Pull, Step};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

fn connect(nats: &Nats) -> JetStream {
    let connection = connect_with(&nats.url(), Auth::default());
    connection.wait_up(Duration::from_secs(5)).unwrap();
    JetStream::new(connection)
}

fn stream(js: &JetStream) {
    js.create_stream(&json!({"name": "S", "subjects": ["s"], "storage": "file", "num_replicas": 1})).unwrap();
}

/// Publishes `count` numbered messages while `disturb` runs, until all are acknowledged.
fn publish_all(js: &JetStream, count: u64, disturb: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(disturb);
        let mut pipeline: Pipeline<u64> = Pipeline::new(js.connection(), 256);
        let mut acked = 0;
        let mut next = 0;
        let until = Instant::now() + Duration::from_secs(60);
        while acked < count {
            assert!(Instant::now() < until, "{acked} of {count} acknowledged");
            while next < count && pipeline.has_room() {
                let id = format!("m{next}");
                pipeline
                    .send("s", &[("Nats-Msg-Id", id.as_str())], next.to_string().as_bytes(), next)
                    .unwrap();
                next += 1;
            }
            if let Ok(message) = pipeline.acks().recv_timeout(Duration::from_millis(50))
                && let Some(done) = pipeline.on_ack(&message)
            {
                done.result.unwrap();
                acked += 1;
            }
            assert!(pipeline.tick(Instant::now()).is_empty());
        }
    });
}

/// Reads `count` messages with our consumer, which is built anew whenever it is of no use any more.
fn consume_all(js: &JetStream, count: usize) -> Vec<String> {
    let mut bodies = vec![];
    let mut seq = 0;
    let until = Instant::now() + Duration::from_secs(60);
    while bodies.len() < count {
        assert!(Instant::now() < until, "{} of {count} messages", bodies.len());
        let (sender, receiver) = bounded(256);
        let pull = Pull { stream: "S", filter: None, start: seq + 1, batch: 100 };
        let Ok(mut consumer) = Consumer::open(js, &pull, sender) else {
            pause(50);
            continue;
        };
        while bodies.len() < count && consumer.trouble(Instant::now()).is_none() {
            let Ok(message) = receiver.recv_timeout(Duration::from_millis(100)) else { continue };
            match consumer.on_message(message, Instant::now()) {
                Step::Item(item) => {
                    assert_eq!(item.seq, seq + 1);
                    seq = item.seq;
                    bodies.push(String::from_utf8(item.message.payload).unwrap());
                }
                Step::Nothing => {}
                Step::Rebuild(_) => break,
            }
        }
    }
    bodies
}

#[test]
fn thousands_of_messages_over_kills_of_the_server_none_lost_or_doubled_or_out_of_order() {
    for binary in nats_binaries() {
        let dir = Dir::new("pipeline");
        let mut nats = Nats::with(&dir, &binary, "");
        let js = connect(&nats);
        stream(&js);
        publish_all(&js, 20_000, || {
            for _ in 0..3 {
                pause(120);
                nats.restart();
            }
        });
        let expected: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        assert_eq!(consume_all(&js, 20_000), expected);
        // The independent client sees the same.
        let client = nats.client();
        assert_eq!(client.stream_info("S").unwrap().state.messages, 20_000);
        assert_eq!(client.get_message("S", 20_000).unwrap().data, b"19999");
    }
}

#[test]
fn a_deleted_consumer_is_noticed() {
    let dir = Dir::new("deleted");
    let nats = Nats::start(&dir);
    let js = connect(&nats);
    stream(&js);
    let (sender, receiver) = bounded(256);
    let pull = Pull { stream: "S", filter: None, start: 1, batch: 100 };
    let mut consumer = Consumer::open(&js, &pull, sender).unwrap();
    let client = nats.client();
    let names: Vec<_> = client.list_consumers("S").unwrap().map(|info| info.unwrap().name).collect();
    assert_eq!(names.len(), 1);
    client.delete_consumer("S", &names[0]).unwrap();
    let verdict =
        wait_for("the reader is told", 40, || match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(message) => match consumer.on_message(message, Instant::now()) {
                Step::Rebuild(why) => Some(why),
                _ => None,
            },
            Err(_) => consumer.trouble(Instant::now()),
        });
    println!("noticed: {verdict}");
}

#[test]
fn a_lease_is_won_by_one() {
    for binary in nats_binaries() {
        let dir = Dir::new("kv");
        let nats = Nats::with(&dir, &binary, "");
        let kvs: Vec<Kv> = (0..6).map(|_| Kv::open(&connect(&nats), "bucket", 1).unwrap()).collect();
        for round in 0..20 {
            let key = format!("key-{round}");
            let winners: usize = std::thread::scope(|scope| {
                let tries: Vec<_> = kvs
                    .iter()
                    .enumerate()
                    .map(|(me, kv)| {
                        scope.spawn({
                            let key = &key;
                            move || kv.update(key, me.to_string().as_bytes(), 0)
                        })
                    })
                    .collect();
                tries
                    .into_iter()
                    .map(|t| match t.join().unwrap() {
                        Ok(_) => 1,
                        Err(Error::Conflict(_)) => 0,
                        Err(other) => panic!("{other}"),
                    })
                    .sum()
            });
            assert_eq!(winners, 1);
        }
        let entry = kvs[0].get("key-0").unwrap().unwrap();
        let next = kvs[1].update("key-0", b"next", entry.revision).unwrap();
        assert!(matches!(kvs[2].update("key-0", b"late", entry.revision), Err(Error::Conflict(_))));
        assert_eq!(kvs[3].get("key-0").unwrap().unwrap().value.unwrap(), b"next");
        // The independent client reads it, deletes it, and we see that.
        let peer = nats.client().key_value("bucket").unwrap();
        assert_eq!(peer.get("key-0").unwrap().unwrap(), b"next");
        peer.delete("key-0").unwrap();
        assert_eq!(kvs[0].get("key-0").unwrap().unwrap().value, None);
        assert!(next > entry.revision && kvs[0].get("never").unwrap().is_none());
        kvs[0].delete("key-1", kvs[0].get("key-1").unwrap().unwrap().revision).unwrap();
        assert_eq!(peer.get("key-1").unwrap(), None);
    }
}

/// Heartbeats go on for ever when a chunk is not there: the reader must not wait for it.
#[test]
fn an_object_that_lacks_a_chunk_ends_with_an_error() {
    let dir = Dir::new("object-lacks");
    let nats = Nats::start(&dir);
    let objects = Objects::new(&connect(&nats), "box", 1);
    let mut info = objects.put("x", BTreeMap::new(), &mut &vec![7; 300_000][..], &mut || Ok(())).unwrap();
    info.chunks += 1;
    let begun = Instant::now();
    let error = objects.get(&info, &mut std::io::sink()).unwrap_err();
    assert!(
        matches!(error, Error::Transient(_)) && error.to_string().contains("chunks are missing: 1"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// One damaged description keeps nobody from the other objects, nor from replacing or deleting the one that it stands for.
#[test]
fn an_object_with_a_damaged_description_harms_no_other() {
    let dir = Dir::new("object-damaged");
    let nats = Nats::start(&dir);
    let js = connect(&nats);
    let objects = Objects::new(&js, "box", 1);
    let put = |name: &str, body: &[u8]| {
        objects.put(name, BTreeMap::new(), &mut &body[..], &mut || Ok(())).unwrap();
    };
    put("x", b"old");
    put("y", b"other");
    // The subjects of x and y.
    let damage =
        |token: &str| js.publish(&format!("$O.box.M.{token}"), &[("Nats-Rollup", "sub")], b"{").unwrap();
    damage("eA==");
    assert!(objects.info("x").unwrap().unwrap().is_unreadable);
    assert_eq!(objects.list().unwrap().len(), 2);
    assert_eq!(objects.sweep().unwrap(), 0, "its chunks may be those that nobody seems to have");
    put("x", b"new");
    let mut body = vec![];
    objects.get(&objects.info("x").unwrap().unwrap(), &mut body).unwrap();
    assert_eq!(body, b"new");
    assert_eq!(objects.sweep().unwrap(), 1, "the chunks of the old x");
    damage("eQ==");
    objects.delete("y").unwrap();
    assert_eq!(objects.info("y").unwrap(), None);
    assert_eq!((objects.list().unwrap().len(), objects.sweep().unwrap()), (1, 1));
}

#[test]
fn objects_go_both_ways() {
    for binary in nats_binaries() {
        let dir = Dir::new("objects");
        let nats = Nats::with(&dir, &binary, "");
        let js = connect(&nats);
        let objects = Objects::new(&js, "box", 1);
        assert_eq!(objects.info("x").unwrap(), None);
        for size in [0usize, 1, 131_072, 1_000_003] {
            let body: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
            let info = objects.put("x", BTreeMap::new(), &mut body.as_slice(), &mut || Ok(())).unwrap();
            assert_eq!((info.size, info.chunks), (size as u64, size.div_ceil(131_072) as u64));
            let mut back = vec![];
            objects.get(&objects.info("x").unwrap().unwrap(), &mut back).unwrap();
            assert!(back == body);
            if size > 0 {
                let mut theirs = vec![];
                nats.client()
                    .object_store("box")
                    .unwrap()
                    .get("x")
                    .unwrap()
                    .read_to_end(&mut theirs)
                    .unwrap();
                assert!(theirs == body, "the independent client reads other bytes");
            }
        }
        // An upload that may not switch leaves the old object in place, and no chunks of its own.
        let refused =
            objects.put("x", BTreeMap::new(), &mut &b"new"[..], &mut || Err(Error::Conflict("no".into())));
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
        assert_eq!(objects.info("x").unwrap().unwrap().size, 1_000_003);
        assert_eq!(nats.client().stream_info("OBJ_box").unwrap().state.messages, 9);
        // What the independent client stores, we read.
        nats.client().object_store("box").unwrap().put("y", &mut &b"theirs"[..]).unwrap();
        let mut back = vec![];
        objects.get(&objects.info("y").unwrap().unwrap(), &mut back).unwrap();
        assert_eq!(back, b"theirs");
    }
}

#[test]
fn logins() {
    let dir = Dir::new("logins");
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let seed_file = dir.0.join("seed");
    std::fs::write(&seed_file, seed).unwrap();
    let password = Auth { user: "u".into(), password: Secret::new("p"), ..Auth::default() };
    let token = Auth { token: Secret::new("t0k"), ..Auth::default() };
    let nkey = Auth { seed_file: Some(seed_file), ..Auth::default() };
    for (extra, auth) in [
        ("authorization { user: u, password: p }".to_owned(), password),
        ("authorization { token: t0k }".to_owned(), token),
        (format!("authorization {{ users: [{{ nkey: {public} }}] }}"), nkey),
    ] {
        let nats = Nats::with(&dir, &nats_binaries()[0], &extra);
        connect_with(&nats.url(), auth).wait_up(Duration::from_secs(5)).unwrap();
        let refused = connect_with(&nats.url(), Auth::default());
        let error = refused.wait_up(Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("Authorization Violation"), "{error}");
    }
}

#[test]
fn tls() {
    let dir = Dir::new("tls");
    let certificate = Authority::new(&dir).certificate("server", "IP:127.0.0.1");
    for verify in [false, true] {
        let extra = certificate.tls_block(verify);
        let mut nats = Nats::with(&dir, &nats_binaries()[0], &extra);
        let mut auth = Auth { ca_file: Some(certificate.ca.clone()), ..Auth::default() };
        if verify {
            auth.cert_file = Some(certificate.cert.clone());
            auth.key_file = Some(certificate.key.clone());
        }
        let connection = connect_with(&nats.url().replace("nats://", "tls://"), auth);
        connection.wait_up(Duration::from_secs(5)).unwrap();
        let js = JetStream::new(connection);
        stream(&js);
        publish_all(&js, 5_000, || {
            pause(60);
            nats.restart();
        });
        assert_eq!(consume_all(&js, 5_000).len(), 5_000);
        let stranger = connect_with(&nats.url(), Auth::default());
        let error = stranger.wait_up(Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("TLS"), "an unknown authority is refused: {error}");
        nats.kill();
        nats.wipe();
    }
}
