//! Who may use a file: a database that we put in the place of another one must serve the same people.

use crate::base::files;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// May write to a directory: members of its group.
const GROUP_WRITES: u32 = 0o020;
/// In a directory: files belong to those who made them (`/tmp`).
const STICKY: u32 = 0o1000;
/// What a group may do with a file.
const GROUP: u32 = 0o070;

/// Owner, group and permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    user: u32,
    group: u32,
    mode: u32,
}

impl Rights {
    /// Those of a file.
    pub fn of(path: &Path) -> io::Result<Rights> {
        let meta = std::fs::metadata(path)?;
        Ok(Rights { user: meta.uid(), group: meta.gid(), mode: meta.mode() & 0o777 })
    }

    /// Those of a database that is new at `path`: its directory tells whose it is. Whoever uses a database in WAL mode must
    /// be able to write to its directory, so the group gets the database only where it may do that.
    pub fn of_new(path: &Path) -> io::Result<Rights> {
        let meta = std::fs::metadata(files::parent(path))?;
        let shared = meta.mode() & GROUP_WRITES != 0 && meta.mode() & STICKY == 0;
        let mode = if shared { 0o660 } else { 0o600 };
        Ok(Rights { user: meta.uid(), group: meta.gid(), mode })
    }

    /// Gives them to a file that nobody uses yet. The owner can only be changed by root, and in a container or on a network
    /// mount not even by root. A group that cannot be given gets nothing, rather than another group its rights.
    pub fn give(self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let now = Rights { user: meta.uid(), group: meta.gid(), ..self };
        let mode = self.chown(now, |user, group| {
            fchown(&file, user, group).inspect_err(|error| {
                // For anybody else this is no news.
                if user.is_some() && rustix::process::geteuid().is_root() {
                    let (path, user) = (path.display(), now.user);
                    log::warn!(
                        "{path}: belongs to user {user}, and this process may not give it away: {error}"
                    );
                }
            })
        });
        file.set_permissions(Permissions::from_mode(mode))
    }

    /// Gives owner and group to a file that has those of `now`, as far as `chown` can; returns the mode that is then right.
    fn chown(self, now: Rights, chown: impl Fn(Option<u32>, Option<u32>) -> io::Result<()>) -> u32 {
        let given = (now.user, now.group) == (self.user, self.group)
            || chown(Some(self.user), Some(self.group)).is_ok()
            || now.group == self.group
            || chown(None, Some(self.group)).is_ok();
        if given { self.mode } else { self.mode & !GROUP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_gets_the_rights_of_another() {
        let scratch = Scratch::new("rights");
        let (old, new) = (scratch.path("old"), scratch.path("new"));
        std::fs::write(&old, b"x").unwrap();
        for mode in [0o600, 0o640, 0o664] {
            set_mode(&old, mode);
            std::fs::write(&new, b"y").unwrap();
            set_mode(&new, 0o600);
            Rights::of(&old).unwrap().give(&new).unwrap();
            assert_eq!(Rights::of(&new).unwrap(), Rights::of(&old).unwrap());
            assert_eq!(Rights::of(&new).unwrap().mode, mode);
        }
    }

    #[test]
    fn a_new_database_belongs_to_whom_its_directory_belongs() {
        let scratch = Scratch::new("rights-new");
        let path = scratch.path("app.db");
        let of_dir = std::fs::metadata(scratch.dir()).unwrap();
        for (dir, file) in [(0o700, 0o600), (0o755, 0o600), (0o770, 0o660), (0o2775, 0o660), (0o1777, 0o600)]
        {
            set_mode(scratch.dir(), dir);
            let expected = Rights { user: of_dir.uid(), group: of_dir.gid(), mode: file };
            assert_eq!(Rights::of_new(&path).unwrap(), expected, "{dir:o}");
        }
    }

    /// An application that runs as another user can use what root restored.
    #[test]
    fn root_gives_a_file_its_owner() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = Scratch::new("rights-root");
        let path = scratch.path("app.db");
        std::fs::write(&path, b"x").unwrap();
        std::os::unix::fs::chown(scratch.dir(), Some(1234), Some(2345)).unwrap();
        Rights::of_new(&path).unwrap().give(&path).unwrap();
        assert_eq!(Rights::of(&path).unwrap(), Rights { user: 1234, group: 2345, mode: 0o600 });
    }

    /// Root without the capability for it, or on a mount that takes root for nobody.
    #[test]
    fn an_owner_that_cannot_be_given_is_no_error() {
        let of = |user, group| Rights { user, group, mode: 0o664 };
        let refused = |_: Option<u32>, _: Option<u32>| Err(io::ErrorKind::PermissionDenied.into());
        let only_group =
            |user: Option<u32>, group| if user.is_some() { refused(user, group) } else { Ok(()) };
        assert_eq!(of(1, 2).chown(of(0, 0), refused), 0o604, "no other group gets them");
        assert_eq!(of(1, 2).chown(of(0, 2), refused), 0o664);
        assert_eq!(of(1, 2).chown(of(0, 0), only_group), 0o664);
        assert_eq!(of(1, 2).chown(of(0, 0), |_, _| Ok(())), 0o664);
        assert_eq!(of(1, 2).chown(of(1, 2), |_, _| panic!("nothing is to be given")), 0o664);
    }
}
