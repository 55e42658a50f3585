//! The claimer: gets blocks of keys from the cluster ahead of need, so that applying does not wait for the broker.

use crate::base::{error::Error, once::Once, stop::Stop};
use crate::cluster::{Bucket, blocks};
use crate::db::Steering;
use std::time::Duration;

/// Claims until stop.
pub fn claim_blocks(steering: &Steering, bucket: &Bucket, stop: &Stop) -> Result<(), Error> {
    let mut said = Once::default();
    while !stop.requested() {
        let wants = steering.next_wants(Duration::from_secs(1));
        if wants.is_empty() {
            continue;
        }
        if !bucket.js().connection().is_up() {
            stop.wait(Duration::from_millis(100));
            continue;
        }
        for want in wants {
            match blocks::claim(bucket, &want) {
                Ok(block) => {
                    said.forget();
                    steering.claimed(&want.table, block);
                }
                Err(error) => {
                    said.warn(&format!("table {}: claim keys: {error}; trying again", want.table));
                    stop.wait(Duration::from_millis(500));
                    break;
                }
            }
        }
    }
    Ok(())
}
