//! Whether a store does all that snapshots need of it, tried with a small file under names that snapshots may have.

use super::{Error, Label, Store, Upload, dated_name};
use crate::base::{digest::digest_of, limits};
use std::path::Path;

/// Times that no snapshot has: the first hours of the year 2000.
const NAMES_MS: [i64; 2] = [946_684_801_000, 946_688_401_000];

impl Store {
    /// Writes the file at `path`, looks at it, reads it, gives it a second name, lists, and removes both. Returns how many snapshots
    /// the store holds. Removes what it wrote, whatever fails.
    pub fn probe(&self, path: &Path) -> Result<usize, Error> {
        let names = NAMES_MS.map(dated_name);
        let tried = self.try_all(path, &names);
        let removed = names
            .iter()
            .try_for_each(|name| self.run("remove", |_| self.backend().remove(name)))
            .map_err(|error| error.at("remove"));
        let count = tried?;
        removed.map(|()| count)
    }

    fn try_all(&self, path: &Path, names: &[String; 2]) -> Result<usize, Error> {
        let local = |error: std::io::Error| Error::Local(format!("{}: {error}", path.display()));
        let content = std::fs::read(path).map_err(local)?;
        let (size, digest) = digest_of(&mut content.as_slice()).map_err(local)?;
        let label = Label { size, digest, time_ms: NAMES_MS[0], plain: size, ..Label::default() };
        self.run("prepare", |_| self.backend().prepare())?;
        self.run("write", |tries| {
            let upload =
                Upload { name: &names[0], label: &label, path, sent: &|_| {}, may_switch: &|| Ok(()), tries };
            self.backend().put(&upload)
        })
        .map_err(|error| error.at("write"))?;
        let stored = self.run("look", |_| self.backend().stat(&names[0]))?;
        let stored = stored.ok_or_else(|| Error::Damaged("what was written is not there".to_owned()))?;
        let mut read = vec![];
        self.run("read", |_| {
            read.clear();
            self.backend().get(&stored, &mut read)
        })
        .map_err(|error| error.at("read"))?;
        if read != content {
            return Err(Error::Damaged("what was read is not what was written".to_owned()));
        }
        self.run("copy", |tries| self.backend().copy(&stored, &names[1], tries))
            .map_err(|error| error.at("copy"))?;
        let all = self.run("list", |_| self.backend().list()).map_err(|error| error.at("list"))?;
        let ours = |name: &str| name == limits::SNAPSHOT_NAME || !names.iter().any(|known| known == name);
        Ok(all.iter().filter(|stored| ours(&stored.name)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::base::stop;
    use crate::storage::Location;

    #[test]
    fn a_directory_that_serves_and_one_that_does_not() {
        let scratch = Scratch::new("probe");
        let (file, dir) = (scratch.path("file"), scratch.path("store"));
        std::fs::write(&file, b"content").unwrap();
        let (_source, token) = stop::pair();
        let store = |dir: &Path| Location::File(dir.to_path_buf()).open(true, None, &token).unwrap();
        assert_eq!(store(&dir).probe(&file).unwrap(), 0);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing is left");
        std::fs::write(dir.join("snapshot.db"), b"another").unwrap();
        assert_eq!(store(&dir).probe(&file).unwrap(), 1);
        let nowhere = file.join("below-a-file");
        assert!(store(&nowhere).probe(&file).is_err());
    }
}
