//! Documentation only: the manual, topic by topic. `harmonylite -help TOPIC` prints the same texts, `harmonylite -man` all of them
//! as a page for `man`.

#[doc = include_str!("commands.md")]
pub mod commands {}
#[doc = include_str!("configuration.md")]
pub mod configuration {}
#[doc = include_str!("install.md")]
pub mod install {}
#[doc = include_str!("operating.md")]
pub mod operating {}
#[doc = include_str!("stores.md")]
pub mod stores {}
#[doc = include_str!("recovery.md")]
pub mod recovery {}
#[doc = include_str!("history.md")]
pub mod history {}
#[doc = include_str!("conflicts.md")]
pub mod conflicts {}
#[doc = include_str!("schema.md")]
pub mod schema {}
#[doc = include_str!("set-aside.md")]
pub mod set_aside {}
#[doc = include_str!("compare.md")]
pub mod compare {}
#[doc = include_str!("promises.md")]
pub mod promises {}
#[doc = include_str!("security.md")]
pub mod security {}
#[doc = include_str!("upgrade.md")]
pub mod upgrade {}
#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}
