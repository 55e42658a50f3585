//! The program: everything is in the library.

fn main() -> std::process::ExitCode {
    harmonylite::run(std::env::args_os().skip(1).collect())
}
