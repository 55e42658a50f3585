//! Telling systemd how the service is, by the protocol of `sd_notify(3)`: ready, a line of status, alive, stopping.

use super::{View, verdict::verdict};
use crate::base::{error::Error, stop::Stop, worker::Workers};
use crossbeam_channel::select;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Time between two looks at the status.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the thread that tells, if the supervisor wants to know. `stop` is the person's wish, `end` the end of the workers.
pub fn start(view: &View, stop: &Stop, end: &Stop, workers: &mut Workers) -> Result<(), Error> {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
        return Ok(());
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let alive = number("WATCHDOG_USEC").filter(|_| for_us).map(Duration::from_micros);
    let teller = match Teller::new(address) {
        Ok(teller) => teller,
        Err(error) => {
            log::warn!("NOTIFY_SOCKET: {error}");
            return Ok(());
        }
    };
    let (view, stop, end) = (view.clone(), stop.clone(), end.clone());
    workers.spawn("notify", move || {
        tell(&teller, &view, alive, (&stop, &end));
        Ok(())
    })
}

/// Tells until the stop. Each look takes the locks that all workers share: if one is never given back, nothing is told, and the
/// supervisor starts the daemon anew.
fn tell(teller: &Teller, view: &View, alive: Option<Duration>, (stop, end): (&Stop, &Stop)) {
    let pause = alive.map_or(LOOK, |alive| LOOK.min(alive / 4));
    // What the supervisor has taken; nothing yet.
    let mut told = String::new();
    let mut alive_at = Instant::now();
    loop {
        let line = line(view);
        let ready = if told.is_empty() { "READY=1\n" } else { "" };
        if line != told && teller.say(&format!("{ready}STATUS={line}")) {
            told = line;
        }
        select! {
            recv(stop.receiver()) -> _ => break,
            recv(end.receiver()) -> _ => break,
            default(pause) => {}
        }
        if alive.is_some_and(|alive| alive_at.elapsed() >= alive / 4) {
            teller.say("WATCHDOG=1");
            alive_at = Instant::now();
        }
    }
    teller.say("STOPPING=1\nSTATUS=stopping: what is captured is published first");
}

/// The status in a line.
fn line(view: &View) -> String {
    let (word, problems) = verdict(view);
    let why = problems.first().map_or(String::new(), |why| format!(": {why}"));
    let role = if view.board.is_leader() { ", leader" } else { "" };
    format!("{word}{role}{why}").replace(|c: char| c.is_control(), " ")
}

/// A socket, and whom to tell.
struct Teller {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Teller {
    /// The address is a path, or begins with @ and is a name that no file has.
    fn new(address: OsString) -> std::io::Result<Teller> {
        let bytes = address.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(OsStr::from_bytes(bytes))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Teller { socket, address })
    }

    /// Whether the supervisor has taken it: its queue is short, and nobody waits for it.
    fn say(&self, text: &str) -> bool {
        self.socket.send_to_addr(text.as_bytes(), &self.address).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::base::stop;
    use crate::operate::Whole;
    use crate::operate::status::tests::view;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 1_000];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    #[test]
    fn ready_status_alive_and_stopping_over_both_kinds_of_sockets() {
        let scratch = Scratch::new("notify");
        let name = format!("harmonylite-notify-{}", std::process::id());
        let hidden = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let path = scratch.path("notify");
        for (address, socket) in [
            (format!("@{name}").into(), hidden),
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
        ] {
            let (view, (source, stop), (_end_source, end)) = (view(""), stop::pair(), stop::pair());
            let teller = Teller::new(address).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| tell(&teller, &view, Some(Duration::from_millis(200)), (&stop, &end)));
                assert_eq!(heard(&socket), "READY=1\nSTATUS=healthy");
                assert_eq!(heard(&socket), "WATCHDOG=1");
                view.signals.set_whole(Whole::Waiting("a\nb".into()));
                let status = std::iter::repeat_with(|| heard(&socket)).find(|text| text != "WATCHDOG=1");
                assert_eq!(status.unwrap(), "STATUS=degraded: not whole: a b");
                source.stop();
                let last = std::iter::repeat_with(|| heard(&socket)).find(|text| text != "WATCHDOG=1");
                assert!(last.unwrap().starts_with("STOPPING=1\n"));
            });
        }
    }
}
