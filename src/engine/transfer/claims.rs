//! Judges claimed blocks in the background during the transfer.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    disk::{error::DiskError, part::Stored},
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange},
        judge::{Leaves, Verified},
    },
};

use super::sink::PartSink;

/// The verdict on claims.
#[derive(Debug)]
pub enum Claim {
    Held(Verified),
    Failed(BlockIndex),
}

/// The most neighbouring blocks that are reported together.
const TOGETHER: u32 = 256;

/// Reads and judges every claimed block and records the results in the journal. Starts with the last block of the object, because
/// it proves the length. Ends early when `stop` is set.
pub fn judge_claims(
    leaves: &Leaves,
    sink: &PartSink,
    claimed: &BlockSet,
    stop: &AtomicBool,
    mut report: impl FnMut(Claim),
) -> Result<(), DiskError> {
    let geometry = leaves.geometry();
    let mut buffer = vec![0; geometry.block_size().bytes() as usize];
    let mut run: Option<Stored> = None;
    let last = Some(geometry.last()).filter(|last| claimed.contains(*last));
    let others = claimed
        .ranges()
        .flat_map(|range| range.iter())
        .filter(|block| Some(*block) != last);
    let hold = |run: Stored, report: &mut dyn FnMut(Claim)| {
        sink.journal.lock().note(run);
        report(Claim::Held(run.verified()));
    };
    for block in last.into_iter().chain(others) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A disk that cannot read a block may still be able to rewrite it.
        let judged = sink.part.judge(leaves, block, &mut buffer).ok().flatten();
        let Some(stored) = judged else {
            let failed = vec![BlockRange::one(block)];
            sink.journal.lock().drop_claims(failed)?;
            report(Claim::Failed(block));
            continue;
        };
        let joined = run.and_then(|run| run.joined(stored));
        if joined.is_none()
            && let Some(run) = run
        {
            hold(run, &mut report);
        }
        let next = joined.unwrap_or(stored);
        // The last block is reported at once.
        run = match next.blocks().count() < TOGETHER && Some(block) != last {
            true => Some(next),
            false => {
                hold(next, &mut report);
                None
            }
        };
    }
    if let Some(run) = run {
        hold(run, &mut report);
    }
    Ok(())
}
