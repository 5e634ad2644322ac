//! Fetching an object whose length the server does not tell: one answer from front to end, nothing to resume.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    disk::{destination::Locked, error::DiskError, part::Part},
    engine::{
        error::Error,
        events::{Event, Progress, Published},
        remote::retry::Attempts,
    },
    format::{
        digests::{Algorithm, Digest, DigestHasher},
        geometry::{BlockSize, Geometry},
        journal::Identity,
        manifest::Tree,
        tree::{Cv, PartHasher, Root},
        trust::Trust,
    },
    net::{
        client::{Content, Request, Validators},
        error::NetError,
    },
    policy::recovery::{BadAnswer, Failure},
};

use super::{Fetch, publish::Proof};

/// Bytes that are hashed and written together.
const BATCH_BYTES: usize = 1 << 20;
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// Of the leaves that are made on the way: nobody knows how many there will be.
const BLOCK_BYTES: u64 = 1 << 20;

/// Hashes what is written.
struct Writer {
    part: Arc<Part>,
    at: u64,
    /// Of the blocks that are whole.
    leaves: Vec<Cv>,
    block: PartHasher,
    /// What the first block is if there is no other.
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
        self.part.write(bytes, self.at)?;
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

    /// The tree of all that was written; `None`: it is too long to have one.
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

impl Fetch<'_> {
    pub(super) async fn stream(
        mut self,
        locked: Locked,
        wanted: Vec<Digest>,
        trust: Trust,
    ) -> Result<Published, Error> {
        // A length that nobody knows makes an identity that nothing continues.
        let geometry = Geometry::new(0, BlockSize::DEFAULT).expect("one empty block");
        let identity = Identity {
            root: None,
            geometry,
            etag: None,
            last_modified: None,
        };
        let (locked, opened) = self.open(locked, &identity, trust, 0).await?;
        let algorithms: Vec<Algorithm> = wanted.iter().map(Digest::algorithm).collect();
        let mut failures = Attempts::new(&self.limits());
        let mut part = opened.part;
        let mut writer = loop {
            let mut writer = Writer::new(part, &algorithms);
            let error = match self.stream_once(&mut writer).await {
                Ok(()) => break writer,
                Err(Error::Net { cause, .. }) => cause,
                Err(other) => return Err(other),
            };
            if writer.at > 0 {
                failures.progress();
            }
            failures.wait_after(error).await?;
            // Without a length and a validator there is nothing to go on from.
            self.started_over(&locked, writer.at);
            writer.part.set_length(0)?;
            part = writer.part;
        };
        let length = writer.at;
        let tree = writer.tree().ok_or_else(|| Error::TooLarge {
            place: self.options.url.to_string(),
            bytes: length,
        })?;
        let Writer { part, hashers, .. } = writer;
        let root = tree.root();
        self.tree = Some(tree);
        let digests: Vec<Digest> = hashers.into_iter().map(DigestHasher::finish).collect();
        let proof = Proof {
            root,
            length,
            trust,
            digests,
            // Versions of such an object cannot be told apart.
            validators: Validators::default(),
        };
        let part = (part, opened.journal);
        self.compare_and_publish(locked, part, proof, &wanted, 0)
            .await
    }

    async fn stream_once(&mut self, writer: &mut Writer) -> Result<(), Error> {
        let mut answer = self.client.get(Request::whole(&self.options.url)).await?;
        let is_whole = match answer.content {
            Content::Whole { .. } => true,
            Content::Part { bytes, total } => bytes.start == 0 && total == Some(bytes.end),
        };
        if !is_whole {
            let part = Failure::BadAnswer(BadAnswer::NotWhole);
            return Err(NetError::new(&self.options.url, part).into());
        }
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        let mut told = Instant::now();
        while let Some(chunk) = answer.body.next().await? {
            batch.extend_from_slice(&chunk);
            if batch.len() >= BATCH_BYTES {
                writer.write(&batch)?;
                batch.clear();
            }
            if self
                .options
                .max_size
                .is_some_and(|most| writer.at + batch.len() as u64 > most)
            {
                return Err(NetError::new(&self.options.url, Failure::TooLarge).into());
            }
            if told.elapsed() >= PROGRESS_TIME {
                told = Instant::now();
                self.events.event(Event::Progress(Progress {
                    bytes_done: writer.at,
                    bytes_total: 0,
                    bytes_fetched: self.client.bytes_fetched(),
                    bytes_proven: 0,
                    rate_bps: 0,
                }));
            }
        }
        Ok(writer.write(&batch)?)
    }
}
