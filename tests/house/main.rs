//! The rules of the house: layers, sizes, names, reasons. They are tests, so that they stay true.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(missing_docs, reason = "tests explain themselves by their names")]

mod layers;
mod source;
mod texts;
mod visibility;
