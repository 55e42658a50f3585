//! The change streams as the daemon uses them: made, judged, read in order.

mod judge;

pub use judge::{Judgement, ensure, ensure_all, judge};
