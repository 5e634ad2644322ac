//! What is removed when nobody needs it: sessions that no client uses, what is staged of those that ended, and what no session
//! knows.

use std::collections::{HashMap, HashSet};

use crate::{
    engine::storage::Staged,
    policy::upload::{Session, Staging},
};

use super::{Changed, FinalizeRun, Ingest, IngestError, IngestEvent, Orphan};

/// Sessions that are looked at together.
const PAGE: u32 = 500;
/// A server sees a session unchanged for so long before it expires, whatever the store says of the time before; and what no session
/// knows stays so long, if nobody else can use the storage.
const GRACE_S: u64 = 3600;

/// What one collection found and did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Sessions that can still publish something.
    pub live: u64,
    /// Sessions that expired now.
    pub expired: u64,
    /// All that is staged.
    pub staged_bytes: u64,
    /// Of it, what no session knows.
    pub orphans: u64,
    /// The bytes of these.
    pub orphan_bytes: u64,
    /// Orphans that were removed now.
    pub orphans_removed: u64,
    /// Sessions whose server ended while it published: the caller runs them ([`Ingest::run`]).
    pub unfinished: Vec<FinalizeRun>,
    /// What could not be done; the next collection tries again.
    pub failures: Vec<IngestError>,
}

impl Ingest {
    /// Collects. A failure at one session does not keep the others.
    pub async fn collect(&self) -> Result<Collected, IngestError> {
        self.served.sync(&*self.store, &*self.clock).await?;
        let mut collected = Collected::default();
        // Before the sessions: what is staged now and belongs to none of them later is not that of a new one.
        let staged = self.storage.staged().await;
        let (mut needed, mut live) = (HashSet::new(), HashSet::new());
        let mut after = None;
        loop {
            let page = self.store.all(after, PAGE).await?;
            for session in &page {
                if let Staging::Begun(handle) = &session.staging {
                    needed.insert(handle.clone());
                }
                if session.staging == Staging::None && session.state.is_live() {
                    needed.extend(begun_for(session, staged.as_deref().unwrap_or_default()));
                }
                if session.state.is_live() {
                    live.insert(session.id);
                }
                if let Err(cause) = self.collect_one(session, &mut collected).await {
                    collected.failures.push(cause);
                }
            }
            match page.last() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        collected.live = live.len() as u64;
        self.unchanged.lock().retain(|id, _| live.contains(id));
        match staged {
            Ok(staged) => self.collect_orphans(staged, &needed, &mut collected).await,
            Err(cause) => collected.failures.push(cause.into()),
        }
        Ok(collected)
    }

    /// Whether this server itself has seen for long that no client uses the session. The seconds that the store has counted may be
    /// late, and a use was noted with them.
    fn is_seen_idle(&self, session: &Session) -> bool {
        let now_s = self.clock.monotonic_s();
        let mut unchanged = self.unchanged.lock();
        let seen = unchanged
            .entry(session.id)
            .or_insert((session.version, now_s));
        if seen.0 != session.version {
            *seen = (session.version, now_s);
        }
        now_s.saturating_sub(seen.1) >= GRACE_S.min(self.limits.ttl_s)
    }

    async fn collect_one(
        &self,
        session: &Session,
        collected: &mut Collected,
    ) -> Result<(), IngestError> {
        let (ttl_s, now) = (self.limits.ttl_s, self.now());
        if let Some(run) = self.take_over(session, false).await? {
            collected.unfinished.push(run);
            return Ok(());
        }
        if session.warned(ttl_s, now).is_some() {
            let changed = self.change(session.id, |session| Ok(session.warned(ttl_s, now)));
            if let Changed::To(session) = changed.await? {
                let in_s = ttl_s.saturating_sub(session.idle_s(now));
                self.tell(IngestEvent::ExpiresSoon { session, in_s });
            }
            return Ok(());
        }
        // A client that uses it meanwhile raises its version: then it is looked at again, and is not idle.
        let is_stale = self.is_seen_idle(session) && session.expired(ttl_s, now).is_some();
        let changed = match is_stale {
            true => {
                let changed = self.change(session.id, |session| Ok(session.expired(ttl_s, now)));
                changed.await?
            }
            false => Changed::Not(session.clone()),
        };
        if let Changed::To(session) = &changed {
            collected.expired += 1;
            self.tell(IngestEvent::Expired {
                session: session.clone(),
            });
        }
        let session = changed.session();
        self.unstage(&session).await?;
        if session.can_be_forgotten(ttl_s, now) {
            self.store.forget(session.id, session.version).await?;
        }
        Ok(())
    }

    /// Removes what no session has known for a while.
    async fn collect_orphans(
        &self,
        staged: Vec<Staged>,
        needed: &HashSet<String>,
        collected: &mut Collected,
    ) {
        let monotonic_s = self.clock.monotonic_s();
        let grace_s = match self.storage.is_exclusive() {
            true => GRACE_S.min(self.limits.ttl_s),
            // It may be an upload of somebody else.
            false => self.limits.ttl_s,
        };
        let mut seen = std::mem::take(&mut *self.orphans.lock());
        let mut orphans = HashMap::new();
        for staged in staged {
            collected.staged_bytes += staged.bytes;
            if needed.contains(&staged.handle) {
                continue;
            }
            let bytes = staged.bytes;
            let before = seen.remove(&staged.handle);
            let before = before.filter(|before| before.bytes == bytes);
            let since_s = before.map_or(monotonic_s, |before| before.since_s);
            let orphan = Orphan { bytes, since_s };
            collected.orphans += 1;
            collected.orphan_bytes += staged.bytes;
            if monotonic_s.saturating_sub(since_s) < grace_s {
                orphans.insert(staged.handle, orphan);
                continue;
            }
            match self.storage.remove(&staged).await {
                Ok(()) => {
                    collected.orphans_removed += 1;
                    self.tell(IngestEvent::OrphanRemoved { staged });
                }
                Err(cause) => {
                    orphans.insert(staged.handle, orphan);
                    collected.failures.push(cause.into());
                }
            }
        }
        *self.orphans.lock() = orphans;
    }
}

/// What is staged for a session that does not know it yet: a server that is about to store the handle may have begun it.
fn begun_for(session: &Session, staged: &[Staged]) -> Vec<String> {
    let of_session = |staged: &&Staged| staged.session == Some(session.id);
    let handles = staged.iter().filter(of_session);
    handles.map(|staged| staged.handle.clone()).collect()
}
