//! The changes of a session: each is a function of the session, of what happened and of the time.

use crate::format::upload::{SessionId, Sha256};

use super::{
    Change, Declared, Disproved, FinishedPart, Goal, LEASE_S, Now, Owner, PartsChange, Problem,
    Published, Refusal, Session, Staging, State, TOUCH_EVERY_S,
};

/// What [`Session::begin_finalize`] leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// This server publishes, once the change is stored.
    Run(Box<Change>),
    /// A server does.
    Working,
    /// It was published.
    Done(Published),
}
impl Session {
    /// A new session.
    pub fn open(id: SessionId, owner: Owner, declared: Declared, now: Now) -> Session {
        Session {
            id,
            owner,
            declared,
            state: State::Open,
            version: 1,
            created_s: now.unix_s,
            last_alive_s: now.unix_s,
            alive_at_s: now.served_s,
            is_warned: false,
            staging: Staging::None,
            problem: None,
        }
    }

    /// How long no client used it.
    pub fn idle_s(&self, now: Now) -> u64 {
        now.served_s.saturating_sub(self.alive_at_s)
    }

    /// The next version.
    fn next(&self, state: State) -> Session {
        Session {
            state,
            version: self.version + 1,
            ..self.clone()
        }
    }

    /// The next version, which a client caused.
    fn used(&self, state: State, now: Now) -> Session {
        Session {
            last_alive_s: now.unix_s,
            alive_at_s: self.alive_at_s.max(now.served_s),
            is_warned: false,
            ..self.next(state)
        }
    }

    /// Whether it takes parts.
    pub fn takes_parts(&self) -> Result<(), Refusal> {
        match &self.state {
            State::Open => Ok(()),
            State::Finalizing { .. } => Err(Refusal::Finalizing),
            State::Done(_) => Err(Refusal::SessionDone),
            State::Failed => Err(Refusal::SessionEnded("failed")),
            State::Expired => Err(Refusal::SessionEnded("expired")),
            State::Aborted => Err(Refusal::SessionEnded("was aborted")),
        }
    }

    /// Whether it takes a part of this length.
    pub fn takes_part(&self, index: u32, length: u64) -> Result<(), Refusal> {
        self.takes_parts()?;
        match self.declared.plan.allows(index, length) {
            true => Ok(()),
            false => Err(Refusal::BadPart { index, length }),
        }
    }

    /// A client used it. `None`: that was noted a moment ago, or there is nothing that could expire.
    pub fn touched(&self, now: Now) -> Option<Change> {
        let is_due = self.state.is_live() && self.idle_s(now) >= TOUCH_EVERY_S;
        is_due.then(|| self.used(self.state.clone(), now).into())
    }

    /// The storage is ready. `None`: it was, or is no longer needed.
    pub fn begun(&self, handle: &str) -> Option<Change> {
        let is_first = self.state.is_live() && self.staging == Staging::None;
        is_first.then(|| {
            let staging = Staging::Begun(handle.to_owned());
            let next = self.next(self.state.clone());
            Session { staging, ..next }.into()
        })
    }

    /// A part is finished; `finished` is what is stored of it. Asked before the storage proves it, and again with what was
    /// proven. `None`: that is stored already.
    pub fn put_part(
        &self,
        finished: Option<&FinishedPart>,
        part: &FinishedPart,
        replace: bool,
        now: Now,
    ) -> Result<Option<Change>, Refusal> {
        self.takes_part(part.index, part.length)?;
        match finished {
            Some(same) if same == part => return Ok(None),
            Some(other) if other.sha256 != part.sha256 && !replace => {
                return Err(Refusal::PartFinished {
                    index: part.index,
                    finished: other.sha256,
                    offered: part.sha256,
                });
            }
            _ => (),
        }
        Ok(Some(Change {
            session: self.used(State::Open, now),
            parts: PartsChange::Put(part.clone()),
        }))
    }

    /// A client says that all parts are there. `parts`: those that are finished, of this version.
    pub fn begin_finalize(
        &self,
        parts: &[FinishedPart],
        goal: Goal,
        now: Now,
    ) -> Result<Begin, Refusal> {
        match &self.state {
            State::Open => (),
            State::Finalizing { goal: begun, .. } if *begun != self.completed(goal)? => {
                return Err(Refusal::Finalizing);
            }
            State::Finalizing { .. } => {
                let taken_over = self.taken_over(false, now);
                return Ok(taken_over.map_or(Begin::Working, |change| Begin::Run(Box::new(change))));
            }
            State::Done(done) => {
                let is_same =
                    done.length == goal.length && goal.root.is_none_or(|root| root == done.root);
                return match is_same {
                    true => Ok(Begin::Done(*done)),
                    false => Err(Refusal::SessionDone),
                };
            }
            State::Failed | State::Expired | State::Aborted => self.takes_parts()?,
        }
        let goal = self.completed(goal)?;
        self.all_finished(parts, goal.length)?;
        let state = State::Finalizing {
            goal,
            attempt: 1,
            lease_until_s: now.served_s + LEASE_S,
        };
        let session = Session {
            problem: None,
            ..self.used(state, now)
        };
        Ok(Begin::Run(Box::new(session.into())))
    }

    /// A goal with what was declared before.
    fn completed(&self, goal: Goal) -> Result<Goal, Refusal> {
        let declared = &self.declared;
        if let Some(found) = declared.plan.length()
            && found != goal.length
        {
            let expected = goal.length;
            return Err(Refusal::LengthDiffers { expected, found });
        }
        let root_differs = declared
            .root
            .is_some_and(|mine| goal.root.is_some_and(|root| root != mine));
        let differs = |mine: Sha256| goal.sha256.is_some_and(|sha256| sha256 != mine);
        if root_differs || declared.sha256.is_some_and(differs) {
            return Err(Refusal::SessionDiffers);
        }
        Ok(Goal {
            length: goal.length,
            root: goal.root.or(declared.root),
            sha256: goal.sha256.or(declared.sha256),
            replace: goal.replace || declared.replace,
        })
    }

    /// Whether these are all parts of an object of this length.
    fn all_finished(&self, parts: &[FinishedPart], length: u64) -> Result<(), Refusal> {
        let plan = self.declared.plan.with_length(length)?;
        let count = plan.count().unwrap_or_default();
        if parts.last().is_some_and(|last| last.index >= count) {
            let found = parts.iter().map(|part| part.length).sum();
            let expected = length;
            return Err(Refusal::LengthDiffers { expected, found });
        }
        let is_whole = |part: &&FinishedPart| plan.allows(part.index, part.length);
        let mut whole = parts
            .iter()
            .filter(is_whole)
            .map(|part| part.index)
            .peekable();
        let missing = (0..count).filter(|index| whole.next_if_eq(index).is_none());
        let missing: Vec<u32> = missing.collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Refusal::PartsMissing { missing }),
        }
    }

    /// Another server goes on where one ended. `is_alone`: no other one runs, so that a lease means nothing.
    pub fn taken_over(&self, is_alone: bool, now: Now) -> Option<Change> {
        let State::Finalizing {
            goal,
            attempt,
            lease_until_s,
        } = &self.state
        else {
            return None;
        };
        let is_free = is_alone || *lease_until_s <= now.served_s;
        is_free.then(|| {
            let state = State::Finalizing {
                goal: *goal,
                attempt: attempt + 1,
                lease_until_s: now.served_s + LEASE_S,
            };
            self.next(state).into()
        })
    }

    /// The server that publishes is still there.
    pub fn renewed(&self, attempt: u32, now: Now) -> Option<Change> {
        self.leased(attempt, now.served_s + LEASE_S)
            .map(Change::from)
    }

    /// The attempt ended, and whether it published is not known: any server may go on.
    pub fn interrupted(&self, attempt: u32, problem: Problem) -> Option<Change> {
        let session = self.leased(attempt, 0)?;
        let problem = Some(problem);
        Some(Session { problem, ..session }.into())
    }

    fn leased(&self, by: u32, lease_until_s: u64) -> Option<Session> {
        match &self.state {
            State::Finalizing { goal, attempt, .. } if *attempt == by => {
                Some(self.next(State::Finalizing {
                    goal: *goal,
                    attempt: by,
                    lease_until_s,
                }))
            }
            _ => None,
        }
    }

    /// The storage published the object, whoever asked it to. `None`: it is known, or the session ended before.
    pub fn published(&self, published: Published, now: Now) -> Option<Change> {
        let session = || self.used(State::Done(published), now);
        self.state.is_live().then(|| {
            let problem = None;
            Session {
                problem,
                ..session()
            }
            .into()
        })
    }

    /// This attempt published nothing: the session is open again. `None`: it is not the attempt of the session any more.
    pub fn disproved(&self, by: u32, why: &Disproved, now: Now) -> Option<Change> {
        let is_current = matches!(&self.state, State::Finalizing { attempt, .. } if *attempt == by);
        is_current.then(|| Change {
            session: Session {
                problem: Some(why.problem()),
                ..self.used(State::Open, now)
            },
            parts: match why.wrong_parts() {
                [] => PartsChange::None,
                wrong => PartsChange::Remove(wrong.to_vec()),
            },
        })
    }

    /// What was staged is gone. `None`: it is not needed any more.
    pub fn lost(&self, problem: Problem, now: Now) -> Option<Change> {
        self.state.is_live().then(|| {
            let problem = Some(problem);
            let session = self.used(State::Failed, now);
            Session { problem, ..session }.into()
        })
    }

    /// The client gives it up. `None`: it has ended without an object.
    pub fn aborted(&self, now: Now) -> Result<Option<Change>, Refusal> {
        match self.takes_parts() {
            Ok(()) => Ok(Some(self.used(State::Aborted, now).into())),
            Err(Refusal::SessionEnded(_)) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// No client used it for so long. What is being published does not expire.
    pub fn expired(&self, ttl_s: u64, now: Now) -> Option<Change> {
        let is_stale = self.state == State::Open && self.idle_s(now) >= ttl_s;
        // When it ended is noted as its last use: it is kept for some time after.
        is_stale.then(|| {
            let last_alive_s = self.last_alive_s;
            let ended = self.used(State::Expired, now);
            Session {
                last_alive_s,
                ..ended
            }
            .into()
        })
    }

    /// Three quarters of its life have passed without a client, and the owner was not told.
    pub fn warned(&self, ttl_s: u64, now: Now) -> Option<Change> {
        let is_due =
            self.state == State::Open && !self.is_warned && self.idle_s(now) >= ttl_s / 4 * 3;
        is_due.then(|| {
            let is_warned = true;
            let next = self.next(State::Open);
            Session { is_warned, ..next }.into()
        })
    }

    /// What was staged is removed, after the end of the session.
    pub fn unstaged(&self) -> Option<Change> {
        let has_some = !self.state.is_live() && self.staging != Staging::Removed;
        has_some.then(|| {
            let staging = Staging::Removed;
            let next = self.next(self.state.clone());
            Session { staging, ..next }.into()
        })
    }

    /// Whether nothing is lost with it.
    pub fn can_be_forgotten(&self, ttl_s: u64, now: Now) -> bool {
        !self.state.is_live() && self.staging == Staging::Removed && self.idle_s(now) >= ttl_s
    }
}

impl From<Session> for Change {
    fn from(session: Session) -> Change {
        let parts = PartsChange::None;
        Change { session, parts }
    }
}
