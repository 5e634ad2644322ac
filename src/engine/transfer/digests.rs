//! Digests of the whole object, computed while the part grows, so that little is left at the end.

use std::sync::Arc;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        part::Part,
    },
    engine::blocking::{Group, Threads, Work},
    format::digests::{Algorithm, Digest, DigestHasher},
};

/// The fewest bytes that are worth starting work for.
const STEP_BYTES: u64 = 4 << 20;
const READ_BYTES: usize = 256 * 1024;

/// Computes digests while the part grows.
pub struct DigestFollower {
    /// `None` while work is running.
    idle: Option<State>,
    work: Option<Work<Result<State, DiskError>>>,
    at: u64,
}

struct State {
    hashers: Vec<DigestHasher>,
    at: u64,
}

impl State {
    fn advance(mut self, part: &Part, to: u64) -> Result<State, DiskError> {
        let mut buffer = vec![0; READ_BYTES];
        while self.at < to {
            let count = (to - self.at).min(READ_BYTES as u64) as usize;
            if !part.read(&mut buffer[..count], self.at)? {
                return Err(DiskError::io(
                    FileOperation::Read,
                    part.path(),
                    std::io::ErrorKind::UnexpectedEof,
                ));
            }
            self.hashers
                .iter_mut()
                .for_each(|hasher| hasher.update(&buffer[..count]));
            self.at += count as u64;
        }
        Ok(self)
    }
}

impl DigestFollower {
    pub fn new(algorithms: &[Algorithm]) -> DigestFollower {
        let hashers = algorithms
            .iter()
            .map(|algorithm| DigestHasher::new(*algorithm))
            .collect();
        DigestFollower {
            idle: Some(State { hashers, at: 0 }),
            work: None,
            at: 0,
        }
    }

    /// Starts to hash the bytes before `to`, which are all held.
    pub async fn follow(
        &mut self,
        group: &Group,
        part: &Arc<Part>,
        to: u64,
    ) -> Result<(), DiskError> {
        if self.work.as_ref().is_some_and(Work::is_finished) {
            self.wait().await?;
        }
        if to >= self.at + STEP_BYTES
            && let Some(state) = self.idle.take_if(|state| !state.hashers.is_empty())
        {
            self.at = to;
            let part = part.clone();
            self.work = Some(group.start(Threads::Blocking, move || state.advance(&part, to)));
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), DiskError> {
        match self.work.take() {
            None => Ok(()),
            Some(work) => {
                self.idle = Some(work.finish().await?);
                Ok(())
            }
        }
    }

    /// Reads the rest and returns the digests.
    pub async fn finish(
        mut self,
        group: &Group,
        part: &Arc<Part>,
        length: u64,
    ) -> Result<Vec<Digest>, DiskError> {
        self.wait().await?;
        let Some(state) = self.idle.take().filter(|state| !state.hashers.is_empty()) else {
            return Ok(Vec::new());
        };
        let part = part.clone();
        self.work = Some(group.start(Threads::Blocking, move || state.advance(&part, length)));
        self.wait().await?;
        let state = self.idle.take().expect("the work ended");
        Ok(state
            .hashers
            .into_iter()
            .map(DigestHasher::finish)
            .collect())
    }
}
