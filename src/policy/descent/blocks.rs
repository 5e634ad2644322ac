//! Blocks that are nowhere whole; their pieces are read in batches.

use std::collections::VecDeque;

use crate::format::geometry::ByteRange;

use super::{level::Node, patch::Patch};

/// Where nothing was found whole, the pieces of so many blocks tell whether those of the others are worth reading.
const SAMPLE: usize = 32;
/// Fewer blocks than this many samples are not worth the wait for one.
const SAMPLES_MIN: usize = 4;

/// See the module.
pub struct Blocks {
    /// To be read after this batch.
    pub later: VecDeque<Node>,
    /// What was not given yet of this batch.
    pub wanted: Vec<ByteRange>,
    pub patches: Vec<Patch>,
    /// So many blocks make a batch by themselves: if nothing of them is here, nothing of the rest is looked for.
    pub sample: usize,
}

impl Blocks {
    /// Blocks in their order. Where nothing was found so far, a few from everywhere come first.
    pub fn new(missing: Vec<Node>, found_any: bool) -> Blocks {
        let count = missing.len();
        let sample = match found_any || count < SAMPLES_MIN * SAMPLE {
            true => 0,
            false => SAMPLE,
        };
        let is_sample = |number: usize| {
            let next = (number * sample).div_ceil(count);
            sample > 0 && next < sample && next * count / sample == number
        };
        let (first, rest): (Vec<_>, Vec<_>) = (0..)
            .zip(missing)
            .partition(|(number, _)| is_sample(*number));
        let nodes = first.into_iter().chain(rest);
        Blocks {
            later: nodes.map(|(_, node)| node).collect(),
            wanted: Vec::new(),
            patches: Vec::new(),
            sample,
        }
    }
}
