//! The socket at which a running daemon tells its status: a Unix socket beside the sequence map, for the daemon's own user
//! alone. Whoever connects gets one JSON document.

use super::{Looker, View, status};
use crate::base::{error::Error, files, limits, stop::Stop, worker::Workers};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a socket's path that the kernel takes.
const PATH_MAX: usize = 107;
/// Longest wait for somebody who connects. A stop does not end it: whoever stops the daemon connects ([`wake`]).
const LOOK: Duration = Duration::from_secs(10);
/// Pause when nobody can be let in: no file descriptors, say.
const UNFIT: Duration = Duration::from_millis(250);
/// Somebody who connects has this long to take the answer.
const TAKE: Duration = Duration::from_secs(1);
/// How long a daemon may take to answer, the others' answers included.
const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of the longest answer: what hundreds of nodes tell.
const ANSWER_BYTES: u64 = 4 << 20;

/// Starts the thread that answers. A daemon that cannot have its socket says so, and works without it.
pub fn start(view: &View, stop: &Stop, workers: &mut Workers) -> Result<(), Error> {
    let path = view.config.socket_path();
    let listening = match Listening::on(&path) {
        Ok(listening) => listening,
        Err(error) => {
            log::warn!("{}: {error}: -status will not know of this daemon", path.display());
            return Ok(());
        }
    };
    let (view, stop) = (view.clone(), stop.clone());
    workers.spawn("status", move || {
        while !stop.requested() {
            if let Some(stream) = listening.accept()
                && !stop.requested()
            {
                // Whoever goes away before the answer is no concern of ours.
                let _ = answer(&view, stream, &stop);
            }
        }
        Ok(())
    })
}

/// Lets the thread that answers see at once that the daemon stops.
pub fn wake(path: &Path) {
    let _ = shortened(path).and_then(|(short, _dir)| UnixStream::connect(short));
}

/// What a running daemon says. The error `NotFound` or `ConnectionRefused`: none runs.
pub fn ask(path: &Path) -> std::io::Result<String> {
    let (short, _dir) = shortened(path)?;
    let stream = UnixStream::connect(short)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn answer(view: &View, mut stream: UnixStream, stop: &Stop) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(TAKE))?;
    let asked = Instant::now();
    view.fleet.look(asked);
    view.lookout.look(Looker::Person, limits::STATE_PATIENCE / 4);
    // The others answer within milliseconds, or are called silent at the next look.
    while !stop.wait(Duration::from_millis(20)) {
        let waited = asked.elapsed();
        let heard = waited > limits::STATE_PATIENCE / 4
            && view.fleet.is_fresh(asked.checked_sub(limits::STATE_FRESH).unwrap_or(asked), Instant::now());
        if heard || waited > limits::STATE_PATIENCE || !view.connection.is_up() {
            break;
        }
    }
    stream.write_all(format!("{}\n", status::document(view)).as_bytes())
}

/// The socket; its file goes when it is dropped.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listening {
    /// Listens at a path where an earlier daemon may have left its socket: the caller holds the lock that only one daemon has.
    fn on(path: &Path) -> std::io::Result<Listening> {
        if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let (short, _dir) = shortened(path)?;
        let listener = UnixListener::bind(&short)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Listening { listener, path: path.to_path_buf() })
    }

    /// Waits for somebody who connects, at most [`LOOK`].
    fn accept(&self) -> Option<UnixStream> {
        let timeout = Timespec { tv_sec: LOOK.as_secs().cast_signed(), tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        match self.listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => {
                // The socket stays ready.
                std::thread::park_timeout(UNFIT);
                None
            }
        }
    }
}

/// A name for the path that fits into a socket's address: a long one leads through the open directory, which is given back
/// to be kept as long as the name is used.
fn shortened(path: &Path) -> std::io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= PATH_MAX {
        return Ok((path.to_path_buf(), None));
    }
    let flags = (rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY).bits().cast_signed();
    let dir = File::options().read(true).custom_flags(flags).open(files::parent(path))?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    if short.as_os_str().len() > PATH_MAX {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "the name is too long for a socket"));
    }
    Ok((short, Some(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::base::stop;
    use crate::operate::status::tests::view;

    fn asked(path: &Path) -> serde_json::Value {
        serde_json::from_str(&ask(path).unwrap()).unwrap()
    }

    #[test]
    fn one_document_for_each_who_asks_and_no_file_at_the_end() {
        let scratch = Scratch::new("socket");
        let mut view = view("");
        view.config.seq_map_path = scratch.path("seq-map.cbor");
        let path = view.config.socket_path();
        // What a killed daemon left.
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(ask(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let (source, stop) = stop::pair();
        let mut workers = Workers::default();
        start(&view, &stop, &mut workers).unwrap();
        for _ in 0..2 {
            assert_eq!(asked(&path)["node"]["node_id"], 1);
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(view.fleet.is_looked_at(Instant::now()), "the others were asked");
        source.stop();
        wake(&path);
        assert!(workers.wait(Instant::now() + LOOK / 2).is_empty(), "it was not woken");
        assert_eq!(ask(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_serves_nevertheless() {
        let scratch = Scratch::new("socket-long");
        let dir = scratch.path(&"d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("seq-map.cbor.sock");
        let listening = Listening::on(&path).unwrap();
        assert!(path.exists());
        let (short, _dir) = shortened(&path).unwrap();
        let _client = UnixStream::connect(short).unwrap();
        assert!(listening.accept().is_some());
        drop(listening);
        assert!(!path.exists());
        let name = dir.join("n".repeat(120));
        assert_eq!(Listening::on(&name).err().unwrap().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn another_file_at_that_path_stays() {
        let scratch = Scratch::new("socket-other");
        let path = scratch.path("seq-map.cbor.sock");
        std::fs::write(&path, b"a text").unwrap();
        assert!(Listening::on(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a text");
    }
}
