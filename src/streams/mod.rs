//! The change streams as the daemon uses them: made, judged against a position, read in order.

mod judge;
mod made;
mod reader;

pub use judge::{Judgement, judge};
pub use made::{ensure, ensure_all, warn_of_more_shards};
pub use reader::{Item, Reader, is_silent, queue};
