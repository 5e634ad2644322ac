//! Pushes a file with the library alone and prints how long it took: tools/bench can measure how many parts at a time are best.
//!
//!     cargo run --example push -- FILE URL NAME [PARTS_AT_ONCE]

use std::{env, path::PathBuf, process::ExitCode};

use sapwood::{
    engine::{
        context::Context,
        events::{Event, Pushed},
        push::{self, Input, PARTS_AT_ONCE, Place, PushOptions, Server},
    },
    format::library::LibraryPath,
    net::location::Location,
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let pushed = match &arguments[..] {
        [file, url, name] => run(file, url, name, PARTS_AT_ONCE).await,
        [file, url, name, parts] if parts.parse::<u32>().is_ok() => {
            run(file, url, name, parts.parse().unwrap_or(PARTS_AT_ONCE)).await
        }
        _ => {
            eprintln!("usage: push FILE URL NAME [PARTS_AT_ONCE]");
            return ExitCode::from(2);
        }
    };
    match pushed {
        Ok(pushed) => {
            let Pushed {
                url,
                bytes_sent,
                elapsed_ms,
                ..
            } = pushed;
            println!("{url} {bytes_sent} bytes sent in {elapsed_ms} ms");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("push: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(
    file: &str,
    url: &str,
    name: &str,
    parts_at_once: u32,
) -> Result<Pushed, Box<dyn std::error::Error>> {
    let url = Location::parse(url)?;
    let name = LibraryPath::new(name).ok_or("the name is not allowed")?;
    let server = Server { url, token: None };
    let options = PushOptions {
        parts_at_once,
        replace: true,
        ..PushOptions::new(Place::Server(server), name, PathBuf::from(file))
    };
    let input = Input::File(file.into());
    Ok(push::push(&Context::default(), input, &options, &mut |_: Event| ()).await?)
}
