//! The sequence map: the file that shows the checkpoint to the outside, a CBOR map from stream name to sequence, as the
//! Go program writes it (formats, section "Sequence map"). The truth is in the database.

use crate::base::files;
use std::collections::BTreeMap;
use std::path::Path;

/// Stream name to the highest sequence applied.
pub type SeqMap = BTreeMap<String, u64>;

/// Where a database stands in one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Highest sequence applied.
    pub seq: u64,
    /// Creation time of the stream that `seq` counts in; empty when unknown (taken over from a sequence map).
    pub created: String,
}

/// What was found where the file should be.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Possibly an empty one.
    Map(SeqMap),
    /// There is no file.
    Missing,
    /// A file that is torn, garbage or unreadable, and why.
    Damaged(String),
}

/// Reads the file. Only the first CBOR item counts: the Go program never shortens its file, so the rest of a longer map may
/// follow it.
pub fn read(path: &Path) -> Found {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Found::Missing,
        Err(error) => Found::Damaged(error.to_string()),
        Ok(bytes) => decode(&bytes),
    }
}

fn decode(bytes: &[u8]) -> Found {
    if bytes.is_empty() {
        return Found::Map(SeqMap::new());
    }
    match ciborium::from_reader(bytes) {
        Ok(map) => Found::Map(map),
        Err(error) => Found::Damaged(error.to_string()),
    }
}

/// Writes the file whole: temporary name, sync, rename.
pub fn write(path: &Path, map: &SeqMap) -> std::io::Result<()> {
    files::write_atomically(path, &encode(map)?)
}

fn encode(map: &SeqMap) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(map, &mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("harmonylite-seqmap-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_was_written_is_read() {
        let path = scratch("written");
        assert_eq!(read(&path), Found::Missing);
        let map = SeqMap::from([("harmonylite-changes-c-1".to_owned(), 300)]);
        write(&path, &map).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..3], [0xa1, 0x77, b'h']);
        assert_eq!(bytes[bytes.len() - 3..], [0x19, 0x01, 0x2c]);
        assert_eq!(read(&path), Found::Map(map.clone()));
        std::fs::write(&path, [bytes.as_slice(), b"rest of an older, longer file"].concat()).unwrap();
        assert_eq!(read(&path), Found::Map(map));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn mutants_of_sequence_maps_are_damaged_or_maps_that_are_read_the_same_again() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
        let read_golden = |name: &str| std::fs::read(golden.join(name)).unwrap();
        let ours = SeqMap::from([("s-1".to_owned(), u64::MAX), ("s-2".to_owned(), 0), (String::new(), 24)]);
        let valid =
            [read_golden("seq-map.cbor"), read_golden("seq-map-4-shards.cbor"), encode(&ours).unwrap()];
        assert!(valid.iter().all(|bytes| matches!(decode(bytes), Found::Map(map) if !map.is_empty())));
        let deep = [[0x81; 100_000], [0xc1; 100_000], [0xbb; 100_000]];
        assert!(deep.iter().all(|bytes| matches!(decode(bytes), Found::Damaged(_))));
        crate::base::mutants::each("sequence maps", &valid, |mutant| match decode(mutant) {
            Found::Map(map) => assert_eq!(decode(&encode(&map).unwrap()), Found::Map(map)),
            Found::Damaged(_) => {}
            Found::Missing => panic!("bytes are not missing"),
        });
    }

    #[test]
    fn garbage_is_damaged_and_nothing_is_an_empty_map() {
        let path = scratch("garbage");
        write(&path, &SeqMap::from([("s".to_owned(), u64::MAX)])).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for bad in [&bytes[..bytes.len() - 4], b"garbage"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(read(&path), Found::Damaged(_)));
        }
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&path), Found::Map(SeqMap::new()));
        std::fs::remove_file(&path).unwrap();
    }
}
