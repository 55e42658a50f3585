//! What became of migrations here is told to whoever published them.

use super::setup::Setup;
use crate::cluster::migration;

/// Tells it, if there is something to tell. What cannot be told now is not told again: the node's own commands show it.
pub fn tell(setup: &mut Setup) {
    for (id, why) in setup.database.take_reports() {
        let told = migration::report(&setup.bucket, &id, (setup.config.node_id, &why));
        if let Err(error) = told {
            log::debug!("tell what became of migration {id}: {error}");
        }
    }
}
