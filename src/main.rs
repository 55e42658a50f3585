//! The program: everything is in the library.

/// musl's own maps and unmaps memory with every transaction.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    harmonylite::run(std::env::args_os().skip(1).collect())
}
