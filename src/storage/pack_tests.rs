//! Files packed and unpacked, whole and damaged, and what is refused.

use super::*;
use crate::base::scratch::Scratch;
use std::io::Read;

fn key(byte: u8) -> Key {
    Key([byte; 32])
}

fn terms(key: Option<&Key>) -> Terms<'_> {
    Terms { key, refuse_plain: false, bound: Bound::Room(u64::MAX) }
}

/// Unpacks what is written piece by piece.
fn unpack(packed: &[u8], piece: usize, key: Option<&Key>) -> Result<Vec<u8>, Error> {
    unpack_on(packed, piece, terms(key))
}

fn unpack_on(packed: &[u8], piece: usize, terms: Terms<'_>) -> Result<Vec<u8>, Error> {
    let mut plain = vec![];
    let mut unpack = Unpack::new(&mut plain, terms);
    packed.chunks(piece).for_each(|piece| unpack.write_all(piece).unwrap());
    unpack.finish().map(|()| plain)
}

#[test]
fn there_and_back() {
    let files = Scratch::new("pack-back");
    let (plain, packed) = (files.path("plain"), files.path("packed"));
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17] {
        let bytes: Vec<u8> = (0..size).map(|n| (n * n % 251) as u8).collect();
        std::fs::write(&plain, &bytes).unwrap();
        for (zstd, encrypt) in [(false, false), (true, false), (false, true), (true, true)] {
            let packing = Packing { zstd, key: encrypt.then(|| key(1)) };
            let _ = std::fs::remove_file(&packed);
            packing.pack(&plain, &packed).unwrap();
            let stored = std::fs::read(&packed).unwrap();
            assert_eq!(stored != bytes, zstd || encrypt);
            for piece in [1, 7, 4096, CHUNK + TAG, 1 << 20] {
                let result = unpack(&stored, piece, Some(&key(1))).unwrap();
                assert!(result == bytes, "{size} {} {piece}", packing.name());
            }
        }
    }
}

#[test]
fn no_key_another_key_and_damage() {
    let files = Scratch::new("pack-damage");
    let (plain, packed) = (files.path("plain"), files.path("packed"));
    std::fs::write(&plain, vec![7; 2 * CHUNK + 5]).unwrap();
    Packing { zstd: true, key: None }.pack(&plain, &packed).unwrap();
    let compressed = std::fs::read(&packed).unwrap();
    let cut = unpack(&compressed[..compressed.len() - 1], CHUNK, None);
    assert!(cut.unwrap_err().to_string().contains("cut off"));
    let two = [compressed.as_slice(), &compressed].concat();
    assert_eq!(unpack(&two, 11, None).unwrap().len(), 4 * CHUNK + 10, "frames may follow each other");
    let again = Packing { zstd: false, key: Some(key(1)) };
    let taken = again.pack(&plain, &packed).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "a file that is there is not written to");
    std::fs::remove_file(&packed).unwrap();
    again.pack(&plain, &packed).unwrap();
    let whole = std::fs::read(&packed).unwrap();
    assert!(unpack(&whole, CHUNK, None).unwrap_err().to_string().contains("has no key"));
    assert!(unpack(&whole, CHUNK, Some(&key(2))).unwrap_err().to_string().contains("another key"));
    let second = HEAD + CHUNK + TAG;
    // Cut off at and between chunks, a flipped bit, two chunks exchanged.
    let exchanged = [
        &whole[..HEAD],
        &whole[second..second + CHUNK + TAG],
        &whole[HEAD..second],
        &whole[second + CHUNK + TAG..],
    ];
    let mut flipped = whole.clone();
    flipped[second + 9] ^= 1;
    for damaged in [
        whole[..second].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        whole[..HEAD].to_vec(),
        whole[..HEAD - 1].to_vec(),
        flipped,
        exchanged.concat(),
    ] {
        assert!(matches!(unpack(&damaged, CHUNK, Some(&key(1))), Err(Error::Unreadable(_))));
    }
}

#[test]
fn what_is_not_packed_passes_however_short() {
    for bytes in [&b""[..], b"S", b"SQLite format 3\0", &MAGIC[..23], &ZSTD_MAGIC[..3]] {
        assert_eq!(unpack(bytes, 1, None).unwrap(), bytes);
    }
}

#[test]
fn a_disk_that_is_full_is_not_the_fault_of_the_content() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut unpack = Unpack::new(Full, terms(None));
    assert_eq!(unpack.write(&[7; HEAD]).unwrap_err().raw_os_error(), Some(28));
    let mut short = Unpack::new(Full, terms(None));
    short.write_all(b"short").unwrap();
    assert!(matches!(short.finish(), Err(Error::Local(_))));
}

#[test]
fn names_of_packings() {
    let name = |zstd, key| Packing { zstd, key }.name();
    assert_eq!(name(false, None), "");
    assert_eq!(name(true, None), "zstd");
    assert_eq!(name(false, Some(key(1))), "encrypted");
    assert_eq!(name(true, Some(key(1))), "zstd+encrypted");
    assert!(Packing::default().is_none() && !Packing { zstd: true, key: None }.is_none());
}

#[test]
fn key_files() {
    let files = Scratch::new("pack-keys");
    let path = files.path("key");
    std::fs::write(&path, "00".repeat(31) + "fF\n").unwrap();
    assert_eq!(Key::read(&path).unwrap().0[31], 255);
    for wrong in ["", "00", "zz"] {
        std::fs::write(&path, wrong).unwrap();
        assert!(Key::read(&path).is_err());
    }
    assert_eq!(format!("{:?}", key(1)), "(hidden)");
}

/// 64 MiB of zeros in two kilobytes or so.
fn bomb() -> Vec<u8> {
    zstd::encode_all(io::repeat(0).take(64 << 20), 19).unwrap()
}

#[test]
fn what_unpacks_to_more_than_was_announced_is_stopped_there() {
    let bomb = bomb();
    assert!(bomb.len() < 10_000);
    let bounded = |bound| {
        let mut written = vec![];
        let mut unpack = Unpack::new(&mut written, Terms { bound, ..terms(None) });
        unpack.write_all(&bomb).unwrap();
        let error = unpack.finish().unwrap_err();
        (written.len(), error)
    };
    let (written, error) = bounded(Bound::Announced(1 << 20));
    assert!(written <= 1 << 20 && matches!(error, Error::Unreadable(_)), "{written}: {error}");
    assert_eq!(error.to_string(), "it unpacks to more than the 1048576 bytes that its label announces");
    let (written, error) = bounded(Bound::Room(5 << 20));
    assert!(written <= 5 << 20 && matches!(error, Error::Local(_)), "{written}: {error}");
    assert!(error.to_string().contains("stays free for the application"), "{error}");
    // What is within the bound passes, to its last byte.
    let exact = Terms { bound: Bound::Announced(64 << 20), ..terms(None) };
    assert_eq!(unpack_on(&bomb, 100, exact).unwrap().len(), 64 << 20);
}

#[test]
fn what_wants_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(vec![], 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![7; 300_000]).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(matches!(unpack(&packed, CHUNK, None), Err(Error::Unreadable(_))));
}

#[test]
fn with_a_key_nothing_plain_is_unpacked_unless_it_is_accepted() {
    let refusing = Terms { refuse_plain: true, ..terms(None) };
    let one = key(1);
    let compressed = zstd::encode_all(&b"forged"[..], 3).unwrap();
    for plain in [&b""[..], b"SQLite format 3\0 forged", &compressed] {
        let error = unpack_on(plain, 7, Terms { key: Some(&one), ..refusing }).unwrap_err();
        assert!(matches!(error, Error::Unreadable(_)) && error.to_string().contains("snapshot.accept_plain"));
        assert!(unpack_on(plain, 7, terms(Some(&one))).is_ok());
    }
    let files = Scratch::new("pack-only-encrypted");
    std::fs::write(files.path("plain"), b"x").unwrap();
    Packing { zstd: true, key: Some(one.clone()) }.pack(&files.path("plain"), &files.path("packed")).unwrap();
    let packed = std::fs::read(files.path("packed")).unwrap();
    assert_eq!(unpack_on(&packed, 7, Terms { key: Some(&one), ..refusing }).unwrap(), b"x");
}

#[test]
fn mutants_of_packed_files_are_refused_or_hold_the_same() {
    let files = Scratch::new("pack-mutants");
    let content: Vec<u8> = (0..2_000_u32).flat_map(|n| (n * n % 251).to_le_bytes()).collect();
    std::fs::write(files.path("plain"), &content).unwrap();
    let packed = |zstd, key: Option<Key>, name: &str| {
        Packing { zstd, key }.pack(&files.path("plain"), &files.path(name)).unwrap();
        std::fs::read(files.path(name)).unwrap()
    };
    let compressed = packed(true, None, "zstd");
    let sealed: Vec<Vec<u8>> =
        [false, true].iter().map(|zstd| packed(*zstd, Some(key(1)), &format!("{zstd}"))).collect();
    let (one, bound) = (key(1), Bound::Announced(1 << 20));
    let strict = Terms { key: Some(&one), refuse_plain: true, bound };
    crate::base::mutants::each_seed("packed files", |mutator| {
        let piece = 1 + mutator.below(8_000);
        if let Ok(plain) = unpack_on(&mutator.mutant(&sealed), piece, strict) {
            assert!(plain == content, "another content was accepted");
        }
        // Without encryption the digest in the label decides; here only the bounds must hold.
        let loose = Terms { refuse_plain: false, ..strict };
        let mutant = mutator.mutant(std::slice::from_ref(&compressed));
        if let Ok(plain) = unpack_on(&mutant, piece, loose) {
            assert!(plain.len() <= 1 << 20);
        }
    });
}
