//! Figures. `make bench` prints them; in CI the bars leave room to spare.

mod large;
mod sets;
mod speed;
