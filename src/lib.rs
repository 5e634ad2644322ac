//! Sapwood fetches files over plain HTTP and proves every block by a BLAKE3 tree. A file appears complete and proven, or not at all.
//!
//! This page is the map of the crate. `manifest-spec/` specifies what other programs see: the formats, the files, and the order in
//! which they are written.
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
//! let made = create::create(input, output, &CreateOptions::default(), unsigned)?;
//! assert_eq!(made.tree.root().to_string(), blake3::hash(b"a very short film").to_hex().as_str());
//!
//! let against = Against::Manifest { manifest: Box::new(ManifestFile::open(&beside)?), trust: Trust::Manifest, hints: false };
//! assert_eq!(verify::verify(&file, &against, &mut |_: Event| ())?, Verdict::Verified);
//!
//! // An event reports each damaged range.
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
//! // The root, from a place that you trust. Without it, the manifest beside the object is trusted.
//! options.root = Some("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262".parse()?);
//! let published = fetch::fetch(&Context::default(), options, &mut |event: Event| println!("{event:?}")).await?;
//! println!("{} bytes, of them {} from an earlier run", published.bytes_total, published.bytes_resumed);
//! # Ok(())
//! # }
//! ```
//!
//! Dropping the future of a fetch stops it cleanly. The same call later resumes it, even after a kill.
//! `tests/examples/fetch.rs` is a whole program.
//!
//! # Five ideas
//!
//! - **One identity.** An object is named by its BLAKE3 hash, its *root*. A *block* is a power-of-two piece of it, a *leaf* the
//!   block's value in the BLAKE3 tree; leaves merge up to the root, whatever the block size ([`format::tree`]).
//! - **One judge, many sources.** Every source of bytes (server, old file, store, journal) may be wrong, stale or hostile. Bytes
//!   count only after the judge has hashed them at their offset. Only the judge makes [`format::judge::Verified`] and
//!   [`format::judge::Proven`], and only [`disk::part`] makes [`disk::part::Stored`], for blocks that it wrote or judged. The
//!   blocks in a journal are only *claimed*: they are not fetched again, but judged before they are used.
//! - **One plan.** A run fetches the wanted blocks minus the held ones ([`policy::schedule`]). A first run, a resumed run and a run
//!   that finds the file complete differ only in the blocks that they hold. A fetch and a stream differ only in the blocks that they
//!   want, and in the sink that takes them (`engine/transfer/`).
//! - **Untrusted hints, from coarse to fine.** A manifest also has [`format::anchors`] and [`format::pieces`], hints that locate
//!   its content at other offsets of local files ([`policy::descent`]).
//! - **No second copy.** The store refers to the user's files and does not copy them ([`disk::store`]). A fetch writes only into
//!   its part, which becomes the finished file by a rename; a small object is proven in memory, and needs no part
//!   ([`disk::group_commit`]).
//!
//! # Layers
//!
//! Imports point down only, and no two files import each other in a circle. `tests/it/tidy.rs` enforces it, and the absences
//! below.
//!
//! | layer | what it is | may name |
//! |---|---|---|
//! | `cli` | the program: arguments, progress, JSON events, hints, exit codes | all |
//! | `serve` | HTTP servers: make a response from a request and a representation | engine, disk, policy, format |
//! | [`engine`] | the use cases: typed options in, typed events out | net, disk, policy, format |
//! | [`net`] | the HTTP client: request, secrets, redirects, response | policy, format |
//! | [`disk`] | local files, the part, the journal, the store; synchronous | policy, format |
//! | [`policy`] | decisions: how to react to a failure, which span is next, where to search, what to trust | format |
//! | [`format`](mod@format) | the byte formats, and the judge | nothing |
//!
//! Inside `engine` a module imports only from lower rows:
//!
//! | modules | what they do |
//! |---|---|
//! | [`sync`](engine::sync) | keeping a folder in step with a library |
//! | [`ingest`](engine::ingest) | taking uploads: sessions of clients, publishing, collection |
//! | [`push`](engine::push) | sending files and streams to a server or a storage |
//! | [`storage`](engine::storage) | where uploads go: staging, proof, publication |
//! | [`against`](engine::against) | what a local file is verified against: which manifest, or which root |
//! | [`fetch`](engine::fetch), [`cat`](engine::cat), [`create`](engine::create), [`inspect`](engine::inspect), [`library`](engine::library), [`parts`](engine::parts) | use cases |
//! | [`read`](engine::read) | reading an object with seek: several readers over one transfer and the cache |
//! | `cache` | the cached blocks of an object that is read |
//! | `transfer/`, `local/` | running the scheduler on connections, into a sink; finding blocks in local files |
//! | [`small`](engine::small) | small objects: one request each, in memory |
//! | `remote/` | opening an object and its manifest; reading ranges |
//! | [`store`](engine::store) | the commands of the store: add files, verify, clean up |
//! | [`verify`](engine::verify) | a local file against a manifest or a root |
//! | [`trust`](engine::trust), [`sign`](engine::sign), [`host_memory`](engine::host_memory) | whether a manifest is trusted; keys and signatures; the reputations of hosts |
//! | [`context`](engine::context) | client, store and limits, which every use case shares |
//! | [`blocking`](engine::blocking), [`manifest_file`](engine::manifest_file), [`hashing`](engine::hashing), [`queue`](engine::queue), [`event_fields`](engine::event_fields) | tools |
//! | [`group_commit`](engine::group_commit) | making small files durable together |
//! | [`events`](engine::events), [`connections`](engine::connections), [`observed`](engine::observed), [`error_kind`](engine::error_kind) | what is told while work is done; how many connections there are; which sidecars a folder has; what a caller can do about an error |
//! | [`error`](engine::error) | why a use case failed |
//!
//! # Where to change what
//!
//! | to change | look at |
//! |---|---|
//! | the manifest's bytes | `manifest-spec/manifest.md` first, then [`format::statement`], [`format::layout`], [`format::manifest`], [`format::reader`] |
//! | the journal's bytes | `manifest-spec/journal.md` first, then [`format::journal`]; when they are written: [`disk::journal`] |
//! | the files of the store's own objects | `manifest-spec/store.md` first, then `disk/store/leaves.rs` and `disk/store/cached.rs` |
//! | the receipt | [`format::receipt`] for the document, `engine/fetch/receipt.rs` for its values |
//! | the conditions on a manifest, and the trust it then has | [`policy::conditions`]; sequence numbers of earlier runs and the clock: `engine/trust.rs` |
//! | how many connections, which span next, when to give up | [`policy::schedule`]; the reaction to each failure: [`policy::recovery`]; the execution: `engine/transfer/driver.rs` |
//! | how often one request is repeated | [`policy::attempts`], `engine/remote/retry.rs` |
//! | how ranges are grouped into requests | [`policy::requests`], `engine/remote/ranges.rs` |
//! | which leaves are in memory, and where the others are | [`format::leaves`], [`disk::leaf_pages`], `engine/local/leaves.rs` |
//! | when a search for local blocks begins, and when it ends | `engine/local/mod.rs`, `engine/local/last.rs`; `engine/local/seeds.rs` |
//! | which offsets the bytes of a response have | `engine/remote/source.rs` |
//! | where proven blocks go | `engine/transfer/sink.rs`; for a file `engine/transfer/part.rs`, for readers `engine/read/memory.rs`, for the store `engine/cache.rs` |
//! | what is fetched for readers, and in which order | `engine/read/plan.rs`; whom a failure ends: `engine/read/failures.rs` |
//! | how blocks of the store are read | `disk/mapped.rs`, `disk/store/cached.rs` |
//! | how long a request waits that a host refused because it limits them | [`policy::refusals`] |
//! | what is remembered of a host that limits requests | [`policy::reputation`]; [`net::hosts`] applies it, [`disk::state`] keeps it |
//! | what the store knows, and which holding is tried first | [`disk::store`] for what it does, [`disk::state`] for the tables, [`policy::samples`] for the choice |
//! | requests, redirects, which addresses are allowed | [`net::client`], [`net::request`], `net/redirect.rs`, [`net::address`]; protocol and connections: `net/transport.rs`; proxies: [`net::proxies`]; certificates that the user names: [`net::authorities`]; secrets, sent only to the origin that the user typed: [`net::auth`]; which responses are used: [`net::response`] |
//! | where an object in S3 is requested, what its errors say | [`net::s3`]; signatures: [`net::auth::sigv4`]; the AWS variables and files: [`net::auth::aws`], read by `cli/aws.rs` |
//! | which validators are compared, and which part goes on | [`format::validators`], [`format::journal`] |
//! | the steps of a fetch | [`engine::fetch`]; with a manifest `engine/fetch/with_manifest.rs`, without one `engine/fetch/without_manifest.rs` |
//! | which blocks are found locally and not fetched | [`policy::descent`]; which files are searched: `engine/local/candidates.rs` |
//! | what a push sends, and what it goes on with | [`engine::push`]: `source.rs` for reading, `sessions.rs` for earlier runs, `send.rs` and `part.rs` for the parts, `follow.rs` and `growing.rs` for a file that is recorded (whether it has ended: [`disk::growing`]), `server.rs` for requests to a server, `direct.rs` for those to a storage, `base.rs` for what an earlier object has; the documents: [`format::ingest`]; content: `engine/upload/content.rs`, its sending and stalls: `net/sending.rs` |
//! | many objects in one run | [`engine::queue`] |
//! | what a sync does to which file | [`policy::sync`], [`policy::filters`]; the index and its trust: `engine/sync/index.rs`; what is here: `engine/sync/here.rs`, `state.rs` beside it; the steps: `engine/sync/run.rs` |
//! | part, lock, rename, sync | [`disk::destination`] for the order, [`disk::files`] for the calls; many files at once: `engine/fetch/locks.rs`, [`disk::group_commit`], [`disk::durable`] |
//! | a folder that is kept in step with a library: staging, names, trash | [`disk::replica`] |
//! | the responses of a server | `serve/representation.rs` |
//! | what `serve` has under which path | `serve/origin/path.rs` for the paths, `manifests.rs` beside it for manifests that are made, `queue.rs` for their order, `scan.rs` for changes, `library.rs` for the index of the folder, `endpoint.rs` for manifests and JSON, `index_page.rs` for folders |
//! | the connections of a server | `serve/connections/mod.rs` for the limits, `slots.rs` beside it for who makes room, `one.rs` for HTTP/1.1 and HTTP/2; `serve/tls.rs` |
//! | the access log and the metrics of a server | `serve/connections/exchange.rs` for what is counted, `cli/access_log.rs` for the lines, `serve/metrics.rs` for the page |
//! | uploads that a server takes | `manifest-spec/upload.md` first; requests, tokens, signed URLs: `serve/ingest/`; staged parts: [`engine::storage::folder`], [`disk::staging`] |
//! | uploads of other clients | `manifest-spec/upload-clients.md` first; Uppy: `serve/ingest/companion.rs`, `any_part.rs`, `form.rs`; tus and the IETF draft: `serve/ingest/resumable.rs`, `dialects.rs`; bytes on their way: `serve/ingest/streams.rs`; into the storage: `append.rs` of [`engine::storage::folder`] and [`engine::storage::s3`] |
//! | the gateway | `manifest-spec/http.md` first, then [`serve::gateway`]; who is answered: `serve/gateway/host.rs`, `serve/gateway/token.rs`; which files of libraries are open: `serve/gateway/objects.rs`; its page: `serve/gateway/page.html` |
//! | an object that is played while it is uploaded | `manifest-spec/upload.md` first; the server: `serve/ingest/growing.rs`, `engine/ingest/growing.rs`; the reader: [`engine::read::growing`]; the gateway: `serve/gateway/growing.rs` |
//! | uploads | `manifest-spec/upload.md` first, then [`policy::upload`] for the changes of a session, [`policy::parts`] for sizes, [`format::upload`] for the record of a part |
//! | what a server does with a request of an upload | [`engine::ingest`]; where sessions are kept: `engine/ingest/session_store.rs`, [`disk::sessions`], `engine/ingest/postgres/`; what the operator is told: [`format::notice`], `engine/ingest/notices.rs`, `cli/finals.rs`; where bytes go: [`engine::storage`]; what is copied of earlier objects: `engine/ingest/copies.rs`, `engine/storage/copies.rs`, and `copy.rs` of each storage; in S3: `calls.rs` of [`engine::storage::s3`] for the requests, `finalize.rs`, `proof.rs` and `publish.rs` beside it for the steps |
//! | an option of the program | `cli/args/` for its syntax, the command's file in `cli/` for its meaning, `cli/network.rs` for the network; the configuration file: `cli/config.rs`; lines of a list: `cli/list.rs`; examples and what manual pages say: `cli/args/examples.rs` |
//! | what is printed | `cli/output/text.rs`, [`engine::event_fields`] for JSON (their page: [`docs::events`]), many files in one line: `cli/output/total.rs`; advice that names flags: `cli/hints.rs` |
//! | an exit code | [`engine::error_kind`], `cli/exit.rs`; the page about them: [`docs::exit_codes`] |
//!
//! # Absences
//!
//! - `format` and `policy` perform no I/O: no files, sockets, clocks, threads or async code. Callers pass in events and the time.
//! - `disk` and `net` never import each other; `engine` connects them.
//! - Only [`format::codec`] names bincode, only [`disk::state`], [`disk::sessions`] and `engine/ingest/postgres/` have SQL, only [`disk::files`] changes files, only `cli` names clap, only [`engine::error_kind`]
//!   maps errors of the library to exit codes, only `cli/exit.rs` those of the start of a server.
//! - Only [`engine::blocking`] moves work from async code to a blocking thread, only [`engine::context`] opens the store, only [`policy::conditions`] makes a
//!   [`Trust`](format::trust::Trust), only `net/transport.rs` sends a request, only [`net::auth`] adds secrets to it.
//! - Only `cli/player.rs` starts programs.
//! - Only `cli` names flags of the program: the library's errors do not.
//! - Only `disk/mapped.rs` has `unsafe` code, with the argument why it is sound, and only files of our own store are mapped.
//! - There is no panic that outside input can cause, and no file name that a server chose.
//!
//! # Features
//!
//! `cli` and `serve` are on by default. Without them (`default-features = false`) this is the library alone. `postgres` adds
//! sessions of uploads that many servers share. `http3` adds HTTP/3. It needs the rustc flag in `.cargo/config.toml`; a crate that depends on this one must set that flag too.

pub mod disk;
pub mod engine;
pub mod format;
pub mod net;
pub mod policy;
#[cfg(feature = "serve")]
pub mod serve;

/// What scripts and programs around the program rely on.
pub mod docs {
    #[doc = include_str!("docs/exit-codes.md")]
    pub mod exit_codes {}
    #[doc = include_str!("docs/events.md")]
    pub mod events {}
}

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub use cli::run;
