//! `sapwood inspect`

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use serde_json::{Map, Value, json};

use crate::{
    engine::{
        context::StoreHandle,
        error::Error,
        event_fields,
        events::{Event, Events},
        inspect::{self, Inspected},
    },
    format::{
        characters::printable,
        geometry::BlockIndex,
        keys::NotSigned,
        reader::Page,
        signature::{Signature, SignatureArea},
        statement::Known,
    },
    net::location::Location,
};

use super::{args::InspectArgs, exit::Exit, network, output::Output, signals, units};

pub async fn run(args: &InspectArgs, output: &mut Output) -> Exit {
    let mut leaves = LeafLines::new(args.leaves);
    let read = Box::pin(read(args, &mut leaves, output)).await;
    let printed = leaves.finish();
    match read {
        Ok(_) if args.leaves => output.data_written(printed),
        Ok(manifest) => show(args, &manifest, output),
        Err(exit) => exit,
    }
}

/// The manifest at a path or a URL. A failure is printed.
async fn read(
    args: &InspectArgs,
    leaves: &mut LeafLines,
    output: &mut Output,
) -> Result<Inspected, Exit> {
    let take = |page: Page| leaves.print(&page);
    if !network::is_url(&args.place) {
        let read = inspect::inspect_file(Path::new(&args.place), take);
        return read.map_err(|error| output.error_of_manifest(Some(&args.place), None, &error));
    }
    let typed = network::object(&args.place).and_then(|url| {
        let context = network::context(&args.network, StoreHandle::default())?;
        Ok((url, context))
    });
    let (url, context) =
        typed.map_err(|network::Refusal(exit, message)| output.refuse(exit, &message))?;
    let mut tell = |event: Event| {
        // The description is the only object.
        if !output.is_json() {
            output.event(event);
        }
    };
    let reading = inspect::inspect(&context, &url, take, &mut tell);
    match Box::pin(signals::unless_stopped(reading)).await {
        Some(read) => {
            read.map_err(|error| output.error_of_manifest(None, Some(&url.to_string()), &error))
        }
        None => Err(Exit::Again),
    }
}

fn show(args: &InspectArgs, manifest: &Inspected, output: &mut Output) -> Exit {
    if args.statement {
        output.data(|stdout| stdout.write_all(manifest.statement.bytes()))
    } else if args.signature {
        match &manifest.signature {
            SignatureArea::Minisign(signature) => {
                output.data(|stdout| stdout.write_all(signature.to_minisig().as_bytes()))
            }
            other => {
                // The URL as it was typed may have secrets.
                let place = Location::parse(&args.place)
                    .map_or_else(|_| args.place.clone(), |url| url.to_string());
                let cause = match other {
                    SignatureArea::Unknown { .. } => NotSigned::UnknownKind,
                    _ => NotSigned::Unsigned,
                };
                let error = Error::NotSigned { place, cause };
                output.error(None, None, &error)
            }
        }
    } else if output.is_json() {
        output.line(as_json(manifest).to_string());
        output.printed()
    } else {
        for line in for_people(manifest) {
            output.line(&line);
        }
        output.printed()
    }
}

/// Prints leaves, if they are wanted, as they are read: a manifest may have more of them than fit in memory.
struct LeafLines {
    stdout: Option<BufWriter<io::Stdout>>,
    written: io::Result<()>,
}

impl LeafLines {
    fn new(are_wanted: bool) -> LeafLines {
        LeafLines {
            stdout: are_wanted.then(|| BufWriter::new(io::stdout())),
            written: Ok(()),
        }
    }

    fn print(&mut self, page: &Page) {
        if let Some(stdout) = &mut self.stdout
            && self.written.is_ok()
        {
            self.written = write_leaves(page, stdout);
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let flushed = self.stdout.as_mut().map_or(Ok(()), Write::flush);
        self.written.and(flushed)
    }
}

fn write_leaves(page: &Page, stdout: &mut impl Write) -> io::Result<()> {
    for (block, leaf) in (page.first.0..).map(BlockIndex).zip(&page.leaves) {
        let bytes = page.geometry.bytes_of(block);
        let (start, length) = (bytes.start, bytes.length());
        writeln!(stdout, "{block} {start} {length} {}", hex::encode(leaf))?;
    }
    Ok(())
}

fn as_json(manifest: &Inspected) -> Value {
    let header = manifest.statement.header();
    let digests: Map<String, Value> = header
        .digests
        .iter()
        .map(|digest| (digest.algorithm().to_string(), digest.hex().into()))
        .collect();
    let sections: Vec<Value> = header
        .sections
        .iter()
        .map(|section| {
            json!({
                "kind": section.kind, "critical": section.critical, "offset": section.bytes.start,
                "length": section.bytes.length(), "blake3": hex::encode(section.blake3),
            })
        })
        .collect();
    let key_id = manifest.signature.minisign().map(Signature::key_id_hex);
    json!({
        "root": header.root.to_string(), "bytes_total": header.geometry.length(),
        "block_size": header.geometry.block_size().bytes(), "blocks": header.geometry.blocks(), "name": header.name,
        "sequence": header.sequence, "published": header.published, "expires": header.expires, "digests": digests,
        "key_id": key_id, "sections": sections,
    })
}

fn for_people(manifest: &Inspected) -> Vec<String> {
    let header = manifest.statement.header();
    let geometry = &header.geometry;
    let mut lines = vec![
        format!("root        {}", header.root),
        format!(
            "length      {} bytes ({})",
            geometry.length(),
            units::human_bytes(geometry.length())
        ),
        format!(
            "blocks      {} of {} KiB",
            geometry.blocks(),
            geometry.block_size().bytes() >> 10
        ),
    ];
    if !header.name.is_empty() {
        lines.push(format!("name        {}", printable(&header.name)));
    }
    if header.sequence > 0 {
        lines.push(format!("sequence    {}", header.sequence));
    }
    for (what, time) in [("published", header.published), ("expires", header.expires)] {
        if time > 0 {
            lines.push(format!("{what:<11} {}", event_fields::rfc3339(time)));
        }
    }
    lines.extend(
        header
            .digests
            .iter()
            .map(|digest| format!("{:<11} {}", digest.algorithm().name(), digest.hex())),
    );
    lines.extend(header.unknown_digests.iter().map(|digest| {
        let (kind, value) = (digest.kind, hex::encode(&digest.value));
        format!("digest      {value}, of the kind {kind}, which this program does not know")
    }));
    lines.push(match &manifest.signature {
        SignatureArea::Minisign(signature) => format!(
            "signature   of key {} (not checked here), comment: {}",
            signature.key_id_hex(),
            printable(&signature.trusted_comment)
        ),
        SignatureArea::Unsigned => "signature   none".to_owned(),
        SignatureArea::Unknown { kind, .. } => format!(
            "signature   of the kind {}, which this program does not know",
            hex::encode_upper(kind)
        ),
    });
    for section in &header.sections {
        let kind = match section.kind {
            kind if kind == Known::Tree as u8 => "tree".to_owned(),
            kind if kind == Known::Pages as u8 => "pages".to_owned(),
            kind if kind == Known::Pieces as u8 => "pieces".to_owned(),
            kind if kind == Known::Pack as u8 => "pack index".to_owned(),
            kind => format!("kind {kind}"),
        };
        lines.push(format!(
            "section     {kind}: {} bytes at {}",
            section.bytes.length(),
            section.bytes.start
        ));
    }
    lines
}
