//! Sapwood describes a file by a BLAKE3 tree and moves it over plain HTTP, so that it lands whole and proven, or not at all.
//!
//! This page is the map of the crate. What is seen from outside (formats, files, their order on disk) is in `manifest-spec/`.
//!
//! # Make, verify, fetch
//!
//! ```
//! use sapwood::{
//!     format::trust::Trust,
//!     engine::{
//!         create::{self, CreateOptions, Input, Output},
//!         events::Event,
//!         manifest_file::{self, ManifestFile},
//!         verify::{self, Against, Verdict},
//!     },
//! };
//!
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("talk.mp4");
//! std::fs::write(&file, b"a very short film")?;
//!
//! // talk.mp4.sapwood, beside the file. The root is what `b3sum talk.mp4` prints.
//! let beside = manifest_file::beside(&file);
//! let (input, output) = (Input::File(file.clone()), Output::File(beside.clone()));
//! let unsigned = None;
//! let tree = create::create(input, output, &CreateOptions::default(), unsigned)?;
//! assert_eq!(tree.root().to_string(), blake3::hash(b"a very short film").to_hex().as_str());
//!
//! let against = Against::Manifest { manifest: Box::new(ManifestFile::open(&beside)?), trust: Trust::Manifest };
//! assert_eq!(verify::verify(&file, &against, &mut |_: Event| ())?, Verdict::Verified);
//!
//! // Damage is named, place by place.
//! std::fs::write(&file, b"a very short fi1m")?;
//! let mut tell = |event: Event| {
//!     if let Event::Damaged(damaged) = event {
//!         println!("{}: bytes {} are damaged", damaged.path.display(), damaged.bytes);
//!     }
//! };
//! assert_eq!(verify::verify(&file, &against, &mut tell)?, Verdict::Damaged { blocks: 1 });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```no_run
//! use sapwood::{
//!     engine::{context::Context, events::Event, fetch::{self, FetchOptions}},
//!     net::location::Location,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let url = Location::parse("https://media.example/talk.mp4")?;
//! let mut options = FetchOptions::new(url, "talk.mp4");
//! // From a place that you trust. Without it, the manifest beside the object is trusted.
//! options.root = Some("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262".parse()?);
//! let published = fetch::fetch(&Context::default(), options, &mut |event: Event| println!("{event:?}")).await?;
//! println!("{} bytes, of them {} from an earlier run", published.bytes_total, published.bytes_resumed);
//! # Ok(())
//! # }
//! ```
//!
//! Dropping the future of a fetch is a clean stop; the same call goes on from there. So does a call after a kill.
//! `tests/examples/fetch.rs` is a whole program.
//!
//! # Five ideas
//!
//! - **One identity.** An object is named by its BLAKE3 hash, its *root*. A *block* is a power-of-two piece of it, a *leaf* the
//!   block's value in the BLAKE3 tree; leaves merge up to the root, whatever the block size ([`format::tree`]).
//! - **One judge, many finders.** Whatever suggests where bytes may be found may be wrong, stale or hostile. Bytes count only
//!   when the judge has hashed them at their place: [`format::judge::Verified`] and [`format::judge::Proven`] have no other maker,
//!   and [`disk::part`] returns [`disk::part::Stored`] only for what it wrote or judged. What a journal says is *claimed*: it is
//!   not fetched again, but judged before it is used.
//! - **One plan.** What is wanted, less what is here, is what is fetched: a first run, one after a kill, and one with the file
//!   already there differ in what they have ([`policy::schedule`]). A fetch and a stream differ in what they want, and in the
//!   sink that takes the blocks (`engine/transfer/`).
//! - **Hints from coarse to fine, untrusted.** A manifest also carries [`format::anchors`] and [`format::pieces`], by which content
//!   that moved is found again ([`policy::descent`]).
//! - **No second copy.** What is here is used where it lies ([`disk::store`]); the only file beside the finished one is its part.
//!
//! # Layers
//!
//! Imports point down only, and no two files import each other in a circle. `tests/it/tidy.rs` enforces it, and the absences
//! below.
//!
//! | layer | what it is | may name |
//! |---|---|---|
//! | `cli` | the program: arguments, progress, JSON events, hints, exit codes | all |
//! | `serve` | HTTP servers: from a request and a representation to a response | engine, disk, policy, format |
//! | [`engine`] | the use cases: typed options in, typed events out | net, disk, policy, format |
//! | [`net`] | the HTTP client: request, secrets, redirects, response | policy, format |
//! | [`disk`] | local files, the part, the journal, the store; synchronous | policy, format |
//! | [`policy`] | decisions: failure and remedy, next span, where to search, what is trusted | format |
//! | [`format`](mod@format) | every byte format that is written down, and the proof | nothing |
//!
//! Inside `engine` imports point down too. Its floors, the highest first:
//!
//! | rooms | what they do |
//! |---|---|
//! | [`fetch`](engine::fetch), [`cat`](engine::cat), [`create`](engine::create), [`inspect`](engine::inspect) | use cases |
//! | `cache` | what the store holds of an object that is streamed |
//! | `transfer/`, `local/` | the scheduler on sockets, and the sinks; what is on this machine already |
//! | `remote/` | opening an object and its manifest; reading ranges |
//! | [`store`](engine::store) | files that the user adds to the store, and what is known of them |
//! | [`verify`](engine::verify) | a local file against a manifest or a root |
//! | [`trust`](engine::trust), [`sign`](engine::sign), [`host_memory`](engine::host_memory) | whether a manifest is trusted; keys; the reputation of hosts |
//! | [`context`](engine::context) | client, store and limits, which every use case shares |
//! | [`blocking`](engine::blocking), [`manifest_file`](engine::manifest_file), [`hashing`](engine::hashing), [`queue`](engine::queue) | tools |
//! | [`error`](engine::error), [`events`](engine::events), [`connections`](engine::connections) | types that all of them share |
//!
//! # Where to change what
//!
//! | to change | look at |
//! |---|---|
//! | the manifest's bytes | `manifest-spec/manifest.md` first, then [`format::statement`], [`format::layout`], [`format::manifest`], [`format::reader`] |
//! | the journal's bytes | `manifest-spec/journal.md` first, then [`format::journal`]; when they are written: [`disk::journal`] |
//! | the files of the store's own objects | `manifest-spec/store.md` first, then `disk/store/leaves.rs` and `disk/store/cached.rs` |
//! | the receipt | [`format::receipt`] for the document, `engine/fetch/receipt.rs` for what it says of a fetch |
//! | what a manifest must satisfy, and what it proves then | [`policy::conditions`]; the sequences of earlier runs and the clock: `engine/trust.rs` |
//! | how many connections, which span next, when to give up | [`policy::schedule`]; what follows from which failure: [`policy::recovery`]; what carries it out: `engine/transfer/driver.rs` |
//! | how often one request is repeated | [`policy::attempts`], `engine/remote/retry.rs` |
//! | how ranges are distributed over requests | [`policy::requests`], `engine/remote/ranges.rs` |
//! | where the bytes of a response belong | `engine/remote/source.rs` |
//! | where proven blocks go | `engine/transfer/sink.rs`; for a file `engine/transfer/part.rs`, for a reader `engine/transfer/window.rs`, for the store `engine/cache.rs` |
//! | what is remembered of a host that limits requests | [`policy::reputation`]; [`net::hosts`] applies it, [`disk::state`] keeps it |
//! | what the store knows, and which holding is tried first | [`disk::store`] for what it does, [`disk::state`] for the tables, [`policy::samples`] for the choice |
//! | requests, redirects, which addresses are allowed | [`net::client`], [`net::request`], `net/redirect.rs`, [`net::address`]; protocol and connections: `net/transport.rs`; what is sent only to the origin that the user typed: [`net::auth`]; which responses are used: [`net::response`] |
//! | the steps of a fetch | [`engine::fetch`]; with a manifest `engine/fetch/with_manifest.rs`, without one `engine/fetch/without_manifest.rs` |
//! | what need not be fetched because it is here | [`policy::descent`]; which files are searched: `engine/local/candidates.rs` |
//! | many objects in one run | [`engine::queue`] |
//! | part, lock, rename, sync | [`disk::destination`] for the order, [`disk::files`] for the calls |
//! | what a server answers | `serve/representation.rs`; which files it has: `serve/origin.rs` |
//! | an option of the program | `cli/args.rs` for what is typed, the command's file in `cli/` for what it means, `cli/network.rs` for the network |
//! | what is printed | `cli/output/text.rs`, `cli/output/json.rs`; advice that names flags: `cli/hints.rs` |
//! | an exit code | `cli/exit.rs` |
//!
//! # Absences
//!
//! - `format` and `policy` perform no I/O: no files, sockets, clocks, threads or async code. They are told what happened and what time it is.
//! - `disk` and `net` do not use each other; only `engine` uses both.
//! - Only [`format::codec`] names bincode, only [`disk::state`] has SQL, only [`disk::files`] changes files, only `cli` names clap, only `cli/exit.rs` maps
//!   errors to exit codes.
//! - Only [`engine::blocking`] leaves async code for a thread, only [`engine::context`] opens the store, only [`policy::conditions`] makes a
//!   [`Trust`](format::trust::Trust), only `net/transport.rs` sends a request, only [`net::auth`] adds secrets to it.
//! - Only `cli` names flags of the program: the library's errors do not.
//! - There is no `unsafe`, no panic on anything that came from outside, and no name of a file that a server chose.
//!
//! # Features
//!
//! `cli` and `serve` are on by default. Without them (`default-features = false`) this is the library alone. `http3` adds
//! HTTP/3; it needs the flag in `.cargo/config.toml`; a crate that depends on this one must give it too.

pub mod disk;
pub mod engine;
pub mod format;
pub mod net;
pub mod policy;
#[cfg(feature = "serve")]
pub mod serve;

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub use cli::run;
