//! Memory that this process does not need, given back to the system.

#![allow(unsafe_code, reason = "the C library's own function, and advice about the program's own code")]

use rustix::mm::{Advice, madvise};
use std::ops::Range;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod library {
    unsafe extern "C" {
        pub safe fn malloc_trim(keep: usize) -> i32;
    }
}

/// Gives back what is free. The C library of glibc keeps nearly all of it. The allocator of the release keeps what is between blocks in use, and cannot be asked.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    library::malloc_trim(0);
}

/// Lets go of the program's own code. Of the megabytes that a start has run through, a node at rest needs a small part, which comes back
/// from the system's cache of files, or from the file.
pub fn let_go_of_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Some(code) = code_around(&maps, let_go_of_code as fn() as usize) else { return };
    // SAFETY: these pages hold what is in the file, can be read and executed and not written, and nobody else has them in this process:
    // whoever uses one next reads the same again.
    let advised = unsafe {
        madvise(std::ptr::with_exposed_provenance_mut(code.start), code.len(), Advice::LinuxDontNeed)
    };
    if let Err(error) = advised {
        log::debug!("let go of code: {error}");
    }
}

/// The part of the memory, of those that a text of Linux's `/proc/PID/maps` lists, that holds an address and is code as it is in a file.
fn code_around(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        (range.contains(&address) && rest.starts_with("r-xp ")).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_where_it_can_be_executed_and_not_written() {
        let maps = "00400000-00401000 r--p 00000000 fe:00 123 /usr/bin/x y\n00401000-00480000 r-xp 00001000 fe:00 123 /usr/bin/x y\n\
                    00480000-00490000 rwxp 00080000 fe:00 123 /usr/bin/x y\nnonsense\n";
        assert_eq!(code_around(maps, 0x40_1000), Some(0x40_1000..0x48_0000));
        for address in [0x40_0000, 0x48_0000, 0x49_0000] {
            assert_eq!(code_around(maps, address), None, "{address:x}");
        }
    }

    #[test]
    fn code_that_was_let_go_of_runs_on() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        let_go_of_code();
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }
}
