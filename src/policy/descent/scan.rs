//! Looks for pieces that are nowhere yet in all bytes of the seeds that nothing was found in: content that moved in stretches
//! too short to have the anchor of a block.

use crate::format::geometry::{ByteRange, PIECE};

use super::{
    Descent,
    patch::Patch,
    protocol::{Local, SeedIndex, Shift},
    rolling,
};

/// Seeds are read in steps of this.
const STEP: u64 = 256 * 1024;
/// Between so many of them the search may end.
const STEPS_AT_ONCE: usize = 16;
/// Bytes of seeds that are searched for one batch of pieces.
const BYTES_MAX: u64 = 1 << 30;
/// With fewer pairs than this the search is not worth its time.
const PAIRS_MIN: usize = 8;
/// Pairs that are there more often are no sign of a place.
const REPEATS_MAX: usize = 8;
/// Shifts that are tried for one block.
const SHIFTS_MAX: usize = 32;
/// Agreements of a batch; one that has more repeats itself.
const HITS_MAX: usize = 1 << 18;
/// Two pieces that agree are enough where that happens this many times as often as by chance; else it takes three.
const CHANCE: usize = 3;
/// The filter has 2 to this power bits for each pair.
const FILTER_BITS: u32 = 4;

/// Two neighbouring pieces of a block, by their checks.
#[derive(Clone, Copy)]
struct Pair {
    checks: u32,
    patch: u32,
    piece: u32,
}

/// Pairs to look for. Nearly all other ones are ruled out by one look at the filter.
struct Pairs {
    /// By the upper bits of their hashes.
    sorted: Vec<Pair>,
    /// Where the pairs with these upper bits begin; one more for the end.
    starts: Vec<u32>,
    start_bits: u32,
    filter: Vec<u64>,
    filter_bits: u32,
}

/// A block and a shift at which a pair of its pieces agrees.
type Hit = (u32, Shift);

/// Bits that depend on all of both checks, the upper ones most.
fn hash(checks: u32) -> u64 {
    u64::from(checks).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Pairs {
    fn new(patches: &[Patch]) -> Pairs {
        let of_patch = |(patch, one): (u32, &Patch)| -> Vec<Pair> {
            let pair = |(piece, checks)| Pair {
                checks,
                patch,
                piece,
            };
            one.open_pairs().map(pair).collect()
        };
        let mut pairs: Vec<Pair> = (0..).zip(patches).flat_map(of_patch).collect();
        pairs.sort_unstable_by_key(|pair| hash(pair.checks));
        let bits = (pairs.len() as u32).max(64).next_power_of_two().ilog2();
        let (start_bits, filter_bits) = (bits, bits + FILTER_BITS - u64::BITS.ilog2());
        let mut starts = vec![0; (1 << start_bits) + 1];
        let mut filter = vec![0; 1 << filter_bits];
        for pair in &pairs {
            let hash = hash(pair.checks);
            starts[(hash >> (64 - start_bits)) as usize + 1] += 1;
            filter[(hash >> (64 - filter_bits)) as usize] |= bits_of(hash);
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Pairs {
            sorted: pairs,
            starts,
            start_bits,
            filter,
            filter_bits,
        }
    }

    /// The places at which any pair may agree, among the checks of windows one byte apart. A function of its own, because nearly all
    /// time of a search is spent here.
    #[inline(never)]
    fn may_agree(&self, checks: &[u16]) -> Vec<(u32, u32)> {
        let seconds = checks.get(PIECE as usize..).unwrap_or_default();
        let (filter, shift) = (&self.filter[..], 64 - self.filter_bits);
        let mut places = Vec::new();
        for (place, (first, second)) in (0..).zip(checks.iter().zip(seconds)) {
            let checks = u32::from(*first) << 16 | u32::from(*second);
            let hash = hash(checks);
            let bits = bits_of(hash);
            if filter[(hash >> shift) as usize] & bits == bits {
                places.push((place, checks));
            }
        }
        places
    }

    fn of(&self, checks: u32, hash: u64) -> impl Iterator<Item = &Pair> {
        let bucket = (hash >> (64 - self.start_bits)) as usize;
        let bucket = &self.sorted[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        let same = move |pair: &&Pair| pair.checks == checks;
        let repeats = bucket.iter().filter(same).count();
        let same = bucket.iter().filter(same);
        same.take(if repeats > REPEATS_MAX { 0 } else { repeats })
    }
}

/// Two bits of a word of the filter.
fn bits_of(hash: u64) -> u64 {
    1 << (hash & 63) | 1 << (hash >> 6 & 63)
}

impl Descent {
    /// Searches the seeds for pairs of pieces that are nowhere yet, and takes what agrees. Whether there is anything.
    pub(super) fn scan(&mut self, patches: &mut [Patch], local: &mut impl Local) -> bool {
        let pairs = Pairs::new(patches);
        if pairs.sorted.len() < PAIRS_MIN {
            return false;
        }
        let (mut hits, mut searched) = (Vec::new(), 0);
        for steps in steps(&self.unused(patches)).chunks(STEPS_AT_ONCE) {
            if self.stopped || !self.may_patch(local) || hits.len() >= HITS_MAX {
                break;
            }
            searched += steps.iter().map(|(_, step)| step.length()).sum::<u64>();
            self.scan_steps(steps, patches, &pairs, &mut hits, local);
        }
        let by_chance = (u128::from(searched) * pairs.sorted.len() as u128) >> 32;
        self.take_hits(hits, by_chance as usize, patches, local)
    }

    /// Searches the windows that begin in these ranges of seeds.
    fn scan_steps(
        &self,
        steps: &[(SeedIndex, ByteRange)],
        patches: &[Patch],
        pairs: &Pairs,
        hits: &mut Vec<Hit>,
        local: &mut impl Local,
    ) {
        let whole_windows = |(seed, step): &(SeedIndex, ByteRange)| {
            let length = self.seeds[usize::from(seed.0)].geometry().length();
            let end = length.min(step.end + 2 * PIECE - 1);
            (*seed, ByteRange::new(step.start, end))
        };
        let ranges: Vec<_> = steps.iter().map(whole_windows).collect();
        let places = local.map(&ranges, |bytes| pairs.may_agree(&rolling::checks(bytes)));
        for ((seed, range), places) in ranges.into_iter().zip(places) {
            for (place, checks) in places.into_iter().flatten() {
                if hits.len() >= HITS_MAX {
                    return;
                }
                let place = range.start + u64::from(place);
                for pair in pairs.of(checks, hash(checks)) {
                    let of =
                        patches[pair.patch as usize].bytes().start + u64::from(pair.piece) * PIECE;
                    let by = place.wrapping_sub(of).cast_signed();
                    hits.push((pair.patch, Shift { seed, by }));
                }
            }
        }
    }

    /// Tries what agreed, what agreed most often first.
    fn take_hits(
        &mut self,
        mut hits: Vec<Hit>,
        by_chance: usize,
        patches: &mut [Patch],
        local: &mut impl Local,
    ) -> bool {
        hits.sort_unstable();
        let same = hits.chunk_by(|a, b| a == b);
        let counted = same.map(|same| (same[0].0, same.len(), same[0].1));
        let mut counted: Vec<(u32, usize, Shift)> = counted.collect();
        let alone = counted.iter().filter(|(_, count, _)| *count == 1).count();
        if alone < CHANCE * by_chance {
            counted.retain(|(_, count, _)| *count > 1);
        }
        counted.sort_unstable_by_key(|(patch, count, shift)| (*patch, usize::MAX - count, *shift));
        for of_patch in counted.chunk_by(|a, b| a.0 == b.0) {
            if !self.may_patch(local) {
                break;
            }
            let patch = &mut patches[of_patch[0].0 as usize];
            for (_, _, shift) in of_patch.iter().take(SHIFTS_MAX) {
                patch.try_shift(*shift, &self.seeds, local);
            }
            patch.place(&mut self.placed);
        }
        !counted.is_empty()
    }

    /// Ranges of the seeds that nothing was found in, those nearest to the blocks first.
    fn unused(&self, patches: &[Patch]) -> Vec<(SeedIndex, ByteRange)> {
        let found = self
            .placed
            .ranges()
            .chain(patches.iter().flat_map(Patch::found));
        let mut used: Vec<(SeedIndex, u64, u64)> = found
            .filter_map(|(bytes, shift)| {
                let length = self.seeds[usize::from(shift.seed.0)].geometry().length();
                let place = shift.place(bytes, length)?;
                Some((shift.seed, place.start, place.end))
            })
            .collect();
        used.sort_unstable();
        let mut unused = Vec::new();
        for (number, seed) in self.seeds.iter().enumerate() {
            let (seed, length) = (SeedIndex(number as u16), seed.geometry().length());
            let first = used.partition_point(|range| range.0 < seed);
            let of_seed = used[first..].iter().take_while(|range| range.0 == seed);
            let mut at = 0;
            for (start, end) in of_seed
                .map(|range| (range.1, range.2))
                .chain([(length, length)])
            {
                // What is shorter holds no pair.
                if start >= at + 2 * PIECE {
                    let wider = ByteRange::new(at.saturating_sub(PIECE), start);
                    unused.push((seed, wider));
                }
                at = at.max(end);
            }
        }
        let middle = patches.first().map_or(0, |patch| patch.bytes().start);
        unused.sort_by_key(|(_, range)| range.start.abs_diff(middle));
        let mut room = BYTES_MAX;
        unused.retain(|(_, range)| {
            let fits = range.length() <= room;
            room = room.saturating_sub(range.length());
            fits
        });
        unused
    }
}

/// Ranges in steps.
fn steps(ranges: &[(SeedIndex, ByteRange)]) -> Vec<(SeedIndex, ByteRange)> {
    let of_range = |(seed, range): &(SeedIndex, ByteRange)| {
        let (seed, end) = (*seed, range.end);
        let starts = (range.start..end).step_by(STEP as usize);
        starts.map(move |start| (seed, ByteRange::new(start, end.min(start + STEP))))
    };
    ranges.iter().flat_map(of_range).collect()
}
