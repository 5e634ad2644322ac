//! How much is done at a time, and how much of it for one owner: nobody keeps all others out.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::upload::Owner;

/// One owner has at most three of four turns.
const SHARE: (usize, usize) = (3, 4);

/// So many turns, and the share of each owner. Owners are those of the file of tokens, so they are few.
pub struct Turns {
    all: Arc<Semaphore>,
    share: usize,
    own: Mutex<HashMap<Owner, Arc<Semaphore>>>,
}

/// The right to do one thing, until it is dropped.
pub struct Turn(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Turns {
    /// So many.
    pub fn new(count: usize) -> Turns {
        Turns {
            all: Arc::new(Semaphore::new(count)),
            share: (count * SHARE.0 / SHARE.1).max(1),
            own: Mutex::default(),
        }
    }

    fn of(&self, owner: &Owner) -> Arc<Semaphore> {
        let mut own = self.own.lock();
        let of_owner = own.entry(owner.clone());
        let new = || Arc::new(Semaphore::new(self.share));
        of_owner.or_insert_with(new).clone()
    }

    /// Waits for a turn. The share comes first: who waits for it takes no turn from others.
    pub async fn take(&self, owner: &Owner) -> Option<Turn> {
        let own = self.of(owner).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn([own, all]))
    }

    /// A turn, if there is one now.
    pub fn try_take(&self, owner: &Owner) -> Option<Turn> {
        let own = self.of(owner).try_acquire_owned().ok()?;
        let all = self.all.clone().try_acquire_owned().ok()?;
        Some(Turn([own, all]))
    }
}
