//! Figures. `make bench` prints them; in CI the bars leave room to spare.

mod equality;
mod large;
mod sets;
mod speed;
mod upgrades;
