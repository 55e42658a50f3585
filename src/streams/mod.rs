//! The change streams as the daemon uses them: made, judged against a position, read in order.

mod format;
mod judge;
mod made;
mod reader;

pub use format::format_of;
pub use judge::{Judgement, judge};
pub use made::{change_format, ensure, ensure_all, reach_of, size_of, warn_of_more_shards, widen};
pub use reader::{Item, Reader, is_silent, queue};
