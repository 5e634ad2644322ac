//! Judging claimed blocks in the background, while the download goes on.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    disk::part::{Part, Stored},
    format::{blockset::BlockSet, geometry::BlockIndex, judge::Leaves},
};

/// What became of claims.
#[derive(Debug)]
pub enum Claim {
    Held(Stored),
    Failed(BlockIndex),
}

/// Neighbouring blocks are reported together, up to so many.
const TOGETHER: u32 = 256;

/// Reads and judges every claimed block, the last one of the object first because it proves the length. Ends early when
/// `stop` is set.
pub fn judge_claims(
    leaves: &Leaves,
    part: &Part,
    claimed: &BlockSet,
    stop: &AtomicBool,
    mut tell: impl FnMut(Claim),
) {
    let geometry = leaves.geometry();
    let mut buffer = vec![0; geometry.block_size().bytes() as usize];
    let mut run: Option<Stored> = None;
    let last = Some(geometry.last()).filter(|last| claimed.contains(*last));
    let others = claimed
        .ranges()
        .flat_map(|range| range.iter())
        .filter(|block| Some(*block) != last);
    for block in last.into_iter().chain(others) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A disk that cannot read a block may well be able to write it anew.
        let judged = part.judge(leaves, block, &mut buffer).ok().flatten();
        let Some(stored) = judged else {
            tell(Claim::Failed(block));
            continue;
        };
        run = match run.map(|run| (run, run.joined(stored))) {
            None => Some(stored),
            Some((_, Some(joined)))
                if joined.blocks().count() < TOGETHER && Some(block) != last =>
            {
                Some(joined)
            }
            Some((_, Some(joined))) => {
                tell(Claim::Held(joined));
                None
            }
            Some((run, None)) => {
                tell(Claim::Held(run));
                Some(stored)
            }
        };
        if Some(block) == last
            && let Some(run) = run.take()
        {
            tell(Claim::Held(run));
        }
    }
    if let Some(run) = run {
        tell(Claim::Held(run));
    }
}
