//! The ground floor: what knows no word of the domain.

pub mod child;
pub mod clock;
pub mod copies;
pub mod digest;
pub mod error;
pub mod fail;
pub mod files;
pub mod limits;
pub mod logger;
pub mod md5;
pub mod memory;
pub mod once;
pub mod progress;
pub mod random;
pub mod retry;
pub mod rights;
pub mod secret;
pub mod stop;
pub mod temporary;
pub mod worker;

pub use error::{Error, Kind};

#[cfg(test)]
#[path = "mutants_tests.rs"]
pub mod mutants;
#[cfg(test)]
#[path = "scratch_tests.rs"]
pub mod scratch;
