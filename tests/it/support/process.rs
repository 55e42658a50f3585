//! Processes that end with their owner, signals to them, and what they printed.

use super::pause;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_harmonylite");

/// A started process. When it is dropped, by a panic too, the process is asked to end and, five seconds later, killed.
pub struct Process(Option<Child>);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        let child = command.spawn();
        Process(Some(child.unwrap_or_else(|error| panic!("start {command:?}: {error}"))))
    }

    pub fn id(&self) -> u32 {
        self.child().id()
    }

    fn child(&self) -> &Child {
        self.0.as_ref().unwrap()
    }

    pub fn stdin(&mut self) -> &mut std::process::ChildStdin {
        self.0.as_mut().unwrap().stdin.as_mut().unwrap()
    }

    /// What it writes; can be taken once.
    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.0.as_mut().unwrap().stdout.take().unwrap()
    }

    /// How the process ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().unwrap().try_wait().unwrap()
    }

    /// The peak of its resident memory in KiB; 0 when it has ended.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    }

    /// Waits until the process ends by itself.
    pub fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// Ends the process with SIGKILL, unless it ended by itself before; tells how it ended.
    pub fn kill(mut self) -> ExitStatus {
        kill(self.0.take().unwrap())
    }
}

fn kill(mut child: Child) -> ExitStatus {
    let _ = child.kill();
    child.wait().unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // SIGTERM first: a server that is asked to end takes its own children along. A stopped process hears it only after
        // SIGCONT.
        for signal in ["-TERM", "-CONT"] {
            let _ =
                Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        }
        for _ in 0..500 {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            pause(10);
        }
        kill(child);
    }
}

/// Sends a signal, by name, to one process.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

/// Processor time of a process in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// What a command printed, both streams.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// The JSON document that a command printed.
pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", printed(output)))
}

/// A port of the loopback interface that nothing listens on, and that no other test of this process has.
pub fn free_port() -> u16 {
    // The kernel gives a port again that was closed a moment ago, and another test's server does not listen on it yet.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if given.insert(port) {
            return port;
        }
    }
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Says that a test was skipped; in CI nothing may be.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
    eprintln!("skipped: {why}");
}

#[test]
fn a_test_that_panics_leaves_no_process() {
    let mut id = 0;
    let stopped = std::panic::AssertUnwindSafe(|| {
        let process = Process::start(Command::new("sleep").arg("60"));
        id = process.id();
        signal(id, "STOP");
        panic!("on purpose: the process must end with its owner");
    });
    assert!(std::panic::catch_unwind(stopped).is_err());
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "the process {id} is still there");
}

/// A library that shows a process another time of day. The monotonic clock, which measures leases, stays as it is.
pub fn faketime() -> std::path::PathBuf {
    let arch = std::env::consts::ARCH;
    let path = std::path::PathBuf::from(format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
    assert!(path.exists(), "no libfaketime: run `make setup`");
    path
}
