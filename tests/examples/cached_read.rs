//! Reads an object that the store holds: `cached_read FOLDER URL plain|mapped in-order|random`.
//!
//! The store is in FOLDER. What it does not hold is fetched from URL, so the first run fills it. Prints one line of JSON: how many
//! bytes were read, and how many were fetched, those of the manifest among them.

use std::{process::ExitCode, sync::Arc};

use futures_util::StreamExt;
use sapwood::{
    disk::store::Reads,
    engine::{
        context::{Context, StoreHandle},
        error::Error,
        events::Event,
        read::{self, ReadOptions, SharedObject},
    },
    format::{geometry::ByteRange, trust::Trust},
    net::location::Location,
};

/// Random ranges, and the bytes of each.
const RANGES: u64 = 2_000;
const RANGE_BYTES: u64 = 256 << 10;

type Failure = Box<dyn std::error::Error>;

/// `SplitMix64`: the same ranges in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// Reads a range, and looks at every page of it, as a socket would.
async fn read_range(object: &SharedObject, bytes: ByteRange) -> Result<(u64, u64), Arc<Error>> {
    let mut reader = object.reader(bytes);
    let (mut read, mut seen) = (0, 0);
    while let Some(chunk) = reader.next().await {
        let chunk = chunk?;
        read += chunk.len() as u64;
        // A copy, as into a socket.
        seen += chunk
            .to_vec()
            .iter()
            .step_by(4096)
            .map(|byte| u64::from(*byte))
            .sum::<u64>();
    }
    Ok((read, seen))
}

async fn run(arguments: &[String]) -> Result<(), Failure> {
    let [folder, url, reads, order] = arguments else {
        return Err("cached_read FOLDER URL plain|mapped in-order|random".into());
    };
    let reads = match reads.as_str() {
        "plain" => Reads::Plain,
        "mapped" => Reads::Mapped,
        other => return Err(other.into()),
    };
    let context = Context {
        store: StoreHandle::at(folder.into()).with_reads(reads),
        ..Context::default()
    };
    let options = ReadOptions {
        url: Location::parse(url)?,
        manifest: None,
        root: None,
        key: None,
        require: Trust::None,
        max_size: None,
        mirrors: Vec::new(),
        name: None,
        length: None,
    };
    let (object, mut transfer) = read::open(&context, options, &mut |_: Event| ()).await?;
    let running = tokio::spawn(async move {
        transfer.run(&mut |_: Event| ()).await;
        transfer.finish().await;
    });
    let length = object.proven_length().await?;
    let mut ranges = vec![ByteRange::new(0, length)];
    if order == "random" {
        let mut random = Random(1);
        let starts = (0..RANGES).map(|_| random.below(length.saturating_sub(RANGE_BYTES).max(1)));
        let ends = |start| ByteRange::new(start, length.min(start + RANGE_BYTES));
        ranges = starts.map(ends).collect();
    }
    let (mut read, mut seen) = (0, 0);
    for range in ranges {
        let (bytes, sum) = read_range(&object, range).await?;
        (read, seen) = (read + bytes, seen + sum);
    }
    drop(object);
    running.await?;
    let fetched = context.client.bytes_fetched();
    println!("{{\"read\": {read}, \"fetched\": {fetched}, \"seen\": {seen}}}");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
