//! What one worker cannot do now: said once in the log, and shown on the board for as long as it lasts.

use super::Board;
use crate::base::once::Once;
use std::sync::Arc;

/// The trouble of one worker, or none.
#[derive(Debug)]
pub struct Trouble {
    board: Arc<Board>,
    /// Whose it is, for the board: no two have the same.
    whose: &'static str,
    said: Once,
}

impl Trouble {
    /// None yet.
    pub fn new(board: &Arc<Board>, whose: &'static str) -> Trouble {
        Trouble { board: board.clone(), whose, said: Once::default() }
    }

    /// Shows it, and logs it if it is news. What comes after the first `; ` is for the log alone.
    pub fn warn(&mut self, text: &str) {
        self.said.warn(text);
        self.show(text.split("; ").next().unwrap_or_default());
    }

    /// Shows it, without a line in the log.
    pub fn show(&self, text: &str) {
        self.board.set_trouble(self.whose, text);
    }

    /// It is over.
    pub fn forget(&mut self) {
        self.said.forget();
        self.show("");
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_until_it_is_over_or_its_worker_ends() {
        let board = Arc::new(Board::default());
        let (mut one, two) = (Trouble::new(&board, "one"), Trouble::new(&board, "two"));
        one.warn("the disk is full: make room; trying again");
        two.show("locked");
        assert_eq!(board.troubles(), ["the disk is full: make room", "locked"]);
        one.forget();
        assert_eq!(board.troubles(), ["locked"]);
        drop(two);
        assert!(board.troubles().is_empty());
    }
}
