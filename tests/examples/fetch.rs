//! Fetches a URL with the library alone and prints how far it is.
//!
//!     cargo run --example fetch --no-default-features -- URL FILE
//!
//! Ctrl-C or a kill leaves FILE.part and its journal; the same command goes on from there.

use std::{env, process::ExitCode};

use sapwood::{
    engine::{
        context::Context,
        events::{Event, Published},
        fetch::{self, FetchOptions},
    },
    net::location::Location,
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, file] = &arguments[..] else {
        eprintln!("usage: fetch URL FILE");
        return ExitCode::from(2);
    };
    match run(url, file).await {
        Ok(published) => {
            println!(
                "{}: {} bytes proven, root {}",
                file, published.bytes_total, published.root
            );
            println!(
                "{} bytes fetched, {} kept from an earlier run",
                published.bytes_fetched, published.bytes_resumed
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fetch: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str, file: &str) -> Result<Published, Box<dyn std::error::Error>> {
    let options = FetchOptions::new(Location::parse(url)?, file);
    Ok(fetch::fetch(&Context::default(), options, &mut tell).await?)
}

/// Events come as they happen, progress at most once a second. What is not of interest is left alone.
fn tell(event: Event) {
    match event {
        Event::Resumed { bytes_held } => println!("an earlier run left {bytes_held} bytes"),
        Event::Progress(progress) => {
            println!("{} of {} bytes", progress.bytes_done, progress.bytes_total);
        }
        Event::BlockWrong { block, source, .. } => {
            println!("block {block} came damaged from {source}; once more");
        }
        _ => (),
    }
}
