//! What the nodes of a cluster tell each other beside the rows: leases, requests, who is there.

pub mod lease;
pub mod presence;
pub mod wanted;
