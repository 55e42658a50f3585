//! A child process that cannot outlive this one. One of two files with a block of `unsafe`.

#![allow(unsafe_code, reason = "std offers no safe way to run code between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the kernel send SIGTERM to the child when the thread that starts it ends, so that it dies with this process even if
/// that is killed with SIGKILL.
pub fn die_with_parent(command: &mut Command) {
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called; this one is the bare system call
    // prctl, without allocation or locks.
    unsafe {
        command.pre_exec(set);
    }
}
