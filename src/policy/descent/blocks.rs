//! Blocks that are nowhere whole; their pieces are read in batches.

use std::collections::VecDeque;

use crate::format::geometry::ByteRange;

use super::{level::Aside, patch::Patch};

/// Where no whole block was found, the pieces of this many blocks show whether those of the others are worth reading.
const SAMPLE: usize = 32;
/// With fewer blocks than this many samples, a sample is not worth the wait.
const SAMPLES_MIN: usize = 4;

/// See the module.
pub struct Blocks {
    /// To be read after this batch.
    pub later: VecDeque<Aside>,
    /// The ranges of this batch that were not given yet.
    pub wanted: Vec<ByteRange>,
    pub patches: Vec<Patch>,
    /// The first batch has this many blocks (0: as many as any). If none of their pieces is here, the search ends.
    pub sample: usize,
}

impl Blocks {
    /// Blocks in their order. If nothing was found so far, a few from everywhere come first.
    pub fn new(missing: Vec<Aside>, found_any: bool) -> Blocks {
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
