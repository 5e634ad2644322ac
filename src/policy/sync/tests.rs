use std::collections::BTreeMap;

use super::*;

fn path(text: &str) -> LibraryPath {
    LibraryPath::new(text).expect("a path")
}

/// The root of the content of this name, and its length.
fn content(name: u64) -> (Root, u64) {
    let root = Root(*blake3::hash(&name.to_le_bytes()).as_bytes());
    (root, 1 + name % 3)
}

fn entry(at: &str, name: u64) -> Entry {
    let (root, length) = content(name);
    Entry {
        path: path(at),
        length,
        root,
        modified_ns: 7,
        is_executable: false,
    }
}

fn local(at: &str, name: u64) -> Local {
    let (root, length) = content(name);
    Local {
        path: path(at),
        is_regular: true,
        length,
        modified_ns: Some(7),
        is_executable: false,
        root: Some(root),
    }
}

fn listed(entries: &[(&str, u64)]) -> Vec<Entry> {
    let mut listed: Vec<Entry> = entries.iter().map(|(at, name)| entry(at, *name)).collect();
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    listed
}

fn here(files: &[(&str, u64)]) -> Vec<Local> {
    files.iter().map(|(at, name)| local(at, *name)).collect()
}

fn deleting(delete_max: DeleteMax) -> Wishes {
    Wishes {
        deletes: true,
        delete_max,
        ..Wishes::default()
    }
}

/// The actions of a plan, in the order of the entries.
fn actions(wishes: &Wishes, entries: &[(&str, u64)], files: &[(&str, u64)]) -> Vec<Action> {
    let plan = wishes.plan(&listed(entries), &here(files)).expect("a plan");
    plan.steps.into_iter().map(|step| step.action).collect()
}

const ALL: DeleteMax = DeleteMax::Percent(100);

#[test]
fn content_that_is_here_is_never_fetched() {
    let all = &deleting(ALL);
    let keeps = &Wishes::default();
    // Nothing is here; two files of one content are fetched once.
    assert_eq!(
        actions(keeps, &[("a", 1), ("b", 1), ("c", 2)], &[]),
        [Action::Fetch, Action::FetchOnce { with: 0 }, Action::Fetch]
    );
    // Another name: moved if the old name goes, else copied.
    let renamed = (&[("new", 1)][..], &[("old", 1)][..]);
    assert_eq!(
        actions(all, renamed.0, renamed.1),
        [Action::Move { from: 0 }]
    );
    assert_eq!(
        actions(keeps, renamed.0, renamed.1),
        [Action::Copy { from: 0 }]
    );
    // Two swapped names, and three in a circle.
    let swapped = actions(keeps, &[("a", 1), ("b", 2)], &[("a", 2), ("b", 1)]);
    assert_eq!(
        swapped,
        [Action::Move { from: 1 }, Action::Move { from: 0 }]
    );
    let circle = actions(
        keeps,
        &[("a", 1), ("b", 2), ("c", 3)],
        &[("a", 2), ("b", 3), ("c", 1)],
    );
    let from = |from| Action::Move { from };
    assert_eq!(circle, [from(2), from(0), from(1)]);
    // One file goes and two come.
    assert_eq!(
        actions(all, &[("x", 1), ("y", 1)], &[("old", 1)]),
        [Action::Move { from: 0 }, Action::Copy { from: 0 }]
    );
}

#[test]
fn only_what_differs_is_done() {
    let wishes = Wishes::default();
    let mut files = here(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    files[1].modified_ns = Some(8);
    files[2].is_executable = true;
    files[3].modified_ns = None;
    let entries = listed(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let plan = wishes.plan(&entries, &files).expect("a plan");
    let actions: Vec<Action> = plan.steps.into_iter().map(|step| step.action).collect();
    assert_eq!(
        actions,
        [
            Action::Keep,
            Action::SetAttributes,
            Action::SetAttributes,
            Action::SetAttributes
        ]
    );
}

#[test]
fn a_move_is_no_deletion() {
    let half = deleting(DeleteMax::default());
    let files = here(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let refused =
        |entries: &[(&str, u64)], wishes: &Wishes| wishes.plan(&listed(entries), &files).err();
    let too_many = |deletions| {
        Some(TooManyDeletions {
            deletions,
            files: 4,
        })
    };
    assert_eq!(refused(&[("a", 1), ("b", 2)], &half), None);
    assert_eq!(refused(&[("a", 1)], &half), too_many(3));
    let renamed = [("w", 1), ("x", 2), ("y", 3), ("z", 4)];
    assert_eq!(refused(&renamed, &half), None);
    let of_files = |most| deleting(DeleteMax::Files(most));
    assert_eq!(refused(&[("a", 1), ("z", 4)], &of_files(2)), None);
    assert_eq!(refused(&[("a", 1)], &of_files(2)), too_many(3));
    assert_eq!(refused(&[("a", 1)], &of_files(0)), too_many(3));
    // An empty index deletes only if the user says 100 %.
    assert_eq!(refused(&[], &of_files(4)), too_many(4));
    assert_eq!(refused(&[], &deleting(DeleteMax::Percent(99))), too_many(4));
    assert_eq!(refused(&[], &deleting(ALL)), None);
    assert_eq!(refused(&[], &Wishes::default()), None);
}

#[test]
fn what_is_filtered_out_is_not_touched() {
    let wishes = Wishes {
        filters: Filters {
            include: Vec::new(),
            exclude: vec!["*.tmp".parse().expect("a pattern")],
        },
        ..deleting(ALL)
    };
    let entries = listed(&[("a", 1), ("b.tmp", 2), ("c.tmp", 3)]);
    let files = here(&[("b.tmp", 9), ("d.tmp", 1), ("e", 8)]);
    let plan = wishes.plan(&entries, &files).expect("a plan");
    // It may be read.
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].action, Action::Copy { from: 1 });
    assert_eq!(plan.deletions, [2]);
}

#[test]
fn what_is_no_regular_file_stays() {
    let wishes = deleting(ALL);
    let mut files = here(&[("a", 1), ("link", 2)]);
    for file in &mut files {
        (file.is_regular, file.root) = (false, None);
    }
    let plan = wishes.plan(&listed(&[("a", 1)]), &files).expect("a plan");
    assert_eq!(plan.steps[0].action, Action::Refuse(Conflict::NotRegular));
    assert!(plan.deletions.is_empty());
    // As a folder on the way, too.
    let plan = wishes.plan(&listed(&[("link/x", 1)]), &files).expect("one");
    let conflict = Conflict::InTheWay(path("link"));
    assert_eq!(plan.steps[0].action, Action::Refuse(conflict));
}

#[test]
fn a_file_becomes_a_folder_only_when_it_may_go() {
    for (entries, files) in [
        ([("a/b", 1)], [("a", 2)]),
        ([("a", 1)], [("a/b", 2)]),
        ([("a/b/c", 1)], [("a", 2)]),
    ] {
        let (entries, files) = (listed(&entries), here(&files));
        let plan = deleting(ALL).plan(&entries, &files).expect("a plan");
        assert!(plan.steps[0].is_blocked);
        assert_eq!(plan.steps[0].action, Action::Fetch);
        let plan = Wishes::default().plan(&entries, &files).expect("a plan");
        let conflict = Conflict::InTheWay(files[0].path.clone());
        assert_eq!(plan.steps[0].action, Action::Refuse(conflict));
    }
    // Its content may be that of the new file.
    let plan = deleting(ALL).plan(&listed(&[("a/b", 1)]), &here(&[("a", 1)]));
    let plan = plan.expect("a plan");
    assert_eq!(plan.steps[0].action, Action::Move { from: 0 });
    assert_eq!((plan.moved_away, plan.deletions), (vec![0], vec![]));
    // `a.b` is not below `a`.
    let plan = Wishes::default().plan(&listed(&[("a", 1)]), &here(&[("a.b", 2), ("a-b/c", 2)]));
    assert_eq!(plan.expect("a plan").steps[0].action, Action::Fetch);
}

#[test]
fn what_is_read_could_save_something() {
    let wishes = Wishes::default();
    let unknown = |at: &str, name| Local {
        root: None,
        ..local(at, name)
    };
    // Content 1 has 2 bytes, 2 has 3, 3 has 1.
    let entries = listed(&[("a", 1), ("b", 2)]);
    let mut link = unknown("link", 2);
    link.is_regular = false;
    let files = vec![
        local("a", 1),
        unknown("b", 2),
        unknown("other", 2),
        unknown("of a", 1),
        unknown("short", 3),
        link,
    ];
    assert_eq!(wishes.to_read(&entries, &files), [1, 2]);
    let files = here(&[("a", 1), ("b", 2)]);
    assert!(wishes.to_read(&entries, &files).is_empty());
}

/// A generator that is the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }

    /// Files with names and folders that often meet.
    fn tree(&mut self, most: u64) -> BTreeMap<LibraryPath, u64> {
        let names = [
            "a", "b", "a/b", "a/c", "b/a", "b/a/c", "c", "d.tmp", "a/d.tmp",
        ];
        let mut tree: BTreeMap<LibraryPath, u64> = BTreeMap::new();
        for _ in 0..self.below(most) {
            let at = path(names[self.below(names.len() as u64) as usize]);
            let meets = tree
                .keys()
                .any(|other| *other == at || other.is_folder_of(&at) || at.is_folder_of(other));
            if !meets {
                tree.insert(at, self.below(5));
            }
        }
        tree
    }
}

/// What a folder holds after the plan was carried out step by step; fails where a step needs what is not there.
fn carried_out(plan: &Plan, listed: &[Entry], here: &[Local]) -> BTreeMap<LibraryPath, Root> {
    let mut now: BTreeMap<LibraryPath, Root> = here
        .iter()
        .map(|local| (local.path.clone(), local.root.expect("known")))
        .collect();
    let meets = |now: &BTreeMap<LibraryPath, Root>, at: &LibraryPath| {
        now.keys()
            .any(|other| other.is_folder_of(at) || at.is_folder_of(other))
    };
    // Staged first.
    for step in &plan.steps {
        if let Action::Move { from } | Action::Copy { from } = step.action {
            assert_eq!(
                here[from].root,
                Some(listed[step.entry].root),
                "its content"
            );
        }
        if let Action::FetchOnce { with } = step.action {
            assert_eq!(listed[with].root, listed[step.entry].root);
        }
    }
    for is_blocked in [false, true] {
        for step in plan
            .steps
            .iter()
            .filter(|step| step.is_blocked == is_blocked)
        {
            let entry = &listed[step.entry];
            if !matches!(step.action, Action::Refuse(_)) {
                assert!(!meets(&now, &entry.path), "{}", entry.path);
                now.insert(entry.path.clone(), entry.root);
            }
        }
        if !is_blocked {
            for local in plan.moved_away.iter().chain(&plan.deletions) {
                assert!(now.remove(&here[*local].path).is_some(), "once");
            }
        }
    }
    now
}

#[test]
fn any_folder_becomes_what_any_index_says() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let (remote, before) = (random.tree(7), random.tree(7));
        let wishes = Wishes {
            filters: Filters {
                include: Vec::new(),
                exclude: match random.below(2) {
                    0 => vec![],
                    _ => vec!["*.tmp".parse().expect("a pattern")],
                },
            },
            deletes: random.below(2) == 1,
            delete_max: match random.below(3) {
                0 => ALL,
                1 => DeleteMax::default(),
                _ => DeleteMax::Files(random.below(4)),
            },
        };
        let entries: Vec<Entry> = remote
            .iter()
            .map(|(at, name)| entry(at.as_str(), *name))
            .collect();
        let files: Vec<Local> = before
            .iter()
            .map(|(at, name)| local(at.as_str(), *name))
            .collect();
        let is_extra = |local: &&Local| {
            !remote.contains_key(&local.path) && wishes.filters.select(&local.path)
        };
        let plan = match wishes.plan(&entries, &files) {
            Ok(plan) => plan,
            Err(refused) => {
                let extra = files.iter().filter(is_extra).count() as u64;
                assert!(wishes.deletes && refused.deletions <= extra, "seed {seed}");
                assert_eq!(refused.files, files.len() as u64, "seed {seed}");
                continue;
            }
        };
        let after = carried_out(&plan, &entries, &files);
        let refused = |at: &LibraryPath| {
            plan.steps.iter().any(|step| {
                entries[step.entry].path == *at && matches!(step.action, Action::Refuse(_))
            })
        };
        let mut expected: BTreeMap<LibraryPath, Root> = files
            .iter()
            .filter(|local| !(wishes.deletes && is_extra(local)))
            .map(|local| (local.path.clone(), local.root.expect("known")))
            .collect();
        for entry in &entries {
            if wishes.filters.select(&entry.path) && !refused(&entry.path) {
                expected.insert(entry.path.clone(), entry.root);
            }
        }
        assert_eq!(after, expected, "seed {seed}");
        // What is here is not fetched, and nothing is fetched twice.
        let roots: HashSet<Root> = files.iter().filter_map(|local| local.root).collect();
        let mut fetched = HashSet::new();
        for step in &plan.steps {
            if step.action == Action::Fetch {
                let root = entries[step.entry].root;
                assert!(
                    !roots.contains(&root) && fetched.insert(root),
                    "seed {seed}"
                );
            }
        }
        // With deletions, only what stays can be in the way.
        let tmp_may_stay = wishes.deletes && wishes.filters.exclude.is_empty();
        let conflicts = plan
            .steps
            .iter()
            .any(|step| matches!(step.action, Action::Refuse(_)));
        assert!(!(tmp_may_stay && conflicts), "seed {seed}");
    }
}
