//! harmonylite
mod child;
pub mod clock;
pub mod config;
pub mod event;
pub mod files;
pub mod fold;
mod gotime;
pub mod limits;
pub mod logger;
pub mod nats;
pub mod retry;
pub mod secret;
pub mod seqmap;
pub mod shard;
pub mod stop;
pub mod value;
pub mod worker;
