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
const OUTSIDE: [(&str, &[&str]); 47] = [
    ("axum", &["serve/"]),
    (
        "base64",
        &[
            "format/",
            "net/auth/",
            "net/s3/",
            "net/repr_digest.rs",
            "serve/",
        ],
    ),
    ("bincode", &["format/codec.rs"]),
    (
        "blake3",
        &["format/", "policy/", "engine/", "serve/ingest/"],
    ),
    (
        "bytes",
        &[
            "format/judge.rs",
            "disk/group_commit.rs",
            "disk/mapped.rs",
            "disk/store/cached.rs",
            "net/",
            "engine/",
        ],
    ),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    (
        "constant_time_eq",
        &["serve/gateway/token.rs", "serve/ingest/"],
    ),
    ("crc", &["format/"]),
    ("crc32c", &["format/"]),
    ("deadpool_postgres", &["engine/ingest/postgres/"]),
    ("futures_util", &["net/", "engine/", "serve/"]),
    ("glob", &["policy/filters.rs"]),
    ("hex", &[""]),
    ("hmac", &["net/auth/"]),
    ("httpdate", &["net/", "serve/"]),
    ("hyper", &["serve/connections/"]),
    ("hyper_util", &["net/proxies.rs", "serve/connections/"]),
    (
        "jiff",
        &[
            "engine/event_fields.rs",
            "format/ingest.rs",
            "format/receipt.rs",
            "net/auth/",
            "net/s3/",
            "serve/",
            "cli/",
        ],
    ),
    ("md5", &["format/"]),
    ("memmap2", &["disk/mapped.rs"]),
    ("mime_guess", &["serve/media_types.rs"]),
    ("minisign", &["engine/sign.rs"]),
    ("minisign_verify", &["format/keys.rs"]),
    ("parking_lot", &[""]),
    ("percent_encoding", &["net/", "serve/"]),
    // Headers that users type are parsed where they are typed.
    ("reqwest", &["net/", "cli/network.rs"]),
    ("roxmltree", &["cli/metalink.rs"]),
    ("rusqlite", &["disk/state/", "disk/sessions/"]),
    ("rustix", &["disk/"]),
    (
        "rustls",
        &[
            "net/authorities.rs",
            "net/connectors.rs",
            "net/database_tls.rs",
            "net/judged.rs",
            "serve/tls.rs",
            "engine/ingest/postgres/",
        ],
    ),
    (
        "rustls_platform_verifier",
        &["net/authorities.rs", "net/database_tls.rs"],
    ),
    (
        "serde",
        &[
            "format/receipt.rs",
            "format/ingest.rs",
            "format/notice.rs",
            "serve/ingest/",
            "cli/",
        ],
    ),
    (
        "serde_json",
        &[
            "engine/event_fields.rs",
            "format/receipt.rs",
            "format/ingest.rs",
            "format/notice.rs",
            "serve/",
            "cli/",
        ],
    ),
    ("sha1", &["format/"]),
    (
        "sha2",
        &[
            "format/",
            "net/auth/",
            "net/s3/",
            "engine/upload/",
            "engine/storage/",
            // A policy names what a page of ours may run.
            "serve/ingest/web.rs",
        ],
    ),
    ("thiserror", &[""]),
    ("tokio", &["net/", "engine/", "serve/", "cli/"]),
    ("tokio_postgres", &["engine/ingest/postgres/"]),
    (
        "tokio_rustls",
        &[
            "serve/tls.rs",
            "serve/connections/",
            "engine/ingest/postgres/",
        ],
    ),
    ("toml", &["cli/config.rs"]),
    ("tracing", &["disk/", "net/", "engine/", "serve/", "cli/"]),
    ("unicode_width", &["cli/output/bar.rs"]),
    ("url", &["net/"]),
    ("uzers", &["disk/machine.rs"]),
    ("zstd_safe", &["format/compression.rs"]),
];

/// What is named where, besides crates: a path and all below it.
const ABSENCES: [(&str, &[&str], &str); 14] = [
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
    ("std::sync::Mutex", &[""], LOCKS),
    ("std::sync::RwLock", &[""], LOCKS),
    ("std::sync::Condvar", &[""], LOCKS),
    ("std::process::exit", &[""], "only main ends the process"),
    ("std::process::abort", &[""], "only main ends the process"),
];
const LOCKS: &str = "locks are those of parking_lot, which a panic does not poison";
const PURE: &[&str] = &["format/", "policy/"];
const PURE_OR_NET: &[&str] = &["format/", "policy/", "net/"];

/// The only folder of files that change the file system.
const MUTATES: &str = "disk/files/";
/// A terminal is not in the file system, but is opened like a file.
const TERMINAL: &str = "disk/terminal.rs";
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
/// Of rustix, whose calls are many, those that only look, or lock.
const LOOKING: [&str; 15] = [
    "AtFlags",
    "Dir",
    "FileType",
    "FlockOperation",
    "flock",
    "SeekFrom",
    "Stat",
    "StatVfs",
    "fstat",
    "fstatfs",
    "fstatvfs",
    "inotify",
    "seek",
    "statat",
    "statfs",
];
/// Our own type with methods of these names, by the name that its variables have.
const OUR_RECEIVERS: [&str; 1] = ["part"];

/// The floors inside `engine`, the lowest first. A room, which is a file or a folder, names rooms on lower floors only.
const FLOORS: [&[&str]; 20] = [
    &["error"],
    &["events", "connections", "observed", "error_kind"],
    &[
        "blocking",
        "manifest_file",
        "pack",
        "hashing",
        "queue",
        "event_fields",
    ],
    &["upload", "packed_object"],
    &["group_commit"],
    &["context"],
    &["trust", "sign", "host_memory"],
    &["verify"],
    &["store"],
    &["remote"],
    &["transfer", "local", "small"],
    &["cache"],
    &["read"],
    &["fetch", "cat", "create", "inspect"],
    &["against"],
    &["storage"],
    &["push"],
    &["ingest"],
    &["library", "parts"],
    &["sync"],
];

/// How something is written that only some files may do.
enum Written {
    /// These names and all below them.
    Below(&'static [&'static str]),
    /// The last two names of a path.
    Ends(&'static [[&'static str; 2]]),
    /// A name, wherever it is.
    Word(&'static [&'static str]),
    /// A call of such a method in a layer.
    Method(&'static str, &'static str),
    /// A string of which this is true.
    Text(fn(&str) -> bool),
}
use Written::{Below, Ends, Method, Text, Word};

/// What only some files do, unit tests apart: how it is written, where it belongs, and why.
const PLACES: [(Written, &[&str], &str); 19] = [
    (
        Word(&["unsafe", "unsafe_code"]),
        &["disk/mapped.rs"],
        "one file has unsafe code, with the argument why it is sound",
    ),
    (
        Word(&["Mapped"]),
        &["disk/mapped.rs", "disk/store/cached.rs"],
        "only files of our own store are mapped: another program may shorten any other",
    ),
    (
        Word(&["spawn_blocking", "block_in_place"]),
        &["engine/blocking.rs"],
        "one file is the border between async code and files",
    ),
    (
        Below(&[
            "tokio::spawn",
            "tokio::task::spawn",
            "tokio::task::spawn_local",
            "tokio::task::JoinSet",
            "tokio::task::LocalSet",
        ]),
        &[
            // A task that ends with its owner.
            "engine/blocking.rs",
            "engine/transfer/driver.rs",
            "engine/remote/ranges.rs",
            "net/probe.rs",
            "serve/",
        ],
        "tasks have few owners, which end them",
    ),
    (
        Below(&["std::process::Command", "tokio::process"]),
        &["cli/player.rs"],
        "one file starts programs",
    ),
    (
        Ends(&[
            ["Trust", "None"],
            ["Trust", "Digest"],
            ["Trust", "Manifest"],
            ["Trust", "Root"],
            ["Trust", "Signed"],
        ]),
        &[
            "format/trust.rs",
            "policy/conditions.rs",
            // One hint for each word; it makes none.
            "cli/hints.rs",
        ],
        "what is trusted is decided in one place",
    ),
    (
        Method("sequence", ""),
        &["engine/trust.rs", "disk/"],
        "sequences are compared in one place",
    ),
    (
        Ends(&[["Store", "open"], ["State", "open"]]),
        &["engine/context.rs", "disk/"],
        "a run has one connection to the store",
    ),
    (
        Ends(&[["Content", "Part"]]),
        &[
            "net/",
            "engine/remote/source.rs",
            "engine/remote/source/",
            // What the first response says of the length; none of its bytes is used.
            "engine/remote/preflight.rs",
        ],
        "where the bytes of a response belong is decided in one place",
    ),
    (
        Word(&["write_unproven"]),
        &["engine/fetch/unknown_length.rs", "disk/"],
        "a part takes proven bytes, but where the length is not known",
    ),
    (
        Text(is_sql),
        &["disk/state/", "disk/sessions/", "engine/ingest/postgres/"],
        "SQL has one place for each database",
    ),
    (
        Text(names_flag),
        &[
            "cli/args/",
            "cli/hints.rs",
            "cli/targets.rs",
            "cli/network.rs",
        ],
        "flags are named where they are read, and in hints",
    ),
    (
        Method("send", "net/"),
        &["net/transport.rs"],
        "requests leave in one place",
    ),
    (
        Method("execute", "net/"),
        &["net/transport.rs"],
        "requests leave in one place",
    ),
    (
        Word(&[
            "AUTHORIZATION",
            "PROXY_AUTHORIZATION",
            "basic_auth",
            "bearer_auth",
        ]),
        &["net/auth/", "serve/ingest/tokens.rs"],
        "secrets are added in one place, and read in one",
    ),
    (
        Text(is_authorization),
        &["net/auth/"],
        "secrets are added in one place",
    ),
    (
        Word(&["sigv4"]),
        &["net/auth/"],
        "secrets are added in one place",
    ),
    (
        Word(&["netrc", "Netrc"]),
        &["net/auth/", "cli/network.rs", "cli/args/"],
        "secrets are added in one place",
    ),
    (Word(&["poisoned", "PoisonError"]), &[], LOCKS),
];

/// Places that the code before them makes impossible to reach: how many in which file, and why.
const UNREACHABLE: [(&str, usize, &str); 4] = [
    (
        "format/journal.rs",
        1,
        "the two kinds are read before the others",
    ),
    (
        "policy/schedule/events.rs",
        1,
        "the phase of a span has no such remedy",
    ),
    (
        "engine/transfer/outcome.rs",
        1,
        "it is asked for the error only if there is one",
    ),
    ("cli/keys.rs", 1, "clap asks for one of the two options"),
];

/// Words that are no terms, by their beginnings.
const WORDS_NOT_IN_SRC: [&str; 4] = ["knock", "obey", "hungry", "astray"];

/// Lines a source file may have, its unit tests not counted. There is no exception.
const LINES_MAX: usize = 500;
/// Lines a function may have.
const FUNCTION_LINES_MAX: usize = 70;
/// Longer functions, each with its reason.
const LONG_FUNCTIONS: [(&str, &str, &str); 1] = [(
    "cli/output/text.rs",
    "line",
    "a table: one arm for each event",
)];
/// Fields a struct may have.
const FIELDS_MAX: usize = 12;
/// Larger structs, each with its reason.
const LARGE_STRUCTS: [(&str, &str, &str); 7] = [
    (
        "cli/args/mod.rs",
        "ManifestArgs",
        "plain data: one field for each option",
    ),
    (
        "cli/args/fetch.rs",
        "FetchArgs",
        "plain data: one field for each option",
    ),
    (
        "cli/args/network.rs",
        "NetworkArgs",
        "plain data: one field for each option",
    ),
    (
        "engine/fetch/options.rs",
        "FetchOptions",
        "plain data: one field for each option",
    ),
    (
        "engine/events.rs",
        "Published",
        "plain data: what a fetch reports",
    ),
    (
        "format/ingest.rs",
        "Status",
        "plain data: one field for each key of the document",
    ),
    (
        "format/receipt.rs",
        "Receipt",
        "plain data: one field for each key of the document",
    ),
];

/// Words that say nothing, in names of files and types.
const EMPTY_WORDS: [&str; 10] = [
    "common", "handler", "helper", "helpers", "manager", "misc", "stuff", "util", "utility",
    "utils",
];

// ---- Reading Rust ---------------------------------------------------------------------------------------------------

/// A source file as words. Comments and strings are kept apart.
struct Source {
    /// Below src (or tests), with slashes.
    path: String,
    tokens: Vec<Token>,
    comments: String,
    strings: Vec<Token>,
    lines: usize,
    /// The line where the unit tests begin.
    tests: usize,
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
        let (code, comments, strings) = apart(text);
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
            strings,
            // A file of tests has no other lines.
            lines: match path.ends_with("/tests.rs") {
                true => 0,
                false => tests.unwrap_or(text.lines().count()),
            },
            tests: match path.ends_with("/tests.rs") {
                true => 0,
                false => tests.unwrap_or(usize::MAX),
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

/// The code and the comments, both with their lines where they were and without what is in quotes, and that.
fn apart(text: &str) -> (String, String, Vec<Token>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments, mut strings) = (String::new(), String::new(), Vec::new());
    let (mut index, mut line) = (0, 1);
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
            line += usize::from(chars[index] == '\n');
            index += 1;
            continue;
        }
        let taken: String = rest[..length.min(rest.len())].iter().collect();
        let blank: String = taken.chars().filter(|c| *c == '\n').collect();
        code.push_str(if comment { " " } else { "\"\"" });
        code.push_str(&blank);
        comments.push_str(if comment { &taken } else { &blank });
        if !comment && !taken.starts_with('\'') {
            let text = taken
                .trim_start_matches(['b', 'c', 'r', '#'])
                .trim_end_matches('#')
                .trim_matches('"');
            strings.push(Token {
                text: text.to_owned(),
                line,
            });
        }
        line += blank.len();
        index += length;
    }
    (code, comments, strings)
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
    if source.is_in(&[MUTATES, TERMINAL]) {
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
        // Of a merge.
        let is_marker = |sign: char| text.len() > 6 && text.chars().take(7).all(|it| it == sign);
        if is_marker('<') || is_marker('>') {
            found.push(format!("{path}:{}: a conflict is left over", line + 1));
        }
    }
    found
}

/// A file has one subject, which fits into so many lines.
fn length(source: &Source) -> Wrong {
    match source.lines > LINES_MAX {
        true => vec![wrong(
            source,
            LINES_MAX,
            &format!("{} lines without its unit tests", source.lines),
        )],
        false => Vec::new(),
    }
}

/// What has a length: functions by lines, structs by fields.
struct Measured<'a> {
    name: &'a str,
    line: usize,
    size: usize,
}

/// The functions and the lines of each, from its first word to its last brace.
fn functions(source: &Source) -> Vec<Measured<'_>> {
    let body = |index: usize| {
        let mut depth = 0;
        source.tokens[index..].iter().position(|token| {
            depth += nesting(&token.text, "([", ")]");
            depth == 0 && ["{", ";"].contains(&token.text.as_str())
        })
    };
    let named = named_after(source, "fn");
    let measured = named.filter_map(|index| {
        let start = index + body(index)?;
        let line = source.tokens[index - 1].line;
        let last = end_of(source, start)?;
        Some(Measured {
            name: &source.tokens[index].text,
            line,
            size: source.tokens[last].line - line + 1,
        })
    });
    measured.collect()
}

/// The structs and the number of their named fields.
fn structs(source: &Source) -> Vec<Measured<'_>> {
    let named = named_after(source, "struct");
    let measured = named.filter_map(|index| {
        let begins = |token: &&Token| ["{", "(", ";"].contains(&token.text.as_str());
        let start = index
            + source.tokens[index..]
                .iter()
                .position(|token| begins(&token))?;
        let last = end_of(source, start)?;
        let mut depth = 0;
        let is_field = |token: &&Token| {
            depth += nesting(&token.text, "{([", "})]");
            depth == 1 && token.text == ":"
        };
        Some(Measured {
            name: &source.tokens[index].text,
            line: source.tokens[index].line,
            size: source.tokens[start..last].iter().filter(is_field).count(),
        })
    });
    measured.collect()
}

/// Where the names are that follow such a word, unit tests apart.
fn named_after<'a>(source: &'a Source, word: &'static str) -> impl Iterator<Item = usize> + 'a {
    (1..source.tokens.len()).filter(move |index| {
        let two = &source.tokens[index - 1..=*index];
        two[0].text == word && is_word(&two[1].text) && two[0].line < source.tests
    })
}

/// Where the braces that open at a place close; `None` if none open there.
fn end_of(source: &Source, start: usize) -> Option<usize> {
    let mut depth = 0;
    let closes = |token: &Token| {
        depth += nesting(&token.text, "{", "}");
        depth == 0
    };
    let length = source.tokens[start..].iter().position(closes)?;
    (length > 0).then_some(start + length)
}

fn nesting(text: &str, open: &str, close: &str) -> i32 {
    i32::from(open.contains(text)) - i32::from(close.contains(text))
}

/// A function does one thing, a struct holds what belongs together.
fn sizes(source: &Source) -> Wrong {
    let excepted = |list: &[(&str, &str, &str)], name: &str| {
        list.iter()
            .any(|(path, listed, _)| *path == source.path && *listed == name)
    };
    let long = functions(source).into_iter().filter(|function| {
        function.size > FUNCTION_LINES_MAX && !excepted(&LONG_FUNCTIONS, function.name)
    });
    let large = structs(source)
        .into_iter()
        .filter(|measured| measured.size > FIELDS_MAX && !excepted(&LARGE_STRUCTS, measured.name));
    let tell = |measured: Measured<'_>, of: &str| {
        let what = format!("{} has {} {of}", measured.name, measured.size);
        wrong(source, measured.line, &what)
    };
    let long = long.map(|function| tell(function, "lines"));
    long.chain(large.map(|measured| tell(measured, "fields")))
        .collect()
}

/// Rooms of `engine` name rooms on lower floors.
fn floors(source: &Source) -> Wrong {
    let module = source.module();
    let [layer, room, ..] = &module[..] else {
        return Vec::new();
    };
    if layer != "engine" {
        return Vec::new();
    }
    let floor = |room: &str| FLOORS.iter().position(|floor| floor.contains(&room));
    let Some(here) = floor(room) else {
        return vec![wrong(source, 1, "this room has no floor")];
    };
    let mut found = Vec::new();
    for named in source.named().iter().filter(|named| !named.in_tests) {
        let path: Vec<&str> = named.path.iter().map(String::as_str).collect();
        match path[..] {
            ["crate", "engine", other, ..]
                if other != room && floor(other).is_none_or(|other| other >= here) =>
            {
                let what = format!("{}: not on a lower floor", path.join("::"));
                found.push(wrong(source, named.line, &what));
            }
            ["crate", "engine"] if named.import.as_ref().is_some_and(|import| import.glob) => {
                found.push(wrong(source, named.line, "imports all rooms"));
            }
            _ => (),
        }
    }
    found
}

/// What only some files do.
fn places(source: &Source) -> Wrong {
    let named = source.named();
    let mut found = Vec::new();
    for (written, places, reason) in &PLACES {
        if source.is_in(places) {
            continue;
        }
        let lines: Vec<usize> = match written {
            Below(prefixes) => named
                .iter()
                .filter(|named| {
                    let path = named.path.join("::");
                    let below = |prefix: &&str| {
                        path.strip_prefix(prefix)
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                    };
                    prefixes.iter().any(below)
                })
                .map(|named| named.line)
                .collect(),
            Ends(ends) => named
                .iter()
                .filter(|named| ends.iter().any(|end| ends_with(named, end)))
                .map(|named| named.line)
                .collect(),
            Word(words) => source
                .tokens
                .iter()
                .filter(|token| words.contains(&token.text.as_str()))
                .map(|token| token.line)
                .collect(),
            Method(name, layer) if source.path.starts_with(layer) => (1..source.tokens.len())
                .filter(|index| {
                    source.starts(index - 1, &[".", name, "("])
                        || source.starts(index - 1, &["::", name])
                })
                .map(|index| source.tokens[index].line)
                .collect(),
            Method(..) => Vec::new(),
            Text(is_such) => source
                .strings
                .iter()
                .filter(|string| is_such(&string.text))
                .map(|string| string.line)
                .collect(),
        };
        let lines = lines.into_iter().filter(|line| *line < source.tests);
        found.extend(lines.map(|line| wrong(source, line, &format!("{reason}: {places:?}"))));
    }
    found
}

/// Whether a path ends with two names, or takes all that is below the first.
fn ends_with(named: &Named, end: &[&str; 2]) -> bool {
    let glob = named.import.as_ref().is_some_and(|import| import.glob);
    let last = |count: usize| {
        let from = named.path.len().saturating_sub(count);
        named.path[from..].iter().map(String::as_str)
    };
    last(2).eq(*end) || glob && last(1).eq([end[0]])
}

fn is_sql(text: &str) -> bool {
    let statements = [
        "ALTER", "ATTACH", "BEGIN", "CREATE", "DELETE", "DROP", "INSERT", "PRAGMA", "REPLACE",
        "SELECT", "UPDATE", "VACUUM", "WITH",
    ];
    let mut words = text.split_whitespace();
    let first = words.next();
    // A method of HTTP, and a word of S3, stand alone.
    let is_alone = matches!(first, Some("DELETE" | "REPLACE")) && words.next().is_none();
    first.is_some_and(|first| statements.contains(&first)) && !is_alone
}

/// `--` and a letter, at the start or after a space.
fn names_flag(text: &str) -> bool {
    text.match_indices("--").any(|(at, _)| {
        let inside = text[..at].ends_with(|c: char| !c.is_whitespace() && !"(`'".contains(c));
        !inside && text[at + 2..].starts_with(char::is_alphabetic)
    })
}

fn is_authorization(text: &str) -> bool {
    let name = text.split(':').next().unwrap_or_default();
    ["authorization", "proxy-authorization"].contains(&name.to_lowercase().as_str())
}

/// `unreachable!` only where it is listed.
fn reachable(source: &Source) -> Wrong {
    let listed = UNREACHABLE
        .iter()
        .find(|(path, _, _)| *path == source.path)
        .map_or(0, |(_, count, _)| *count);
    let calls = (0..source.tokens.len())
        .filter(|index| source.starts(*index, &["unreachable", "!"]))
        .map(|index| source.tokens[index].line)
        .filter(|line| *line < source.tests);
    calls
        .skip(listed)
        .map(|line| wrong(source, line, "unreachable! has no reason in the list"))
        .collect()
}

/// Words that are no terms, in code, comments and strings.
fn plain_words(source: &Source) -> Wrong {
    let comments = source.comments.lines().enumerate();
    let comments = comments.map(|(line, text)| (line + 1, text));
    let tokens = source.tokens.iter().chain(&source.strings);
    let texts = comments.chain(tokens.map(|token| (token.line, token.text.as_str())));
    let mut found = Vec::new();
    for (line, text) in texts {
        let named = text.split(|c: char| !c.is_alphanumeric()).flat_map(words);
        let mut named = named.filter(|word| WORDS_NOT_IN_SRC.iter().any(|no| word.starts_with(no)));
        if let Some(word) = named.next() {
            found.push(wrong(source, line, &format!("{word} is no term")));
        }
    }
    found
}

/// Files that import each other in a circle, but for a parent module and those below it.
fn circles(sources: &[Source]) -> Wrong {
    let modules: BTreeMap<Vec<String>, usize> = sources
        .iter()
        .enumerate()
        .map(|(file, source)| (source.module(), file))
        .collect();
    let mut imports = vec![BTreeSet::new(); sources.len()];
    for (file, source) in sources.iter().enumerate() {
        for named in source.named().iter().filter(|named| !named.in_tests) {
            // From the root, or from a module below this one.
            let (path, least) = match named.path[0].as_str() {
                "crate" => (named.path[1..].to_vec(), 1),
                _ => {
                    let module = source.module();
                    let least = module.len() + 1;
                    ([module, named.path.clone()].concat(), least)
                }
            };
            // The file that holds what is named. The crate's root holds nothing.
            let mut lengths = (least..=path.len()).rev();
            let target = lengths.find_map(|length| modules.get(&path[..length]));
            imports[file].extend(target.filter(|target| **target != file));
        }
    }
    let module = |file: &usize| sources[*file].module();
    let mut found = Vec::new();
    let mut open = vec![(0..sources.len()).collect::<BTreeSet<usize>>()];
    while let Some(files) = open.pop() {
        for circle in circles_among(&files, &imports) {
            // Without the parent, those below it must be none.
            let parent = circle.iter().find(|parent| {
                let parent = module(parent);
                circle.iter().all(|file| module(file).starts_with(&parent))
            });
            match parent {
                Some(parent) => open.push(
                    circle
                        .iter()
                        .copied()
                        .filter(|file| file != parent)
                        .collect(),
                ),
                None => {
                    let names: Vec<&str> = circle
                        .iter()
                        .map(|file| sources[*file].path.as_str())
                        .collect();
                    found.push(format!("a circle of imports: {}", names.join(", ")));
                }
            }
        }
    }
    found
}

/// The groups of two files and more of which each reaches each other one.
fn circles_among(files: &BTreeSet<usize>, imports: &[BTreeSet<usize>]) -> Vec<BTreeSet<usize>> {
    let reached = |from: usize| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(
                imports[file]
                    .intersection(files)
                    .filter(|file| seen.insert(**file)),
            );
        }
        seen
    };
    let reached: BTreeMap<usize, BTreeSet<usize>> =
        files.iter().map(|file| (*file, reached(*file))).collect();
    let circle = |file: &usize| -> BTreeSet<usize> {
        let back = |other: &usize| reached[other].contains(file);
        reached[file].iter().copied().filter(back).collect()
    };
    let circles: BTreeSet<BTreeSet<usize>> = files.iter().map(circle).collect();
    circles
        .into_iter()
        .filter(|circle| circle.len() > 1)
        .collect()
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
                _ if [".git", "target", "__pycache__", "node_modules"]
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
fn functions_and_structs_are_small() {
    none(sources("src").iter().flat_map(sizes));
}

#[test]
fn rooms_of_engine_point_down() {
    none(sources("src").iter().flat_map(floors));
}

#[test]
fn each_thing_has_its_place() {
    none(sources("src").iter().flat_map(places));
}

#[test]
fn nothing_unreachable_is_unlisted() {
    none(sources("src").iter().flat_map(reachable));
}

#[test]
fn words_are_terms() {
    none(sources("src").iter().flat_map(plain_words));
}

#[test]
fn imports_have_no_circles() {
    none(circles(&sources("src")));
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
        ("net/client.rs", "use std::sync::{Arc, Mutex};"),
        ("engine/verify.rs", "use clap::Parser;"),
        ("engine/verify.rs", "fn f() { println!(\"x\") }"),
        ("engine/verify.rs", "fn f() { std::process::exit(1) }"),
        ("cli/fetch.rs", "use std::process; fn f() { process::exit(1) }"),
        ("cli/fetch.rs", "use std::process::ExitCode;"),
        ("cli/fetch.rs", "use axum::Router;"),
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
        ("disk/files/mod.rs", "use rustix::fs::{self, Mode}; fn f() { file.set_len(0) }"),
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
    assert!(!left_words("README.md", &format!("{} ours", "<".repeat(7))).is_empty());
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
}

#[test]
fn long_functions_and_large_structs_are_seen() {
    let function = |lines: usize| {
        format!(
            "pub fn f(a: [u8; 2])\n{{\n{}}}\n",
            "x();\n".repeat(lines - 3)
        )
    };
    let fields = |count: usize| {
        format!(
            "struct S<T: A> {{ {} }}",
            "#[b(c: d)] e: Vec<f::G>, ".repeat(count)
        )
    };
    let (limit, most) = (FUNCTION_LINES_MAX, FIELDS_MAX);
    check(
        sizes,
        &[
            ("format/tree.rs", &function(limit + 1)),
            (
                "format/tree.rs",
                &format!("impl A {{ fn g() {{\n{}}} }}", function(limit + 1)),
            ),
            ("cli/output/text.rs", &function(limit + 1)),
            ("format/tree.rs", &fields(most + 1)),
            ("cli/args/mod.rs", &fields(most + 1)),
        ],
        &[
            ("format/tree.rs", &function(limit)),
            (
                "format/tree.rs",
                &format!(
                    "trait A {{ fn f(&self); }}\n{}",
                    "fn g() {}\n".repeat(limit)
                ),
            ),
            (
                "cli/output/text.rs",
                &function(limit + 1).replace("fn f", "fn line"),
            ),
            (
                "format/tree.rs",
                &format!("mod tests {{ {} }}", function(limit + 1)),
            ),
            (
                "format/tree.rs",
                &format!("struct A; struct B(u8); {}", fields(most)),
            ),
            (
                "cli/args/fetch.rs",
                &fields(most + 1).replace("S<", "FetchArgs<"),
            ),
        ],
    );
}

#[test]
fn floors_are_seen() {
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("engine/trust.rs", "use super::fetch::FetchOptions;"),
        ("engine/trust.rs", "use crate::engine::{error, verify};"),
        ("engine/trust.rs", "use super::host_memory;"),
        ("engine/blocking.rs", "fn f(c: &crate::engine::context::Context) {}"),
        ("engine/blocking.rs", "use crate::engine; fn f(c: &engine::context::Context) {}"),
        ("engine/remote/mod.rs", "use super::transfer::sink;"),
        ("engine/local/seeds.rs", "use super::super::transfer::sink;"),
        ("engine/fetch/run.rs", "use crate::engine::cat;"),
        ("engine/fetch/run.rs", "use super::super::*;"),
        ("engine/fetch/run.rs", "use crate::engine::later;"),
        ("engine/later.rs", ""),
    ];
    #[rustfmt::skip]
    let good = [
        ("engine/mod.rs", "pub mod fetch;"),
        ("engine/fetch/run.rs", "use super::{options, publish}; use crate::{disk, engine::{blocking, transfer::sink}};"),
        ("engine/trust.rs", "use super::context::Context; mod tests { use super::super::fetch; }"),
        ("policy/recovery.rs", "use super::requests;"),
    ];
    check(floors, &bad, &good);
}

#[test]
fn things_out_of_place_are_seen() {
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("engine/cat.rs", "use tokio::task::spawn_blocking;"),
        ("engine/cat.rs", "fn f() { tokio::task::block_in_place(g) }"),
        ("engine/cat.rs", "fn f() { tokio::spawn(g()) }"),
        ("engine/cat.rs", "use tokio as t; fn f() { t::task::spawn(g()) }"),
        ("engine/cat.rs", "use tokio::{sync::mpsc, task::{AbortHandle, JoinSet}};"),
        ("engine/cat.rs", "use std::process::Command;"),
        ("cli/fetch.rs", "use tokio::process::{Child, Command};"),
        ("engine/cat.rs", "fn f() -> Trust { Trust::Signed }"),
        ("engine/cat.rs", "use crate::format::trust::Trust as T; fn f() { T::Root }"),
        ("engine/cat.rs", "use crate::format::trust::Trust::{Manifest, Root};"),
        ("engine/cat.rs", "use crate::format::trust::Trust::*;"),
        ("engine/cat.rs", "fn f() { state.sequence(k, n) }"),
        ("engine/cat.rs", "fn f() { State::sequence(state, k, n) }"),
        ("engine/cat.rs", "fn f() { crate::disk::store::Store::open(p) }"),
        ("engine/cat.rs", "use crate::disk::state::State as S; fn f() { S::open(p) }"),
        ("engine/cat.rs", "fn f() { part.write_unproven(b, 0) }"),
        ("engine/cat.rs", "use crate::net::response::Content; fn f() { Content::Part { bytes, total } }"),
        ("disk/store/mod.rs", "const A: &str = \"SELECT a FROM b\";"),
        ("disk/store/mod.rs", "const A: &str = r#\"\n  DELETE FROM b\"#;"),
        ("engine/error.rs", "const A: &str = \"give --root\";"),
        ("engine/error.rs", "#[error(\"--root\")] struct A;"),
        ("engine/error.rs", "const A: &str = r\"a (`--root`)\";"),
        ("net/client.rs", "fn f() { request\n.send().await }"),
        ("net/client.rs", "fn f() { client.execute(request) }"),
        ("net/request.rs", "use reqwest::header::AUTHORIZATION;"),
        ("net/request.rs", "fn f() { fields.insert(\"authorization\", v) }"),
        ("net/request.rs", "const A: &str = \"Authorization: Basic x\";"),
        ("net/request.rs", "fn f() { request.basic_auth(u, p) }"),
        ("cli/fetch.rs", "use crate::net::auth::netrc;"),
        ("net/hosts.rs", "fn f() { m.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) }"),
        ("net/hosts.rs", "use std::sync::PoisonError;"),
        ("disk/part.rs", "fn f() { unsafe { g() } }"),
        ("disk/store/cached.rs", "unsafe impl Send for A {}"),
        ("lib.rs", "#![allow(unsafe_code, reason = \"a\")]"),
        ("disk/seed.rs", "use super::mapped::Mapped;"),
    ];
    #[rustfmt::skip]
    let good = [
        ("engine/blocking.rs", "use tokio::task::spawn_blocking; mod tests { fn f() { tokio::spawn(g()) } }"),
        ("net/probe.rs", "use tokio::task::JoinSet;"),
        ("engine/cat.rs", "use tokio::task::AbortHandle; fn f(t: Trust) { t.is_signed(); Trust::default(); Other::Root }"),
        ("policy/conditions.rs", "fn f() -> Trust { Trust::Signed }"),
        ("engine/cat.rs", "fn f() { header.sequence; File::open(p) } mod tests { fn f() { Trust::Root } }"),
        ("engine/context.rs", "fn f() { Store::open(p) }"),
        ("engine/remote/source.rs", "use crate::net::response::Content; fn f() { Content::Part { bytes, total } }"),
        ("disk/state/seeds.rs", "const A: &str = \"SELECT a FROM b\";"),
        ("engine/error.rs", "// --root\nconst A: &str = \"a -- b, c--d, ---- x, {x}--{y}, Select the others\";"),
        ("cli/hints.rs", "const A: &str = \"give --root\";"),
        ("engine/cat.rs", "fn f() { sender.send(event); client.send(request) }"),
        ("net/transport.rs", "fn f() { builder.send() }"),
        ("net/error.rs", "const A: &str = \"proxy authorization required\";"),
        ("net/auth/mod.rs", "use super::netrc; use reqwest::header::AUTHORIZATION;"),
        ("disk/mapped.rs", "#![allow(unsafe_code)] fn f() { unsafe { g() } }"),
        ("disk/store/cached.rs", "use super::super::mapped::Mapped;"),
    ];
    check(places, &bad, &good);
}

#[test]
fn unreachable_places_and_odd_words_are_seen() {
    let reached = "fn f() { unreachable!(\"a\") }";
    let listed = |path| (path, reached);
    check(
        reachable,
        &[
            ("format/tree.rs", reached),
            ("cli/keys.rs", &reached.repeat(2)),
        ],
        &UNREACHABLE.map(|(path, _, _)| listed(path)),
    );
    #[rustfmt::skip] // One example a line.
    let bad = [
        ("net/probe.rs", "// It knocks."),
        ("net/probe.rs", "/// Knocking at it.\nfn f() {}"),
        ("net/probe.rs", "fn knock_twice() {}"),
        ("net/probe.rs", "struct HungryHost;"),
        ("net/probe.rs", "const A: &str = \"led astray\";"),
        ("net/probe.rs", "/* obeys */"),
    ];
    check(
        plain_words,
        &bad,
        &[("net/probe.rs", "// disobeyed: an unlocked stray")],
    );
}

#[test]
fn circles_are_seen() {
    let circles = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect();
        circles(&sources).len()
    };
    #[rustfmt::skip] // One example a line.
    let bad = [
        vec![("net/a.rs", "use super::b;"), ("net/b.rs", "use crate::net::a;")],
        vec![("net/a.rs", "use super::b::B;"), ("net/b.rs", "fn f() { super::c::g() }"), ("net/c.rs", "use super::{a::{A}};")],
        // Two children, whatever their parent does.
        vec![("net/mod.rs", "use a::A; use b::B;"), ("net/a.rs", "use super::{M, b};"), ("net/b.rs", "use super::{M, a};")],
        // Through a parent and its child.
        vec![("net/a.rs", "use super::b::f;"), ("net/b/mod.rs", "use c::C;"), ("net/b/c.rs", "use crate::net::a;")],
    ];
    for files in bad {
        assert_eq!(circles(&files), 1, "{files:?}");
    }
    #[rustfmt::skip]
    let good = [
        vec![("net/a.rs", "use super::b;"), ("net/b.rs", "use super::c;"), ("net/c.rs", "")],
        vec![("net/mod.rs", "use a::A;"), ("net/a.rs", "use super::{M, b};"), ("net/b.rs", "use super::M; mod tests { use super::super::a; }")],
        vec![("lib.rs", "use net::a;"), ("net/a.rs", "use crate::f;")],
    ];
    for files in good {
        assert_eq!(circles(&files), 0, "{files:?}");
    }
}

#[test]
fn exceptions_are_needed() {
    let sources = sources("src");
    let source = |path: &str| {
        sources
            .iter()
            .find(|source| source.path == path)
            .expect("its file")
    };
    for (path, name, _) in LONG_FUNCTIONS {
        let long =
            |function: &Measured<'_>| function.name == name && function.size > FUNCTION_LINES_MAX;
        assert!(functions(source(path)).iter().any(long), "{path}: {name}");
    }
    for (path, name, _) in LARGE_STRUCTS {
        let large = |measured: &Measured<'_>| measured.name == name && measured.size > FIELDS_MAX;
        assert!(structs(source(path)).iter().any(large), "{path}: {name}");
    }
    for (path, count, _) in UNREACHABLE {
        let source = source(path);
        let is_call = |index: &usize| source.starts(*index, &["unreachable", "!"]);
        assert_eq!(
            (0..source.tokens.len()).filter(is_call).count(),
            count,
            "{path}"
        );
    }
    for room in FLOORS.concat() {
        let is_room = |source: &Source| {
            source
                .module()
                .starts_with(&["engine".to_owned(), room.to_owned()])
        };
        assert!(sources.iter().any(is_room), "a floor of no room: {room}");
    }
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
