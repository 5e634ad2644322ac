//! Writing the receipt of a published file.

use std::path::Path;

use crate::{
    disk::{
        error::DiskError,
        machine::{self, unix_time},
        temporary::{Replaces, Temporary},
    },
    engine::events::Published,
    format::receipt::{Receipt, VERSION},
};

/// Writes the receipt of a run that started at this time. Like the file itself it appears complete or not at all.
pub fn write(place: &Path, of: &Published, started: u64) -> Result<(), DiskError> {
    let receipt = Receipt {
        receipt: VERSION,
        url: of.url.clone(),
        path: of.path.display().to_string(),
        etag: of.etag.clone(),
        last_modified: of.last_modified.clone(),
        bytes_total: of.bytes_total,
        root: of.root,
        digests: of.digests.clone(),
        trust: of.trust,
        key_id: of.key_id.clone(),
        started,
        ended: unix_time(),
        user: machine::user(),
        host: machine::host(),
        version: concat!("sapwood ", env!("CARGO_PKG_VERSION")).to_owned(),
        bytes_fetched: of.bytes_fetched,
        bytes_resumed: of.bytes_resumed,
        bytes_reused: of.bytes_reused,
        unchanged: of.unchanged,
    };
    let file = Temporary::create(place, Replaces::Receipt)?;
    file.write_at(receipt.to_json().as_bytes(), 0)?;
    file.publish(None)
}
