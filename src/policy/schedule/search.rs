//! Finds the number of connections by measuring.
//!
//! Where packets get lost, loss limits the rate of each connection, and more of them are faster together. Where the link is full,
//! more of them only share it. Only trying tells the two apart: the number is doubled, and stays doubled if the rate grew.

use super::{CONNECTIONS_FIRST, protocol::Millis};

/// A round lasts at least this long, and at least this many times the response time.
const ROUND_MS_MIN: Millis = 120;
const ROUND_ROUND_TRIPS: u64 = 3;
/// And at most this long, however slow the responses are.
const ROUND_MS_MAX: Millis = 4_000;
/// With less time left than this, no more connections are tried: the transfer would end before they reach their rate.
const UP_WORTH_MS: u64 = 5_000;
/// The same where loss limits each connection: there more of them help sooner.
const AT_ONCE_WORTH_MS: u64 = 1_000;
/// A connection without loss has more bytes than this in flight in its second round: it begins with ten packets of 1.4 kB, and
/// doubles them in each round trip.
const WINDOW_OF_LOSS: u64 = 100_000;
/// With less time left than this, fewer connections are not tried: finding out may cost a second or two.
const DOWN_WORTH_MS: u64 = 10_000;
/// A source with this latency is far away. There a connection takes long to recover from a loss, and waiting for a settled rate
/// costs more than a few useless connections.
pub const FAR_MS: u64 = 5;
/// A number that was no faster is tried again after this time, because other traffic on the link changes.
const AGAIN_MS: Millis = 30_000;
/// A rate has settled when it grows by less than an eighth in a round, at the earliest in the second: in the first, connections
/// are made. After the last of these rounds it counts as settled.
const ROUNDS_MIN: u32 = 2;
const ROUNDS_MAX: u32 = 8;

/// What a round showed.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bytes a second, of all connections.
    pub rate: u64,
    /// How long the rest takes at this rate.
    pub left_ms: u64,
    /// The response time.
    pub response_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Waiting for the rate of this number of connections.
    Settling,
    /// There were fewer before, with this rate.
    Up {
        from: u32,
        before: u64,
    },
    /// There were more before, with this rate.
    Down {
        from: u32,
        before: u64,
    },
    Pausing {
        until: Millis,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Search {
    first: u32,
    connections: u32,
    /// The greatest number so far.
    peak: u32,
    most: u32,
    state: State,
    /// Rounds since the number changed, and the rate of the latest.
    rounds: u32,
    rate: u64,
    /// The number was doubled before its rate had settled, so it is not known whether that helped.
    unsure: bool,
    /// The user's rate limit holds bytes back, and not the connections.
    held_back: bool,
}

impl Search {
    /// Begins with this number; it never falls below it, and never grows above `most`.
    pub fn new(connections: u32, most: u32) -> Search {
        Search {
            first: connections,
            connections,
            peak: connections,
            most,
            state: State::Settling,
            rounds: 0,
            rate: 0,
            unsure: false,
            held_back: false,
        }
    }

    /// The number of connections to have now.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// Changes the greatest number that is allowed.
    pub fn allow(&mut self, most: u32) {
        if most != self.most {
            self.most = most;
            self.first = CONNECTIONS_FIRST.min(most);
            self.change(self.connections, self.state);
        }
    }

    /// Notes whether the user's rate limit holds bytes back now.
    pub fn hold_back(&mut self, held_back: bool) {
        self.held_back = held_back;
    }

    /// See [`Search::hold_back`].
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// Whether there was no round of this number yet.
    pub fn is_fresh(&self) -> bool {
        self.rounds == 0
    }

    /// Whether the number may fall back soon.
    pub fn is_trying_more(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether there were more before, of which some may still be at work.
    pub fn has_fallen(&self) -> bool {
        self.connections < self.peak
    }

    /// The length of a round at this response time.
    pub fn round_ms(response_ms: u64) -> Millis {
        (response_ms * ROUND_ROUND_TRIPS).clamp(ROUND_MS_MIN, ROUND_MS_MAX)
    }

    /// Evaluates a round in which the current number of connections was at work all the time.
    pub fn round(&mut self, now: Millis, measured: Measured) {
        let Measured { rate, left_ms, .. } = measured;
        self.rounds += 1;
        let grows = rate / 9 > self.rate / 8;
        let settled = self.rounds >= ROUNDS_MAX || (self.rounds >= ROUNDS_MIN && !grows);
        self.rate = rate;
        match self.state {
            State::Settling if settled && self.unsure && left_ms > DOWN_WORTH_MS => {
                self.unsure = false;
                let (from, before) = (self.connections, rate);
                self.change(from / 2, State::Down { from, before });
            }
            State::Settling if self.connections < self.most => {
                let window = rate * measured.response_ms / 1000 / u64::from(self.connections);
                let at_once = self.rounds >= ROUNDS_MIN
                    && !self.unsure
                    && measured.response_ms >= FAR_MS
                    && window < WINDOW_OF_LOSS
                    && left_ms > AT_ONCE_WORTH_MS;
                if settled && left_ms > UP_WORTH_MS || at_once {
                    self.unsure |= !settled;
                    let (from, before) = (self.connections, rate);
                    self.change(from * 2, State::Up { from, before });
                }
            }
            State::Up { from, before } if settled => {
                if is_more((self.connections, rate), (from, before)) {
                    self.state = State::Settling;
                } else {
                    self.unsure &= from > self.first;
                    self.pause(now, from);
                }
            }
            State::Down { from, before } if settled => {
                if is_more((from, before), (self.connections, rate)) {
                    self.change(from, State::Settling);
                } else {
                    self.pause(now, self.connections);
                }
            }
            State::Pausing { until } if until <= now => self.state = State::Settling,
            _ => (),
        }
    }

    fn pause(&mut self, now: Millis, connections: u32) {
        let until = now + AGAIN_MS;
        self.change(connections, State::Pausing { until });
    }

    fn change(&mut self, connections: u32, state: State) {
        let connections = connections.clamp(self.first, self.most);
        if connections != self.connections {
            (self.connections, self.rounds, self.rate) = (connections, 0, 0);
            self.peak = self.peak.max(connections);
        }
        self.state = state;
    }
}

/// Whether the rate grew at least a quarter as much as the number of connections: with twice as many, to 1.25 times the rate.
fn is_more((many, with_many): (u32, u64), (few, with_few): (u32, u64)) -> bool {
    let (many, few) = (u128::from(many), u128::from(few));
    u128::from(with_many) * 4 * few >= u128::from(with_few) * (3 * few + many)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number after so many rounds of a host with this rate for each number of connections.
    fn found(rounds: u64, most: u32, response_ms: u64, rate_of: impl Fn(u32) -> u64) -> Vec<u32> {
        let mut search = Search::new(8.min(most), most);
        let mut numbers = vec![search.connections()];
        for round in 0..rounds {
            let rate = rate_of(search.connections());
            let measured = Measured {
                rate,
                left_ms: 60_000,
                response_ms,
            };
            search.round(round * 200, measured);
            if numbers.last() != Some(&search.connections()) {
                numbers.push(search.connections());
            }
        }
        numbers
    }

    #[test]
    fn it_grows_while_that_brings_more() {
        let lossy = |connections| u64::from(connections) * 600_000;
        assert_eq!(found(20, 64, 0, lossy), [8, 16, 32, 64]);
        assert_eq!(found(20, 20, 0, lossy), [8, 16, 20]);
        assert_eq!(found(20, 3, 0, lossy), [3]);
        let of_sixteen = |connections: u32| u64::from(connections.min(16)) * 600_000;
        assert_eq!(found(20, 64, 0, of_sixteen), [8, 16, 32, 16]);
    }

    #[test]
    fn one_full_pipe_needs_no_more() {
        for (response_ms, pipe) in [(0, 50_000_000), (40, 50_000_000), (400, 1_000)] {
            assert_eq!(found(40, 16, response_ms, |_| pipe), [8, 16, 8]);
        }
    }

    #[test]
    fn what_was_tried_too_early_is_tried_back() {
        // From afar, and the rate goes on growing for a while by itself.
        let mut search = Search::new(8, 16);
        let mut numbers = Vec::new();
        for (round, rate) in [10, 30, 60, 80, 80, 80, 80, 80, 80, 80]
            .into_iter()
            .enumerate()
        {
            let measured = Measured {
                rate,
                left_ms: 60_000,
                response_ms: 40,
            };
            search.round(round as u64 * 200, measured);
            numbers.push(search.connections());
        }
        assert_eq!(numbers, [8, 16, 16, 16, 16, 8, 8, 8, 8, 8]);
    }

    #[test]
    fn what_ends_soon_is_left_alone() {
        let mut search = Search::new(8, 16);
        for round in 0..10 {
            // One that loses, and one that does not.
            for (rate, left_ms) in [(1_000, AT_ONCE_WORTH_MS), (1_000_000_000, UP_WORTH_MS)] {
                let measured = Measured {
                    rate,
                    left_ms,
                    response_ms: 40,
                };
                search.round(round * 200, measured);
                assert_eq!(search.connections(), 8);
            }
        }
    }
}
