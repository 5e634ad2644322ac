//! Fetching an object whose length the server does not declare: one response from start to end, which cannot be resumed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    disk::{destination::Locked, error::DiskError, part::Part},
    engine::{
        blocking::{self, Group},
        error::Error,
        events::{Event, Progress, Published},
        remote::{
            preflight::retried_whole,
            retry::{Attempts, reported},
            source::{Extent, Source, SourceResponse},
        },
    },
    format::{
        digests::{Algorithm, Digest, DigestHasher},
        geometry::{BlockSize, Geometry},
        journal::Identity,
        manifest::Tree,
        tree::{Cv, PartHasher, Root},
        validators::Validators,
    },
    net::error::NetError,
    policy::recovery::Failure,
};

use super::{
    publish::{Expected, LocalBytes, Proof, WholePart, compare_and_publish},
    run::Run,
};

/// Bytes that are hashed and written together.
const BATCH_BYTES: usize = 1 << 20;
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// The block size of the leaves, fixed because the length is unknown.
const BLOCK_BYTES: u64 = 1 << 20;

/// Hashes and writes the bytes.
struct Writer {
    part: Arc<Part>,
    at: u64,
    /// The leaves of complete blocks.
    leaves: Vec<Cv>,
    block: PartHasher,
    /// The root of the object if the first block is its only one.
    only: Option<Root>,
    hashers: Vec<DigestHasher>,
}

impl Writer {
    fn new(part: Arc<Part>, algorithms: &[Algorithm]) -> Writer {
        let hashers = algorithms
            .iter()
            .map(|algorithm| DigestHasher::new(*algorithm))
            .collect();
        Writer {
            part,
            at: 0,
            leaves: Vec::new(),
            block: PartHasher::new(0),
            only: None,
            hashers,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.hash(bytes);
        self.hashers
            .iter_mut()
            .for_each(|hasher| hasher.update(bytes));
        self.part.write_unproven(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn hash(&mut self, mut bytes: &[u8]) {
        let mut at = self.at;
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - at % BLOCK_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.block.update(now);
            (at, bytes) = (at + now.len() as u64, later);
            if at.is_multiple_of(BLOCK_BYTES) {
                self.end_block();
                self.block = PartHasher::new(at);
            }
        }
    }

    fn end_block(&mut self) {
        if self.leaves.is_empty() {
            self.only = Some(self.block.root());
        }
        self.leaves.push(self.block.value());
    }

    /// The tree of everything that was written; `None`: the object is too long to have one.
    fn tree(&mut self) -> Option<Tree> {
        let block_size = BlockSize::new(BLOCK_BYTES)?;
        let geometry = Geometry::new(self.at, block_size)?;
        if self.leaves.len() < geometry.blocks() as usize {
            self.end_block();
        }
        let mut leaves = std::mem::take(&mut self.leaves);
        if let ([only], Some(root)) = (&mut leaves[..], self.only) {
            *only = root.0;
        }
        Some(Tree::new(geometry, leaves, None))
    }
}

pub async fn fetch(
    run: &mut Run<'_>,
    locked: Locked,
    expected: Expected,
    first: Option<Box<SourceResponse>>,
) -> Result<Published, Error> {
    // An unknown length makes an identity that no later run continues.
    let geometry = Geometry::new(0, BlockSize::DEFAULT).expect("one empty block");
    let identity = Identity {
        root: None,
        geometry,
        etag: None,
        last_modified: None,
    };
    let trust = expected.trust;
    // Opening the part drops what an earlier run left there: only for a response that can be used.
    let source = Source::http(&run.context.client, &run.options.url);
    let limits = run.context.limits_now();
    let response = match first.filter(|first| matches!(first.extent(), Extent::Whole { .. })) {
        Some(first) => *first,
        None => reported(&mut *run.events, retried_whole(&source, &limits)).await?,
    };
    let (locked, opened) = run.open_part(locked, &identity, trust, 0).await?;
    let algorithms: Vec<Algorithm> = expected.digests.iter().map(Digest::algorithm).collect();
    let (mut writer, end_declared) =
        receive(run, &source, response, opened.part, &algorithms).await?;
    let length = writer.at;
    let tree = writer.tree().ok_or_else(|| Error::TooLarge {
        place: run.options.url.to_string(),
        bytes: length,
    })?;
    // A digest of the whole object proves its end too.
    let end_known = end_declared || !expected.digests.is_empty();
    if !end_known {
        let message = format!(
            "{} declared no length and ended the connection: the end of the object is not known, and bytes may be missing",
            run.options.url
        );
        run.events.event(Event::Warning { message });
    }
    let Writer { part, hashers, .. } = writer;
    let part = blocking::on_disk(move || part.settle(length).map(|()| part)).await?;
    let whole = WholePart {
        part,
        journal: opened.journal,
        proof: Proof {
            root: tree.root(),
            length,
            trust,
            digests: hashers.into_iter().map(DigestHasher::finish).collect(),
            // Versions of such an object cannot be distinguished.
            validators: Validators::default(),
            tree: Some(tree),
            end_known,
        },
        local: LocalBytes::default(),
    };
    compare_and_publish(run, locked, whole, &expected).await
}

/// Receives the object. A response that breaks is followed by another one, from the start. Returns whether the last one declared its
/// end.
async fn receive(
    run: &mut Run<'_>,
    source: &Source,
    mut response: SourceResponse,
    mut part: Arc<Part>,
    algorithms: &[Algorithm],
) -> Result<(Writer, bool), Error> {
    let limits = run.context.limits_now();
    let mut attempts = Attempts::new(&limits);
    loop {
        let mut writer = Some(Writer::new(part, algorithms));
        let outcome = stream_once(run, &mut response, &mut writer).await;
        let writer = writer.expect("the work on it has ended");
        let error = match outcome {
            Ok(()) => return Ok((writer, response.end_declared)),
            Err(Error::Net { cause, .. }) => cause,
            Err(other) => return Err(other),
        };
        if writer.at > 0 {
            attempts.progress();
        }
        response = reported(&mut *run.events, async {
            attempts.wait_after(error).await?;
            retried_whole(source, &limits).await
        })
        .await?;
        // Without a length and a validator there is nothing to resume from.
        if writer.at > 0 {
            run.events.event(Event::StartedOver {
                path: writer.part.path().to_owned(),
                bytes: writer.at,
                url: None,
            });
        }
        part = blocking::on_disk(move || {
            writer.part.set_length(0)?;
            Ok(writer.part)
        })
        .await?;
    }
}

/// Streams the object into the writer. `writer` is `Some` again when this returns.
async fn stream_once(
    run: &mut Run<'_>,
    response: &mut SourceResponse,
    writer: &mut Option<Writer>,
) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    let (mut written, mut reported) = (0, Instant::now());
    while let Some((_, chunk)) = response.next().await? {
        batch.extend_from_slice(&chunk);
        let received = written + batch.len() as u64;
        if run.options.max_size.is_some_and(|most| received > most) {
            return Err(NetError::new(&run.options.url, Failure::TooLarge).into());
        }
        if batch.len() >= BATCH_BYTES {
            written = received;
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_BYTES));
            write(run, writer, full).await?;
        }
        if reported.elapsed() >= PROGRESS_TIME {
            reported = Instant::now();
            run.events.event(Event::Progress(Progress {
                bytes_done: written,
                bytes_total: 0,
                bytes_fetched: run.context.client.bytes_fetched(),
                bytes_proven: 0,
                rate_bps: 0,
                files: None,
            }));
        }
    }
    write(run, writer, batch).await
}

/// Hashes and writes a batch, where that may block.
async fn write(
    run: &mut Run<'_>,
    writer: &mut Option<Writer>,
    batch: Vec<u8>,
) -> Result<(), Error> {
    let mut own = writer.take().expect("nothing else works on it");
    let (group, _) = Group::new();
    let work = group.start(run.context.threads, move || {
        let outcome = own.write(&batch);
        (own, outcome)
    });
    let (own, outcome) = work.finish().await;
    *writer = Some(own);
    Ok(outcome?)
}
