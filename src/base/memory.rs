//! Memory that is free inside this process, given back to the system.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod library {
    #![allow(unsafe_code, reason = "the C library's own function; it touches free memory alone")]

    unsafe extern "C" {
        pub safe fn malloc_trim(keep: usize) -> i32;
    }
}

/// Gives back what is free. The C library of glibc keeps nearly all of it. The allocator of the release keeps what is between blocks in use, and cannot be asked.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    library::malloc_trim(0);
}
