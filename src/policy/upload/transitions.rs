//! The changes of a session: each is a function of the session, of what happened and of the time.

use crate::format::{
    notice::{Notice, NoticeEvent},
    upload::{SessionId, Sha256},
};

use super::{
    Change, Declared, Disproved, FinishedPart, Goal, LEASE_S, Now, Owner, PartsChange, Problem,
    Published, Refusal, Session, Staging, State, TOUCH_EVERY_S, WARN_S,
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

    /// Whether a request with these values is the same as the one that opened the session. Sizes that it does not give were chosen.
    pub fn is_opened_by(
        &self,
        declared: &Declared,
        part_size_given: bool,
        block_size_given: bool,
    ) -> bool {
        let mut declared = declared.clone();
        if let State::Done(_) = self.state {
            // It may have been given at the end.
            declared.sha256 = declared.sha256.or(self.declared.sha256);
        }
        self.declared
            .is_same(&declared, part_size_given, block_size_given)
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
            notices: Vec::new(),
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
                match (self.declared.sha256, goal.sha256) {
                    (Some(proven), Some(other)) if other != proven => {
                        return Err(Refusal::SessionDiffers);
                    }
                    // The object was not compared with it.
                    (None, Some(_)) => return Err(Refusal::SessionDone),
                    _ => (),
                }
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
        let proven = match &self.state {
            State::Finalizing { goal, .. } => goal.sha256,
            _ => None,
        };
        self.state.is_live().then(|| {
            let mut session = self.used(State::Done(published), now);
            session.problem = None;
            session.declared.sha256 = session.declared.sha256.or(proven);
            let notices = vec![told(NoticeEvent::Published, now)];
            Change {
                notices,
                ..session.into()
            }
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
            notices: Vec::new(),
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

    /// It expires soon, and the owner was not told.
    pub fn warned(&self, ttl_s: u64, now: Now) -> Option<Change> {
        let left_s = ttl_s.saturating_sub(self.idle_s(now));
        let is_soon = left_s <= WARN_S.min(ttl_s / 4);
        (self.state == State::Open && !self.is_warned && is_soon).then(|| {
            let is_warned = true;
            let next = self.next(State::Open);
            let expires_s = now.unix_s + left_s;
            let event = NoticeEvent::SessionExpiring { expires_s };
            Change {
                notices: vec![told(event, now)],
                ..Session { is_warned, ..next }.into()
            }
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

fn told(event: NoticeEvent, now: Now) -> Notice {
    let unix_s = now.unix_s;
    Notice { unix_s, event }
}

impl From<Session> for Change {
    fn from(session: Session) -> Change {
        Change {
            session,
            parts: PartsChange::None,
            notices: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::tree::Root,
        policy::{parts::PartPlan, upload},
    };

    const PART: u64 = 5 << 20;
    const TTL_S: u64 = 7200;
    const GOAL: Goal = Goal {
        length: 2 * PART,
        root: None,
        sha256: None,
        replace: false,
    };

    fn at(served_s: u64) -> Now {
        Now {
            unix_s: 1_000_000 + served_s,
            served_s,
        }
    }

    fn part(index: u32, content: u8) -> FinishedPart {
        FinishedPart {
            index,
            length: PART,
            sha256: Sha256([content; 32]),
            etag: None,
        }
    }

    fn open() -> Session {
        let declared = Declared {
            name: upload::name("talk.mp4").unwrap(),
            plan: PartPlan::new(
                Some(2 * PART),
                PART,
                crate::format::geometry::BlockSize::DEFAULT,
            )
            .unwrap(),
            root: None,
            sha256: None,
            replace: false,
            growing: false,
            protocol: upload::Protocol::default(),
        };
        let id = SessionId::from_random([1; 16]);
        Session::open(id, Owner("ann".into()), declared, at(100))
    }

    fn published() -> Published {
        Published {
            length: 2 * PART,
            root: Root([1; 32]),
        }
    }

    fn problem() -> Problem {
        Problem {
            code: "storage_failed".into(),
            detail: String::new(),
        }
    }

    fn finalizing() -> State {
        State::Finalizing {
            goal: GOAL,
            attempt: 1,
            lease_until_s: 220,
        }
    }

    fn states() -> [State; 6] {
        [
            State::Open,
            finalizing(),
            State::Done(published()),
            State::Failed,
            State::Expired,
            State::Aborted,
        ]
    }

    /// Every change in every state: what follows, or the code of the refusal, or `-`: nothing.
    #[test]
    fn every_transition() {
        let state =
            |change: Option<Change>| change.map_or("-", |change| change.session.state.name());
        let refused = |result: Result<Option<Change>, Refusal>| match result {
            Ok(change) => state(change),
            Err(refusal) => refusal.code(),
        };
        let begin = |session: &Session, goal, served_s| match session.begin_finalize(
            &[part(0, 1), part(1, 1)],
            goal,
            at(served_s),
        ) {
            Ok(Begin::Run(change)) => change.session.state.name(),
            Ok(Begin::Working) => "working",
            Ok(Begin::Done(_)) => "published",
            Err(refusal) => refusal.code(),
        };
        let other = Goal {
            root: Some(Root([9; 32])),
            ..GOAL
        };
        let wrong = Disproved::Parts(vec![1]);
        let expected = [
            // open, finalizing, done, failed, expired, aborted
            [
                "open",
                "finalizing",
                "session_done",
                "session_ended",
                "session_ended",
                "session_ended",
            ],
            [
                "finalizing",
                "working",
                "published",
                "session_ended",
                "session_ended",
                "session_ended",
            ],
            [
                "finalizing",
                "finalizing",
                "published",
                "session_ended",
                "session_ended",
                "session_ended",
            ],
            [
                "finalizing",
                "finalizing",
                "session_done",
                "session_ended",
                "session_ended",
                "session_ended",
            ],
            ["aborted", "finalizing", "session_done", "-", "-", "-"],
            ["done", "done", "-", "-", "-", "-"],
            ["-", "open", "-", "-", "-", "-"],
            ["-", "-", "-", "-", "-", "-"],
            ["-", "finalizing", "-", "-", "-", "-"],
            ["-", "finalizing", "-", "-", "-", "-"],
            ["-", "finalizing", "-", "-", "-", "-"],
            ["failed", "failed", "-", "-", "-", "-"],
            ["expired", "-", "-", "-", "-", "-"],
            ["open", "finalizing", "-", "-", "-", "-"],
            ["-", "-", "done", "failed", "expired", "aborted"],
        ];
        for (number, before) in states().into_iter().enumerate() {
            let session = Session {
                state: before.clone(),
                ..open()
            };
            let found = [
                refused(session.put_part(None, &part(0, 1), false, at(101))),
                begin(&session, GOAL, 101),
                begin(&session, GOAL, 220),
                begin(&session, other, 220),
                refused(session.aborted(at(101))),
                state(session.published(published(), at(101))),
                state(session.disproved(1, &wrong, at(101))),
                state(session.disproved(2, &wrong, at(101))),
                state(session.renewed(1, at(101))),
                state(session.interrupted(1, problem())),
                state(session.taken_over(false, at(220))),
                state(session.lost(problem(), at(101))),
                state(session.expired(TTL_S, at(100 + TTL_S))),
                state(session.touched(at(100 + TOUCH_EVERY_S))),
                state(session.unstaged()),
            ];
            for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(*found, expected[number], "row {row}, {}", before.name());
            }
        }
    }

    #[test]
    fn every_change_is_the_next_version_and_uses_are_noted() {
        let session = open();
        let changes = [
            session
                .put_part(None, &part(0, 1), false, at(500))
                .unwrap()
                .unwrap(),
            session.aborted(at(500)).unwrap().unwrap(),
            session.touched(at(500)).unwrap(),
            session.begun("a").unwrap(),
            session.expired(TTL_S, at(100 + TTL_S)).unwrap(),
            session.warned(TTL_S, at(100 + TTL_S)).unwrap(),
            session.published(published(), at(500)).unwrap(),
        ];
        for change in &changes {
            assert_eq!(change.session.version, session.version + 1);
        }
        let used = |change: &Change| change.session.alive_at_s;
        assert_eq!(
            changes.each_ref().map(used),
            [500, 500, 500, 100, 100 + TTL_S, 100, 500]
        );
        assert_eq!(
            changes[4].session.last_alive_s, session.last_alive_s,
            "nobody used it"
        );
        // A server whose clock is behind takes no life from it.
        let earlier = session
            .put_part(None, &part(0, 1), false, at(5))
            .unwrap()
            .unwrap();
        assert_eq!(used(&earlier), 100);
        assert!(session.touched(at(100 + TOUCH_EVERY_S - 1)).is_none());
        assert!(session.expired(TTL_S, at(100 + TTL_S - 1)).is_none());
        assert!(session.warned(TTL_S, at(100 + TTL_S * 3 / 4 - 1)).is_none());
        let warned = &changes[5].session;
        assert!(warned.warned(TTL_S, at(100 + TTL_S)).is_none(), "told once");
        assert!(!warned.touched(at(9000)).unwrap().session.is_warned);
        assert!(
            session.begun("a").unwrap().session.begun("b").is_none(),
            "the first is used"
        );
    }

    #[test]
    fn a_finished_part_is_replaced_only_on_request() {
        let session = open();
        let put = |finished: Option<&FinishedPart>, new: &FinishedPart, replace| {
            let change = session.put_part(finished, new, replace, at(101));
            change.map(|change| change.is_some())
        };
        let (one, two) = (part(0, 1), part(0, 2));
        assert_eq!(put(None, &one, false), Ok(true));
        assert_eq!(put(Some(&one), &one, false), Ok(false));
        assert_eq!(
            put(Some(&one), &two, false).unwrap_err().code(),
            "part_finished"
        );
        assert_eq!(put(Some(&one), &two, true), Ok(true));
        // The same bytes, stored again under another tag.
        let tagged = FinishedPart {
            etag: Some("e".into()),
            ..one.clone()
        };
        assert_eq!(put(Some(&one), &tagged, false), Ok(true));
        for (index, length) in [(2, PART), (0, PART - 1), (0, 0)] {
            let odd = FinishedPart {
                index,
                length,
                ..one.clone()
            };
            assert_eq!(put(None, &odd, true).unwrap_err().code(), "bad_part");
        }
    }

    #[test]
    fn only_all_parts_are_finalized() {
        let session = open();
        let begin = |session: &Session, parts: &[FinishedPart], goal| match session.begin_finalize(
            parts,
            goal,
            at(101),
        ) {
            Ok(_) => "ok",
            Err(Refusal::PartsMissing { missing }) if missing == [0] => "0 is missing",
            Err(Refusal::PartsMissing { missing }) if missing == [1] => "1 is missing",
            Err(refusal) => refusal.code(),
        };
        let all = [part(0, 1), part(1, 1)];
        assert_eq!(begin(&session, &all, GOAL), "ok");
        assert_eq!(begin(&session, &all[..1], GOAL), "1 is missing");
        assert_eq!(begin(&session, &all[1..], GOAL), "0 is missing");
        let short = [
            FinishedPart {
                length: 5,
                ..part(0, 1)
            },
            part(1, 1),
        ];
        assert_eq!(begin(&session, &short, GOAL), "0 is missing");
        assert_eq!(
            begin(
                &session,
                &all,
                Goal {
                    length: PART,
                    ..GOAL
                }
            ),
            "length_differs"
        );
        let mut unknown = open();
        unknown.declared.plan = PartPlan::choose(None, Some(PART), None).unwrap();
        assert_eq!(begin(&unknown, &all, GOAL), "ok");
        assert_eq!(
            begin(
                &unknown,
                &all,
                Goal {
                    length: PART,
                    ..GOAL
                }
            ),
            "length_differs"
        );
        assert_eq!(
            begin(
                &unknown,
                &all,
                Goal {
                    length: PART + 5,
                    ..GOAL
                }
            ),
            "1 is missing"
        );
        assert_eq!(
            begin(
                &unknown,
                &all,
                Goal {
                    length: u64::MAX,
                    ..GOAL
                }
            ),
            "bad_size"
        );
        let mut declared = open();
        declared.declared.root = Some(Root([1; 32]));
        assert_eq!(begin(&declared, &all, GOAL), "ok");
        assert_eq!(
            begin(
                &declared,
                &all,
                Goal {
                    root: Some(Root([2; 32])),
                    ..GOAL
                }
            ),
            "session_differs"
        );
        let change = match declared.begin_finalize(&all, GOAL, at(101)) {
            Ok(Begin::Run(change)) => change.session.state,
            other => panic!("{other:?}"),
        };
        assert!(
            matches!(change, State::Finalizing { goal, .. } if goal.root == Some(Root([1; 32])))
        );
    }
}
