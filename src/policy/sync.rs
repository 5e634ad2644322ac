//! What a sync does to a folder so that it becomes what an index says: nothing else decides it. Files are named by their places in
//! the two lists that come in.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crate::format::{
    library::{Entry, LibraryPath},
    tree::Root,
};

use super::filters::Filters;

/// A file of the folder that a library could list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Relative to the folder.
    pub path: LibraryPath,
    /// No link and no device.
    pub is_regular: bool,
    /// In bytes.
    pub length: u64,
    /// `None`: an index cannot say it.
    pub modified_ns: Option<i64>,
    /// Whether its owner may execute it.
    pub is_executable: bool,
    /// `None`: not known.
    pub root: Option<Root>,
}

/// How many files may be deleted at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteMax {
    /// So many.
    Files(u64),
    /// So many percent of the files that are in the folder.
    Percent(u8),
}

impl fmt::Display for DeleteMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeleteMax::Files(most) => write!(f, "{most}"),
            DeleteMax::Percent(most) => write!(f, "{most}%"),
        }
    }
}

impl Default for DeleteMax {
    fn default() -> DeleteMax {
        DeleteMax::Percent(50)
    }
}

/// What the user wants.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// What is filtered out is neither fetched, nor replaced, nor deleted.
    pub filters: Filters,
    /// Delete what the index does not list.
    pub deletes: bool,
    /// Only with `deletes`.
    pub delete_max: DeleteMax,
}

/// How a listed file gets its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is as listed.
    Keep,
    /// Only its time or its executable bit differ.
    SetAttributes,
    /// By giving a local file this name: its own name goes, or gets another file.
    Move {
        /// The local file.
        from: usize,
    },
    /// From a local file, whose name may go afterwards.
    Copy {
        /// The local file.
        from: usize,
    },
    /// From the server.
    Fetch,
    /// With an earlier entry of the same root, which is fetched.
    FetchOnce {
        /// The earlier entry.
        with: usize,
    },
    /// Not at all.
    Refuse(Conflict),
}

/// Why a file cannot get its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A link or a device has its name.
    #[error("something that is no regular file has its name, and is never replaced")]
    NotRegular,
    /// A file that stays is where it needs a folder, or the other way round.
    #[error("{0} is in its way")]
    InTheWay(LibraryPath),
}

/// A listed file that is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The entry in the index.
    pub entry: usize,
    /// How it gets its content.
    pub action: Action,
    /// The local file of this path.
    pub here: Option<usize>,
    /// Files that go are in its way: it gets its name after the deletions.
    pub is_blocked: bool,
}

/// All that is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One for each selected entry, in their order.
    pub steps: Vec<Step>,
    /// Local files that the index does not list.
    pub deletions: Vec<usize>,
    /// Local files that the index does not list either, whose content gets another name.
    pub moved_away: Vec<usize>,
}

/// More files would be deleted than the user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says what it is")]
pub struct TooManyDeletions {
    pub deletions: u64,
    pub files: u64,
}

impl Wishes {
    /// The local files whose roots are to be found out: what has the length of the entry of its path, and what may be a file that is
    /// listed under another name.
    pub fn to_read(&self, listed: &[Entry], here: &[Local]) -> Vec<usize> {
        let pairs = Pairs::of(listed, here);
        let is_missing = |(entry, local): &(&Entry, &Option<usize>)| {
            let root = local.and_then(|local| here[local].root);
            root != Some(entry.root) && self.filters.select(&entry.path)
        };
        let lengths: HashSet<u64> = (listed.iter().zip(&pairs.local_of))
            .filter(is_missing)
            .map(|(entry, _)| entry.length)
            .collect();
        let is_wanted = |local: &Local| {
            local.is_regular && local.root.is_none() && lengths.contains(&local.length)
        };
        (0..here.len())
            .filter(|index| is_wanted(&here[*index]))
            .collect()
    }

    /// What is to be done. `listed` is in the order of an index.
    pub fn plan(&self, listed: &[Entry], here: &[Local]) -> Result<Plan, TooManyDeletions> {
        let plan = self.unchecked_plan(listed, here);
        self.check(&plan, here).map(|()| plan)
    }

    /// [`Wishes::plan`], also if more files would be deleted than the user allows.
    pub fn unchecked_plan(&self, listed: &[Entry], here: &[Local]) -> Plan {
        let mut planning = Planning::new(self, listed, here);
        let mut steps: Vec<Step> = (0..listed.len())
            .filter(|entry| self.filters.select(&listed[*entry].path))
            .map(|entry| planning.first_step(entry))
            .collect();
        planning.find_sources(&steps);
        for step in &mut steps {
            planning.find_content(step);
        }
        let goes = (0..here.len()).filter(|local| planning.goes[*local]);
        let (moved_away, deletions) = goes.partition(|local| planning.is_moved[*local]);
        Plan {
            steps,
            deletions,
            moved_away,
        }
    }

    fn check(&self, plan: &Plan, here: &[Local]) -> Result<(), TooManyDeletions> {
        let deletions = plan.deletions.len() as u64;
        let files = here.iter().filter(|local| local.is_regular).count() as u64;
        let everything_goes = plan.steps.is_empty() && self.delete_max != DeleteMax::Percent(100);
        let is_allowed = match self.delete_max {
            _ if deletions == 0 => true,
            _ if everything_goes => false,
            DeleteMax::Files(most) => deletions <= most,
            DeleteMax::Percent(most) => deletions * 100 <= files * u64::from(most),
        };
        match is_allowed {
            true => Ok(()),
            false => Err(TooManyDeletions { deletions, files }),
        }
    }
}

/// The files that both lists have.
struct Pairs {
    /// The local file of each entry.
    local_of: Vec<Option<usize>>,
    /// The local files in the order of their paths.
    in_order: Vec<usize>,
    /// Of each local file: whether it is listed.
    is_listed: Vec<bool>,
}

impl Pairs {
    fn of(listed: &[Entry], here: &[Local]) -> Pairs {
        let mut in_order: Vec<usize> = (0..here.len()).collect();
        in_order.sort_by(|a, b| here[*a].path.cmp(&here[*b].path));
        let mut is_listed = vec![false; here.len()];
        let mut local_of = Vec::with_capacity(listed.len());
        let mut rest = in_order.iter().copied().peekable();
        for entry in listed {
            while rest
                .next_if(|local| here[*local].path < entry.path)
                .is_some()
            {}
            let local = rest.next_if(|local| here[*local].path == entry.path);
            if let Some(local) = local {
                is_listed[local] = true;
            }
            local_of.push(local);
        }
        Pairs {
            local_of,
            in_order,
            is_listed,
        }
    }
}

/// The two lists, and what is decided of the local files.
struct Planning<'a> {
    listed: &'a [Entry],
    here: &'a [Local],
    pairs: Pairs,
    /// Not listed, and to be deleted or moved.
    goes: Vec<bool>,
    /// Content that loses its name, by root; the last one is taken first.
    leaving: HashMap<Root, Vec<usize>>,
    /// Any local file of a root.
    any: HashMap<Root, usize>,
    /// Became the content of another path.
    is_moved: Vec<bool>,
    /// The first entry of a root that is fetched.
    fetched: HashMap<Root, usize>,
}

impl<'a> Planning<'a> {
    fn new(wishes: &Wishes, listed: &'a [Entry], here: &'a [Local]) -> Planning<'a> {
        let pairs = Pairs::of(listed, here);
        let goes = |(local, is_listed): (&Local, &bool)| {
            wishes.deletes && local.is_regular && !is_listed && wishes.filters.select(&local.path)
        };
        Planning {
            listed,
            here,
            goes: here.iter().zip(&pairs.is_listed).map(goes).collect(),
            pairs,
            leaving: HashMap::new(),
            any: HashMap::new(),
            is_moved: vec![false; here.len()],
            fetched: HashMap::new(),
        }
    }

    /// The local file of this path.
    fn at(&self, path: &str) -> Option<usize> {
        let in_order = &self.pairs.in_order;
        let order = |local: &usize| LibraryPath::order(self.here[*local].path.as_str(), path);
        let found = in_order.binary_search_by(order).ok()?;
        Some(in_order[found])
    }

    /// What is known of an entry before it is known where its content comes from: `Fetch` stands for all that is to be replaced.
    fn first_step(&self, entry: usize) -> Step {
        let listed = &self.listed[entry];
        let here = self.pairs.local_of[entry];
        let step = |action, is_blocked| Step {
            entry,
            action,
            here,
            is_blocked,
        };
        let Some(local) = here.map(|here| &self.here[here]) else {
            return match self.in_the_way(&listed.path) {
                Err(conflict) => step(Action::Refuse(conflict), false),
                Ok(is_blocked) => step(Action::Fetch, is_blocked),
            };
        };
        let has_attributes = local.modified_ns == Some(listed.modified_ns)
            && local.is_executable == listed.is_executable;
        match local.root == Some(listed.root) {
            _ if !local.is_regular => step(Action::Refuse(Conflict::NotRegular), false),
            true if has_attributes => step(Action::Keep, false),
            true => step(Action::SetAttributes, false),
            false => step(Action::Fetch, false),
        }
    }

    /// Whether files that go are in the way of this path; an error if one stays.
    fn in_the_way(&self, path: &LibraryPath) -> Result<bool, Conflict> {
        let text = path.as_str();
        let folders = text.match_indices('/').map(|(end, _)| &text[..end]);
        let above = folders.filter_map(|folder| self.at(folder));
        let in_order = &self.pairs.in_order;
        let after = in_order.partition_point(|local| self.here[*local].path <= *path);
        let below = in_order[after..].iter().copied();
        let below = below.take_while(|local| path.is_folder_of(&self.here[*local].path));
        let mut is_blocked = false;
        for local in above.chain(below) {
            if !self.goes[local] {
                return Err(Conflict::InTheWay(self.here[local].path.clone()));
            }
            is_blocked = true;
        }
        Ok(is_blocked)
    }

    /// Finds the content that is here.
    fn find_sources(&mut self, steps: &[Step]) {
        let mut leaves = self.goes.clone();
        let mut wanted = HashSet::new();
        for step in steps.iter().filter(|step| step.action == Action::Fetch) {
            wanted.insert(self.listed[step.entry].root);
            if let Some(here) = step.here {
                leaves[here] = true;
            }
        }
        for (index, local) in self.here.iter().enumerate().rev() {
            if let Some(root) = local
                .root
                .filter(|root| local.is_regular && wanted.contains(root))
            {
                self.any.insert(root, index);
                if leaves[index] {
                    self.leaving.entry(root).or_default().push(index);
                }
            }
        }
    }

    /// Decides where the content of an entry comes from.
    fn find_content(&mut self, step: &mut Step) {
        if step.action != Action::Fetch {
            return;
        }
        let root = self.listed[step.entry].root;
        let leaving = self.leaving.get_mut(&root).and_then(Vec::pop);
        step.action = match (leaving, self.any.get(&root), self.fetched.get(&root)) {
            (Some(from), _, _) => {
                self.is_moved[from] = true;
                Action::Move { from }
            }
            (None, Some(from), _) => Action::Copy { from: *from },
            (None, None, Some(with)) => Action::FetchOnce { with: *with },
            (None, None, None) => {
                self.fetched.insert(root, step.entry);
                Action::Fetch
            }
        };
    }
}

#[cfg(test)]
mod tests;
