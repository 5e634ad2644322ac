//! The rules of the tree, as tests: which layer may name which, what only one file may do, and what must not be there.
//!
//! The checks read Rust as words, not as meaning, so they resolve paths themselves: `use` trees, `self` and `super`, inline
//! modules, other names (`as`). What would let a path slip through (the crate root under another name, a glob over it,
//! re-exports of another layer, files from elsewhere) is refused. Each check is shown its own bad examples below.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which layers a layer may name, besides itself. Imports point down only; disk and net never meet.
const LAYERS: [(&str, &[&str]); 7] = [
    ("format", &[]),
    ("policy", &["format"]),
    ("disk", &["format", "policy"]),
    ("net", &["format", "policy"]),
    ("engine", &["format", "policy", "disk", "net"]),
    ("serve", &["format", "policy", "disk", "engine"]),
    (
        "cli",
        &["format", "policy", "disk", "net", "engine", "serve"],
    ),
];

/// Where the crates that we depend on may be named: folders or files below src. `format` and `policy` are pure, so only computations are there.
const OUTSIDE: [(&str, &[&str]); 34] = [
    ("axum", &["serve/"]),
    ("base64", &["format/", "net/auth/", "net/repr_digest.rs"]),
    ("bincode", &["format/codec.rs"]),
    ("blake3", &["format/", "policy/", "engine/"]),
    ("bytes", &["format/judge.rs", "net/", "engine/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("crc_fast", &["format/"]),
    ("futures_util", &["net/", "engine/", "serve/"]),
    ("hex", &[""]),
    ("httpdate", &["net/", "serve/"]),
    ("hyper_util", &["net/proxies.rs"]),
    ("indicatif", &["cli/"]),
    ("jiff", &["format/receipt.rs", "cli/"]),
    ("md5", &["format/"]),
    ("minisign", &["engine/sign.rs"]),
    ("minisign_verify", &["format/keys.rs"]),
    ("parking_lot", &[""]),
    ("percent_encoding", &["net/", "serve/"]),
    // Headers that users type are parsed where they are typed.
    ("reqwest", &["net/", "cli/network.rs"]),
    ("rpassword", &["cli/"]),
    ("rusqlite", &["disk/state/"]),
    ("rustix", &["disk/"]),
    ("serde", &["format/receipt.rs", "cli/"]),
    ("serde_json", &["format/receipt.rs", "cli/"]),
    ("sha1", &["format/"]),
    ("sha2", &["format/"]),
    ("thiserror", &[""]),
    ("tokio", &["net/", "engine/", "serve/", "cli/"]),
    ("tracing", &["disk/", "net/", "engine/", "serve/", "cli/"]),
    ("tracing_subscriber", &["cli/"]),
    ("url", &["net/"]),
    ("uzers", &["disk/machine.rs"]),
];

/// What is named where, besides crates: a path and all below it.
const ABSENCES: [(&str, &[&str], &str); 13] = [
    (
        "std::fs",
        PURE_OR_NET,
        "format, policy and net perform no file calls",
    ),
    ("std::io", PURE, "format and policy perform no I/O"),
    (
        "std::net",
        &["format/", "policy/", "disk/"],
        "format, policy and disk know no network",
    ),
    ("std::time", PURE, "format and policy are told the time"),
    ("std::thread", PURE, "format and policy have no threads"),
    ("std::process", PURE, "format and policy know no processes"),
    ("std::env", PURE, "format and policy know no environment"),
    (
        "std::os",
        PURE_OR_NET,
        "format, policy and net perform no file calls",
    ),
    (
        "tokio::fs",
        PURE_OR_NET,
        "format, policy and net perform no file calls",
    ),
    ("tokio::process", &[""], "nothing is started"),
    ("std::process::exit", &[""], "only main ends the process"),
    ("std::process::abort", &[""], "only main ends the process"),
    ("std::process::Command", &[""], "nothing is started"),
];
const PURE: &[&str] = &["format/", "policy/"];
const PURE_OR_NET: &[&str] = &["format/", "policy/", "net/"];

/// The only file that changes the file system.
const MUTATES: &str = "disk/files.rs";
/// Calls that change files. A file that is open for writing comes only from [`MUTATES`], so writing to it needs no rule.
const MUTATING_PATHS: [&str; 8] = [
    "std::fs::File::create",
    "std::fs::File::create_new",
    "std::fs::File::options",
    "std::fs::File::set_len",
    "std::fs::OpenOptions",
    "std::fs::DirBuilder",
    "std::os::unix::fs::OpenOptionsExt",
    "tokio::fs::OpenOptions",
];
const MUTATING_FUNCTIONS: [&str; 16] = [
    "chown",
    "copy",
    "create_dir",
    "create_dir_all",
    "fchown",
    "hard_link",
    "lchown",
    "mkfifo",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "rename",
    "set_permissions",
    "soft_link",
    "symlink",
    "write",
];
const MUTATING_METHODS: [&str; 8] = [
    "pwrite",
    "set_len",
    "set_modified",
    "set_permissions",
    "set_times",
    "sync_all",
    "sync_data",
    "write_all_at",
];
/// Of rustix, whose calls are many, those that only look.
const LOOKING: [&str; 7] = [
    "FileType", "SeekFrom", "Stat", "fstat", "fstatfs", "seek", "statat",
];
/// Our own type with methods of these names, by the name that its variables have.
const OUR_RECEIVERS: [&str; 1] = ["part"];

/// Lines a source file may have, its unit tests not counted.
const LINES_MAX: usize = 500;
/// Longer files, each with its reason.
const LONG: [(&str, usize, &str); 1] = [(
    "engine/transfer/driver.rs",
    600,
    "one loop, which obeys the scheduler and tells it what happened",
)];

/// Words that say nothing, in names of files and types.
const EMPTY_WORDS: [&str; 10] = [
    "common", "handler", "helper", "helpers", "manager", "misc", "stuff", "util", "utility",
    "utils",
];

// ---- Reading Rust ---------------------------------------------------------------------------------------------------

/// A source file as words. Comments are kept apart; what is in strings is dropped.
struct Source {
    /// Below src (or tests), with slashes.
    path: String,
    tokens: Vec<Token>,
    comments: String,
    lines: usize,
}

struct Token {
    text: String,
    line: usize,
}

/// A path as it is written, resolved as far as names go.
struct Named {
    /// From `crate`, or from the name of a crate or of something in scope.
    path: Vec<String>,
    line: usize,
    import: Option<Import>,
    in_tests: bool,
}

#[derive(Clone, Debug, Default)]
struct Import {
    glob: bool,
    public: bool,
    renamed: bool,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let (code, comments) = without_strings(text);
        let tokens = tokens(&code);
        // Unit tests are the end of a file.
        let tests = tokens
            .windows(3)
            .find(|three| texts(three) == ["mod", "tests", "{"])
            .map(|three| three[0].line);
        Source {
            path: path.to_owned(),
            tokens,
            comments,
            // A file of tests has no other lines.
            lines: match path.ends_with("/tests.rs") {
                true => 0,
                false => tests.unwrap_or(text.lines().count()),
            },
        }
    }

    fn layer(&self) -> Option<&str> {
        self.path.split_once('/').map(|(layer, _)| layer)
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// The module that the file is.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let path = path
            .trim_end_matches("mod")
            .trim_end_matches("lib")
            .trim_end_matches('/');
        path.split('/')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn starts(&self, index: usize, words: &[&str]) -> bool {
        self.tokens
            .get(index..index + words.len())
            .is_some_and(|tokens| texts(tokens) == words)
    }

    /// Every path in the file, those in `use` trees one by one.
    fn named(&self) -> Vec<Named> {
        let mut written = Vec::new();
        let mut modules: Vec<(usize, String)> = Vec::new();
        let (mut depth, mut index) = (0, 0);
        while index < self.tokens.len() {
            let line = self.tokens[index].line;
            let module = || {
                modules
                    .iter()
                    .map(|(_, name)| name.clone())
                    .collect::<Vec<_>>()
            };
            match self.tokens[index].text.as_str() {
                "mod"
                    if self
                        .tokens
                        .get(index + 2)
                        .is_some_and(|token| token.text == "{") =>
                {
                    modules.push((depth, self.tokens[index + 1].text.clone()));
                    index += 2;
                    continue;
                }
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    modules.pop_if(|(outer, _)| *outer == depth);
                }
                "use" if !self.starts(index + 1, &["<"]) => {
                    let public =
                        index > 0 && matches!(self.tokens[index - 1].text.as_str(), "pub" | ")");
                    let mut tree = Vec::new();
                    index = self.use_tree(index + 1, &[], &mut tree);
                    for (path, name, glob) in tree {
                        let renamed = name.is_some() && name.as_ref() != path.last();
                        let name = name.or_else(|| path.last().cloned()).filter(|_| !glob);
                        written.push((
                            path,
                            line,
                            module(),
                            Some((
                                name,
                                Import {
                                    glob,
                                    public,
                                    renamed,
                                },
                            )),
                        ));
                    }
                    continue;
                }
                word if is_word(word)
                    && !self.follows(index, ".")
                    && !self.follows(index, "::") =>
                {
                    let mut path = vec![word.to_owned()];
                    while self.starts(index + 1, &["::"])
                        && self
                            .tokens
                            .get(index + 2)
                            .is_some_and(|next| is_word(&next.text))
                    {
                        index += 2;
                        path.push(self.tokens[index].text.clone());
                    }
                    if path.len() > 1 {
                        written.push((path, line, module(), None));
                    }
                }
                _ => (),
            }
            index += 1;
        }
        let mut names = BTreeMap::new();
        let mut named = Vec::new();
        // Imports first: they may stand behind what uses them.
        written.sort_by_key(|(_, _, _, import)| import.is_none());
        for (path, line, inner, import) in written {
            let module = [self.module(), inner.clone()].concat();
            let path = resolve(&path, &module, &names);
            if let Some((Some(name), _)) = &import {
                names.insert(name.clone(), path.clone());
            }
            // A file of tests is that module, without its name in it.
            let in_tests =
                self.path.ends_with("/tests.rs") || inner.iter().any(|name| name == "tests");
            named.push(Named {
                path,
                line,
                import: import.map(|(_, import)| import),
                in_tests,
            });
        }
        named
    }

    fn follows(&self, index: usize, text: &str) -> bool {
        // `::name` at the start of a path names a crate, whatever is in scope; that is what resolving assumes anyway.
        index > 0
            && self.tokens[index - 1].text == text
            && (text != "::" || index > 1 && is_word(&self.tokens[index - 2].text))
    }

    /// Reads one branch of a `use` tree and returns the place behind it. Leaves are path, other name, glob.
    fn use_tree(
        &self,
        mut index: usize,
        prefix: &[String],
        leaves: &mut Vec<(Vec<String>, Option<String>, bool)>,
    ) -> usize {
        let mut path = prefix.to_vec();
        while let Some(token) = self.tokens.get(index) {
            index += 1;
            match token.text.as_str() {
                "::" => (),
                "*" => {
                    leaves.push((path, None, true));
                    return index;
                }
                "{" => {
                    while self
                        .tokens
                        .get(index)
                        .is_some_and(|token| token.text != "}")
                    {
                        index = self.use_tree(index, &path, leaves);
                        index += usize::from(self.starts(index, &[","]));
                    }
                    return index + 1;
                }
                "as" => {
                    let name = self.tokens.get(index).map(|token| token.text.clone());
                    leaves.push((path, name, false));
                    return index + 1;
                }
                "self" if !path.is_empty() => (),
                word if is_word(word) => path.push(word.to_owned()),
                _ => {
                    leaves.push((path, None, false));
                    return index - 1;
                }
            }
        }
        index
    }
}

/// A path from `crate`, or from a crate's name.
fn resolve(
    path: &[String],
    module: &[String],
    names: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    let from_root = |module: &[String]| [vec!["crate".to_owned()], module.to_vec()].concat();
    let supers = path
        .iter()
        .skip_while(|word| *word == "self")
        .take_while(|word| *word == "super")
        .count();
    let selves = path.iter().take_while(|word| *word == "self").count();
    let (first, rest) = match (path[0].as_str(), supers + selves) {
        (_, skip) if skip > 0 => (
            from_root(&module[..module.len().saturating_sub(supers)]),
            &path[skip..],
        ),
        ("alloc" | "core", _) => (vec!["std".to_owned()], &path[1..]),
        (name, _) => (
            names
                .get(name)
                .cloned()
                .unwrap_or_else(|| vec![name.to_owned()]),
            &path[1..],
        ),
    };
    [first, rest.to_vec()].concat()
}

fn texts(tokens: &[Token]) -> Vec<&str> {
    tokens.iter().map(|token| token.text.as_str()).collect()
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let length = if rest.starts_with("::") {
                2
            } else {
                word.max(first.len_utf8())
            };
            tokens.push(Token {
                text: rest[..length].to_owned(),
                line: line + 1,
            });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The code and the comments, both with their lines where they were and without what is in quotes.
fn without_strings(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut index = 0;
    while index < chars.len() {
        let rest = &chars[index..];
        let word_before =
            index > 0 && (chars[index - 1].is_alphanumeric() || chars[index - 1] == '_');
        let (length, comment) = match rest {
            ['/', '/', ..] => (
                rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
                true,
            ),
            ['/', '*', ..] => (block_comment(rest), true),
            ['"', ..] => (quoted(rest, 0), false),
            ['r', '"' | '#', ..] | ['b' | 'c', 'r', '"' | '#', ..] if !word_before => {
                (raw(rest), false)
            }
            ['\'', '\\', ..] => (
                2 + rest[2..]
                    .iter()
                    .skip(1)
                    .position(|c| *c == '\'')
                    .map_or(rest.len(), |end| end + 2),
                false,
            ),
            ['\'', _, '\'', ..] => (3, false),
            _ => (0, false),
        };
        if length == 0 {
            code.push(chars[index]);
            comments.extend((chars[index] == '\n').then_some('\n'));
            index += 1;
            continue;
        }
        let taken: String = rest[..length.min(rest.len())].iter().collect();
        let blank: String = taken.chars().filter(|c| *c == '\n').collect();
        code.push_str(if comment { " " } else { "\"\"" });
        code.push_str(&blank);
        comments.push_str(if comment { &taken } else { &blank });
        index += length;
    }
    (code, comments)
}

fn block_comment(chars: &[char]) -> usize {
    let (mut depth, mut index) = (0, 0);
    while index < chars.len() {
        match chars[index..] {
            ['/', '*', ..] => (depth, index) = (depth + 1, index + 2),
            ['*', '/', ..] if depth == 1 => return index + 2,
            ['*', '/', ..] => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
    }
    index
}

fn quoted(chars: &[char], from: usize) -> usize {
    let mut index = from + 1;
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// The length of a raw string, 0 if it is none (`r#type`).
fn raw(chars: &[char]) -> usize {
    let start = chars.iter().position(|c| *c == 'r').unwrap_or(0) + 1;
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return 0;
    }
    let end: Vec<char> = std::iter::once('"')
        .chain(std::iter::repeat_n('#', hashes))
        .collect();
    let body = start + hashes + 1;
    chars[body..]
        .windows(end.len())
        .position(|window| window == end)
        .map_or(chars.len(), |at| body + at + end.len())
}

// ---- The checks: each returns what is wrong -------------------------------------------------------------------------

type Wrong = Vec<String>;

fn wrong(source: &Source, line: usize, what: &str) -> String {
    format!("src/{}:{line}: {what}", source.path)
}

/// Layers name only what is below them, whatever the path looks like.
fn layers(source: &Source) -> Wrong {
    let Some(layer) = source.layer() else {
        return Vec::new();
    };
    let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![wrong(source, 1, "this folder is no layer")];
    };
    let children: BTreeSet<&str> = source
        .tokens
        .windows(2)
        .filter(|two| two[0].text == "mod")
        .map(|two| two[1].text.as_str())
        .collect();
    let mut found = Vec::new();
    for named in source.named() {
        let path: Vec<&str> = named.path.iter().map(String::as_str).collect();
        let mut tell = |what: &str| {
            found.push(wrong(
                source,
                named.line,
                &format!("{}: {what}", path.join("::")),
            ))
        };
        let import = named.import.clone().unwrap_or_default();
        match path[..] {
            ["crate"] => tell("the crate's root is not imported, under no name"),
            [_] if import.glob || import.renamed => {
                tell("a crate is not renamed or imported whole")
            }
            ["crate", other, ..] if other != layer && !below.contains(&other) => {
                tell("not below this layer")
            }
            ["crate", other, ..] if import.public && other != layer => {
                tell("re-exports another layer")
            }
            ["crate", ..] => (),
            [first, ..] if import.public && !children.contains(first) => {
                tell("re-exports another crate")
            }
            _ => (),
        }
    }
    for (index, token) in source.tokens.iter().enumerate() {
        let slips = [
            &["extern", "crate"][..],
            &["#", "[", "path"],
            &["include", "!"],
        ];
        if slips.iter().any(|words| source.starts(index, words)) {
            found.push(wrong(
                source,
                token.line,
                "the modules are those of the folders",
            ));
        }
    }
    found
}

/// Crates and parts of the standard library are named only where they belong.
fn outside(source: &Source) -> Wrong {
    let mut found = Vec::new();
    for named in source.named() {
        let path = named.path.join("::");
        let below = |prefix: &str| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        for (name, places) in OUTSIDE {
            if below(name) && !source.is_in(places) {
                found.push(wrong(
                    source,
                    named.line,
                    &format!("{path}: belongs into {places:?}"),
                ));
            }
        }
        for (prefix, places, reason) in ABSENCES {
            if below(prefix) && source.is_in(places) {
                found.push(wrong(source, named.line, &format!("{path}: {reason}")));
            }
        }
        if below("std::process::ExitCode")
            && !source.is_in(&["main.rs", "cli/mod.rs", "cli/exit.rs"])
        {
            found.push(wrong(
                source,
                named.line,
                "exit codes are made in cli/exit.rs",
            ));
        }
    }
    for (index, token) in source.tokens.iter().enumerate() {
        let mut tell = |what: &str| {
            found.push(wrong(
                source,
                token.line,
                &format!("{}: {what}", token.text),
            ))
        };
        match token.text.as_str() {
            "async" | "await" if source.is_in(&["format/", "policy/", "disk/"]) => {
                tell("format, policy and disk are synchronous")
            }
            "print" | "println" | "eprint" | "eprintln"
                if source.starts(index + 1, &["!"]) && !source.is_in(&["cli/"]) =>
            {
                tell("only the cli knows a terminal");
            }
            "unsafe" => tell("there is no such code here"),
            "unwrap" if source.starts(index + 1, &["(", ")"]) && token.line < source.lines => {
                tell("expect says why it cannot fail")
            }
            _ => (),
        }
    }
    found
}

/// One file changes the file system.
fn mutations(source: &Source) -> Wrong {
    if source.path == MUTATES {
        return Vec::new();
    }
    let mut found = Vec::new();
    for named in source.named().iter().filter(|named| !named.in_tests) {
        let path = named.path.join("::");
        let glob = named.import.as_ref().is_some_and(|import| import.glob);
        let modules = ["std::fs", "std::os::unix::fs", "tokio::fs", "rustix::fs"];
        let Some(module) = modules.into_iter().find(|module| path.starts_with(module)) else {
            continue;
        };
        let function = MUTATING_FUNCTIONS.contains(&named.path.last().map_or("", String::as_str));
        let listed = MUTATING_PATHS
            .iter()
            .any(|listed| path == *listed || path.starts_with(&format!("{listed}::")));
        let unknown = module == "rustix::fs"
            && named
                .path
                .get(2)
                .is_some_and(|name| !LOOKING.contains(&name.as_str()));
        if function || listed || unknown || glob {
            found.push(wrong(
                source,
                named.line,
                &format!("{path}: only {MUTATES} changes files"),
            ));
        }
    }
    for (index, token) in source.tokens.iter().enumerate() {
        let is_call =
            index > 1 && source.tokens[index - 1].text == "." && source.starts(index + 1, &["("]);
        if is_call && MUTATING_METHODS.contains(&token.text.as_str()) {
            let receiver = &source.tokens[index - 2].text;
            if !OUR_RECEIVERS.contains(&receiver.as_str()) {
                found.push(wrong(
                    source,
                    token.line,
                    &format!(".{}: only {MUTATES} changes files", token.text),
                ));
            }
        }
    }
    found
}

/// Nothing is left for later.
fn leftovers(source: &Source) -> Wrong {
    let mut found = left_words(&source.path, &source.comments);
    for (index, token) in source.tokens.iter().enumerate() {
        let left = [
            &["todo", "!"][..],
            &["unimplemented", "!"],
            &["dbg", "!"],
            &["#", "[", "ignore"],
        ];
        if left.iter().any(|words| source.starts(index, words)) {
            found.push(format!(
                "{}:{}: {} is left over",
                source.path,
                token.line,
                texts(&source.tokens[index..index + 2]).concat()
            ));
        }
    }
    found
}

fn left_words(path: &str, text: &str) -> Wrong {
    let mut found = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| ["TODO", "FIXME", "XXX"].contains(word)) {
            found.push(format!("{path}:{}: {word} is left over", line + 1));
        }
    }
    found
}

/// A file has one subject, which fits into so many lines.
fn length(source: &Source) -> Wrong {
    let limit = LONG
        .iter()
        .find(|(path, _, _)| *path == source.path)
        .map_or(LINES_MAX, |(_, lines, _)| *lines);
    match source.lines > limit {
        true => vec![wrong(
            source,
            limit,
            &format!("{} lines without its unit tests", source.lines),
        )],
        false => Vec::new(),
    }
}

/// Names of files and types say what they are.
fn names(source: &Source) -> Wrong {
    let stem = Path::new(&source.path)
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let mut named = vec![(1, stem)];
    for two in source.tokens.windows(2) {
        if ["struct", "enum", "trait", "type", "union", "mod"].contains(&two[0].text.as_str()) {
            named.push((two[0].line, &two[1].text));
        }
    }
    let empty = |name: &str| {
        words(name)
            .iter()
            .any(|word| EMPTY_WORDS.contains(&word.as_str()))
    };
    named.retain(|(_, name)| empty(name));
    named
        .into_iter()
        .map(|(line, name)| wrong(source, line, &format!("{name} says nothing")))
        .collect()
}

/// `FooBar` and `foo_bar` as foo, bar.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        words
            .last_mut()
            .expect("one at least")
            .extend(c.to_lowercase().filter(|c| *c != '_'));
    }
    words
}

/// Nothing that only one machine has, and no place from where packages happen to come there.
fn machine(path: &str, text: &str) -> Wrong {
    // In parts, so that this file passes.
    let folders = ["home", "root", "work", "Users", "mnt"].map(|folder| format!("/{folder}/"));
    let hosts = [
        "index.crates",
        "static.crates",
        "pypi",
        "pythonhosted",
        "artifactory",
    ]
    .map(|host| format!("{host}."));
    let mut found = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let is_folder = |folder: &String| {
            text.match_indices(folder.as_str()).any(|(at, _)| {
                // Below another folder it is a part of some path of ours.
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-}*/>".contains(c))
            })
        };
        if folders.iter().any(is_folder) || hosts.iter().any(|host| text.contains(host.as_str())) {
            found.push(format!(
                "{path}:{}: names a place of one machine: {}",
                line + 1,
                text.trim()
            ));
        }
    }
    found
}

/// Every test file is a module of the one test binary.
fn forgotten(main: &str, files: &[String]) -> Wrong {
    let main = Source::new("main.rs", main);
    let named = |stem: &str| {
        main.tokens
            .windows(3)
            .any(|three| texts(three) == ["mod", stem, ";"])
    };
    let stems = files
        .iter()
        .filter_map(|file| file.strip_suffix(".rs"))
        .filter(|stem| *stem != "main");
    stems
        .filter(|stem| !named(stem))
        .map(|stem| format!("tests/it/{stem}.rs is not a module of main.rs"))
        .collect()
}

// ---- The tree -------------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the tree, relative to it, without what builds and git leave there.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        for entry in fs::read_dir(folder.join(&inner)).expect("a folder of the tree") {
            let entry = entry.expect("an entry");
            let path = inner.join(entry.file_name());
            match entry.file_type().expect("its type").is_dir() {
                // In a working tree of its own, .git is a file.
                _ if [".git", "target", "__pycache__"]
                    .iter()
                    .any(|skipped| path.ends_with(skipped)) => {}
                true => open.push(path),
                false => found.push(path.to_str().expect("names in UTF-8").to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<Source> {
    let folder = root().join(folder);
    let files = files_below(&folder)
        .into_iter()
        .filter(|file| file.ends_with(".rs"));
    files
        .map(|file| {
            Source::new(
                &file,
                &fs::read_to_string(folder.join(&file)).expect("a source"),
            )
        })
        .collect()
}

/// Every file that is text.
fn texts_of_tree() -> impl Iterator<Item = (String, String)> {
    files_below(root())
        .into_iter()
        .filter_map(|file| Some((file.clone(), fs::read_to_string(root().join(&file)).ok()?)))
}

#[track_caller]
fn none(wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn layers_point_down() {
    none(sources("src").iter().flat_map(layers));
}

#[test]
fn outside_things_have_one_place() {
    none(sources("src").iter().flat_map(outside));
}

#[test]
fn every_dependency_has_a_place() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let (_, rest) = manifest
        .split_once("\n[dependencies]\n")
        .expect("dependencies");
    let (dependencies, _) = rest.split_once("\n[").expect("more sections");
    let names = dependencies
        .lines()
        .filter(|line| is_word(line))
        .filter_map(|line| line.split_once(" = "));
    let dependencies: BTreeSet<String> = names
        .map(|(name, _)| name.replace('-', "_").replace("md_5", "md5"))
        .collect();
    let placed: BTreeSet<String> = OUTSIDE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        dependencies, placed,
        "dependencies (left) and the table OUTSIDE (right)"
    );
}

#[test]
fn one_file_changes_files() {
    none(sources("src").iter().flat_map(mutations));
}

#[test]
fn nothing_is_left_over() {
    none(
        sources("src")
            .iter()
            .chain(&sources("tests"))
            .flat_map(leftovers),
    );
    none(
        texts_of_tree()
            .filter(|(path, _)| !path.ends_with(".rs"))
            .flat_map(|(path, text)| left_words(&path, &text)),
    );
}

#[test]
fn files_are_short() {
    none(sources("src").iter().flat_map(length));
}

#[test]
fn names_say_what_they_are() {
    none(
        sources("src")
            .iter()
            .chain(&sources("tests"))
            .flat_map(names),
    );
}

#[test]
fn no_machine_is_named() {
    none(texts_of_tree().flat_map(|(path, text)| machine(&path, &text)));
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    none(
        lock.lines()
            .filter(|line| line.starts_with("source") && *line != public)
            .map(str::to_owned),
    );
}

#[test]
fn no_test_file_is_forgotten() {
    let folder = root().join("tests/it");
    let main = fs::read_to_string(folder.join("main.rs")).expect("main.rs");
    let files = files_below(&folder)
        .into_iter()
        .filter(|file| !file.contains('/'))
        .collect::<Vec<_>>();
    none(forgotten(&main, &files));
}

// ---- Each check can fail --------------------------------------------------------------------------------------------

/// Shows a check one bad line at a time, each in its file, then good ones.
#[track_caller]
fn check(rule: fn(&Source) -> Wrong, bad: &[(&str, &str)], good: &[(&str, &str)]) {
    for (path, text) in bad {
        assert!(
            !rule(&Source::new(path, text)).is_empty(),
            "passes: {path}: {text}"
        );
    }
    for (path, text) in good {
        none(rule(&Source::new(path, text)));
    }
}

#[test]
fn layers_are_seen_through_all_spellings() {
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("format/tree.rs", "use crate::disk;"),
        ("format/tree.rs", "use crate::disk::files::Folder;"),
        ("format/tree.rs", "use crate::{format::geometry, disk as d};"),
        ("format/tree.rs", "use crate::{format::{geometry::{self}, tree}, engine::{error, fetch::{self as f}}};"),
        ("format/tree.rs", "fn f() { crate::disk::files::open_for_reading(p) }"),
        ("format/tree.rs", "fn f(a: &Vec<crate :: net::client::Client>) {}"),
        ("format/tree.rs", "fn f() { super::super::disk::files::sync() }"),
        ("format/tree.rs", "use super::super::disk::files;"),
        ("format/tree.rs", "use self::super::super::{net};"),
        ("format/tree.rs", "mod tests { use super::super::super::disk::files; }"),
        ("format/tree.rs", "mod a { mod b {} fn f() { super::super::super::net::x() } }"),
        ("format/tree.rs", "use crate as root;"),
        ("format/tree.rs", "use crate::{self as root};"),
        ("format/tree.rs", "use crate::*;"),
        ("format/tree.rs", "use super::super::*;"),
        ("format/tree.rs", "use super::super as up;"),
        ("format/tree.rs", "use super::super::{self as up};"),
        ("format/mod.rs", "use super::disk;"),
        ("format/tree.rs", "macro_rules! m { () => { $crate::disk::files::x() } }"),
        ("format/tree.rs", "extern crate self as sapwood;"),
        ("format/tree.rs", "#[path = \"../disk/files.rs\"] mod files;"),
        ("format/tree.rs", "include!(\"../disk/files.rs\");"),
        ("format/tree.rs", "use crate::run;"),
        ("disk/part.rs", "use crate::net::pace;"),
        ("net/client.rs", "use crate::disk::files;"),
        ("net/client.rs", "use crate::engine::fetch;"),
        ("engine/verify.rs", "use crate::serve::origin;"),
        ("engine/verify.rs", "use crate::cli::output;"),
        ("engine/fetch/span.rs", "use super::super::super::cli;"),
        ("serve/origin.rs", "use crate::cli::exit::Exit;"),
        ("serve/origin.rs", "use crate::net::client;"),
        ("engine/mod.rs", "pub use crate::disk::files::Folder;"),
        ("engine/mod.rs", "pub(crate) use crate::net::{client};"),
        ("engine/mod.rs", "pub use reqwest::Url;"),
        ("disk/mod.rs", "use crate::format as c; pub use c::tree;"),
        ("elsewhere/x.rs", ""),
    ];
    #[rustfmt::skip]
    let good = [
        ("format/tree.rs", "use super::geometry::{BlockIndex, Geometry}; use core::fmt; use std::collections::*;"),
        ("format/tree.rs", "mod tests { use super::*; use super::super::paint; }"),
        ("format/tree.rs", "// use crate::disk;\nconst A: &str = \"crate::disk::x\"; /* crate::net::x */ const B: &str = r#\"\"crate::net::x\"#;"),
        ("format/tree.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // crate::disk::x"),
        ("disk/part.rs", "use crate::format::{self, geometry}; fn f() { super::error::x() }"),
        ("engine/fetch/mod.rs", "mod span; pub use span::Told; use crate::{format, disk, net}; use super::super::engine::error;"),
        ("cli/fetch.rs", "use crate::{format, policy, disk, net, engine, serve};"),
        ("lib.rs", "pub use cli::run; pub use crate::engine::fetch;"),
    ];
    check(layers, &bad, &good);
}

#[test]
fn outside_things_are_seen() {
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("format/tree.rs", "use bincode::Encode;"),
        ("format/statement.rs", "#[derive(bincode::Decode)] struct A;"),
        ("format/tree.rs", "use std::{collections::BTreeMap, fs::File};"),
        ("format/tree.rs", "use std as s; fn f() { s::fs::read(p) }"),
        ("format/tree.rs", "fn f() { std::time::Instant::now() }"),
        ("format/tree.rs", "use core::net::IpAddr;"),
        ("format/tree.rs", "fn f() { std::thread::spawn(g) }"),
        ("format/tree.rs", "use ::std::process;"),
        ("format/tree.rs", "fn f() { ::std::process::id() }"),
        ("format/tree.rs", "use tokio::sync::mpsc;"),
        ("format/tree.rs", "use reqwest::Url;"),
        ("format/tree.rs", "async fn f() {}"),
        ("disk/part.rs", "fn f() { g().await }"),
        ("disk/part.rs", "use std::net::TcpStream;"),
        ("net/client.rs", "use std::fs;"),
        ("net/client.rs", "fn f() { tokio::fs::read(p) }"),
        ("net/client.rs", "use rustix::fs;"),
        ("engine/verify.rs", "use clap::Parser;"),
        ("engine/verify.rs", "fn f() { println!(\"x\") }"),
        ("engine/verify.rs", "fn f() { std::process::exit(1) }"),
        ("cli/fetch.rs", "use std::process; fn f() { process::exit(1) }"),
        ("cli/fetch.rs", "use std::process::ExitCode;"),
        ("cli/fetch.rs", "use axum::Router;"),
        ("disk/files.rs", "fn f() { unsafe { g() } }"),
        ("format/tree.rs", "fn f() {\n x.unwrap() }\n mod tests {"),
    ];
    #[rustfmt::skip]
    let good = [
        ("format/codec.rs", "use bincode::Encode; use core::fmt; fn f() { time::x() }"),
        ("cli/mod.rs", "use std::process::ExitCode; use clap::Parser;"),
        ("net/client.rs", "use reqwest::header; async fn f() {} // unsafe, println!()"),
        ("format/tree.rs", "fn f() { x.unwrap_or(0).expect(\"a reason\") }\nmod tests {\n fn f() { x.unwrap() } }"),
    ];
    check(outside, &bad, &good);
}

#[test]
fn changes_of_files_are_seen() {
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("engine/create.rs", "fn f() { std::fs::write(p, b) }"),
        ("engine/create.rs", "use std::fs; fn f() { fs::rename(a, b) }"),
        ("engine/create.rs", "fn f() { fs::remove_file(a) } use std::fs;"),
        ("engine/create.rs", "use std::fs as disk; fn f() { disk::create_dir_all(a) }"),
        ("engine/create.rs", "use std::fs::*;"),
        ("engine/create.rs", "use std::fs::File; fn f() { File::create(a) }"),
        ("engine/create.rs", "use std::fs::File as F; fn f() { F::create_new(a) }"),
        ("engine/create.rs", "use std::fs::OpenOptions;"),
        ("engine/create.rs", "fn f() { tokio::fs::remove_file(a) }"),
        ("engine/create.rs", "fn f() { file.set_len(0) }"),
        ("engine/create.rs", "fn f() { File::set_len(file, 0) } use std::fs::File;"),
        ("engine/create.rs", "fn f() { self.file().sync_all() }"),
        ("disk/part.rs", "use rustix::fs::{self as f, SeekFrom}; fn g() { f::unlinkat(a) }"),
        ("disk/part.rs", "use rustix::fs::ftruncate;"),
        ("disk/part.rs", "use std::os::unix::fs::symlink;"),
        ("cli/fetch.rs", "fn f() { file.write_all_at(b, 0) }"),
    ];
    #[rustfmt::skip]
    let good = [
        ("disk/files.rs", "use rustix::fs::{self, Mode}; fn f() { file.set_len(0) }"),
        ("disk/part.rs", "use rustix::fs::{self, SeekFrom}; fn f() { fs::seek(file, SeekFrom::Hole(0)) }"),
        ("engine/create.rs", "use std::fs::File; use std::os::unix::fs::FileExt; fn f() { part.sync_all(); files::write_at(a) }"),
        ("engine/create.rs", "mod tests { fn f() { std::fs::write(a, b) } }"),
        ("disk/store/tests.rs", "fn f() { std::fs::write(a, b) }"),
    ];
    check(mutations, &bad, &good);
}

#[test]
fn leftovers_are_seen() {
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("format/tree.rs", "// TODO: later"),
        ("format/tree.rs", "/* FIXME */ fn f() {}"),
        ("format/tree.rs", "/// XXX\nfn f() {}"),
        ("format/tree.rs", "fn f() { todo!() }"),
        ("format/tree.rs", "fn f() { unimplemented!(\"x\") }"),
        ("format/tree.rs", "fn f() { dbg!(x) }"),
        ("format/tree.rs", "#[ignore = \"slow\"] fn f() {}"),
    ];
    check(
        leftovers,
        &bad,
        &[(
            "format/tree.rs",
            "fn f() { mktemp(\"a.XXX\", \"TODO\") } // a.XXXXXX, todos",
        )],
    );
    assert!(!left_words("tools/test", "true # TODO").is_empty());
}

#[test]
fn long_files_and_empty_names_are_seen() {
    let line = "fn f() {}\n";
    let tests = format!("mod tests {{\n{}}}\n", line.repeat(LINES_MAX));
    check(
        length,
        &[("format/tree.rs", &line.repeat(LINES_MAX + 1))],
        &[
            ("format/tree.rs", &line.repeat(LINES_MAX)),
            ("format/tree.rs", &tests),
            ("engine/transfer/driver.rs", &line.repeat(LINES_MAX + 1)),
        ],
    );
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("format/utils.rs", ""),
        ("format/disk_helpers.rs", ""),
        ("format/tree.rs", "struct PartManager;"),
        ("format/tree.rs", "pub enum Common {}"),
        ("format/tree.rs", "mod misc {}"),
    ];
    check(
        names,
        &bad,
        &[(
            "format/tree.rs",
            "struct Tree; fn helper_of() {} struct Commonality; struct Utile;",
        )],
    );
    assert!(
        LONG.iter()
            .all(|(path, _, _)| root().join("src").join(path).is_file()),
        "an exception without its file"
    );
}

#[test]
fn machines_are_seen() {
    for bad in [
        ["cd /", "home/me"],
        ["PATH=/", "root/bin"],
        ["see \"/", "work/x\""],
        ["https://pypi", ".org/simple"],
    ] {
        assert!(!machine("README.md", &bad.concat()).is_empty(), "{bad:?}");
    }
    for good in [
        "/usr/bin/env",
        "target/work/x",
        "$HOME/work/x",
        "the root/leaf",
        "https://crates.io/crates/sapwood",
    ] {
        none(machine("README.md", good));
    }
}

#[test]
fn forgotten_files_are_seen() {
    let files = ["main.rs", "tidy.rs", "fetch.rs"].map(str::to_owned);
    assert!(forgotten("mod tidy; mod fetch;", &files).is_empty());
    assert_eq!(forgotten("mod tidy; // mod fetch;", &files).len(), 1);
}
