//! The server of a folder: many connections, slow readers, files that change.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::program::{Running, command, sapwood, start};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A server of the folder, and its address. `before`: words before the command.
fn serve(folder: &Path, before: &[&str]) -> (Running, String) {
    let program = env!("CARGO_BIN_EXE_sapwood");
    let words = [program, "--json", "serve", ".", "--listen", "127.0.0.1:0"];
    let words: Vec<&str> = before.iter().copied().chain(words).collect();
    let mut started = command(words[0], folder);
    started.args(&words[1..]);
    let mut server = start(started);
    server.wait_for("a URL", |events| !events.is_empty());
    let url = server.events()[0]["url"].clone();
    let url = url.as_str().expect("a URL");
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let address = address.to_owned();
    (server, address)
}

fn connect(address: &str) -> TcpStream {
    let connection = TcpStream::connect(address).expect("it listens");
    let patience = Some(Duration::from_secs(60));
    connection.set_read_timeout(patience).expect("a timeout");
    connection
}

fn request(connection: &mut TcpStream, path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    connection.write_all(head.as_bytes()).expect("it is sent");
}

/// All that arrives until the server closes the connection.
fn rest(connection: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = connection.read_to_end(&mut bytes);
    bytes
}

#[test]
fn idle_connections_do_not_stop_the_server() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("f"), "0123456789").expect("a file");
    let (_server, address) = serve(folder.path(), &["prlimit", "--nofile=256"]);
    let idle: Vec<TcpStream> = (0..300).map(|_| connect(&address)).collect();
    let began = Instant::now();
    let mut connection = connect(&address);
    request(&mut connection, "/f");
    let mut status = [0; 12];
    connection.read_exact(&mut status).expect("a response");
    assert_eq!(&status, b"HTTP/1.1 200");
    // None of them is waited for.
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
    drop(idle);
}

/// Those that come at the same moment wait in the system until they are accepted. Where it has no room, a client waits for seconds.
#[test]
fn many_clients_at_the_same_moment_did_not_all_get_in() {
    let folder = TempDir::new().expect("a folder");
    let (server, address) = serve(folder.path(), &[]);
    let address: SocketAddr = address.parse().expect("an address");
    // It accepts nothing.
    server.signal(Signal::STOP);
    let patience = Duration::from_secs(10);
    let connections = (0..500).map(|_| TcpStream::connect_timeout(&address, patience));
    let connections: Result<Vec<TcpStream>, _> = connections.collect();
    server.signal(Signal::CONT);
    assert!(connections.is_ok(), "{connections:?}");
}

/// Found: "manifests are kept in a temporary folder: Not a directory (os error 20)".
#[test]
fn a_store_that_cannot_be_used_was_not_named() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("no-folder"), "").expect("a file");
    let mut command = sapwood(folder.path());
    command.args(["--json", "--store", "no-folder", "serve", "."]);
    command.args(["--listen", "127.0.0.1:0"]);
    let mut server = start(command);
    server.wait_for("a warning", |events| {
        let mut messages = events.iter().filter_map(|event| event["message"].as_str());
        messages.any(|message| message.contains("no-folder"))
    });
}

#[test]
fn a_header_section_that_does_not_end_is_given_up() {
    let folder = TempDir::new().expect("a folder");
    let (_server, address) = serve(folder.path(), &[]);
    let mut connection = connect(&address);
    connection
        .write_all(b"GET / HTTP/1.1\r\nX: ")
        .expect("sent");
    let began = Instant::now();
    rest(&mut connection);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn slow_readers_take_little_memory() {
    const READERS: u64 = 200;
    // Two reads of the file, and what the allocator keeps beside them.
    const BYTES_EACH: u64 = 384 * KIB;
    let folder = TempDir::new().expect("a folder");
    let file = File::create(folder.path().join("f")).expect("a file");
    file.set_len(64 * MIB).expect("a hole");
    let (server, address) = serve(folder.path(), &[]);
    let mut first = connect(&address);
    request(&mut first, "/f");
    first.read_exact(&mut [0; 1024]).expect("a response");
    // Most of it is the debug program itself.
    let before = server.peak_memory().expect("it runs");
    let mut readers: Vec<TcpStream> = (0..READERS).map(|_| connect(&address)).collect();
    for reader in &mut readers {
        request(reader, "/f");
    }
    // Each has begun, and as much waits as the system and the server keep for it.
    for reader in &mut readers {
        reader.read_exact(&mut [0; 1024]).expect("a response");
    }
    std::thread::sleep(Duration::from_secs(1));
    let peak = server.peak_memory().expect("it runs");
    let grown = peak - before;
    assert!(
        grown < 8 * MIB + READERS * BYTES_EACH,
        "{} KiB",
        grown / KIB
    );
}

#[test]
fn a_file_that_changes_while_it_is_sent_ends_its_connection() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("f");
    fs::write(&path, vec![1; 32 * MIB as usize]).expect("a file");
    let (_server, address) = serve(folder.path(), &[]);
    let mut connection = connect(&address);
    request(&mut connection, "/f");
    connection.read_exact(&mut [0; 1024]).expect("a response");
    // More than what the sockets of both sides hold is still to be read.
    std::thread::sleep(Duration::from_millis(200));
    let file = File::options().write(true).open(&path).expect("the file");
    for block in 0..32 {
        file.write_all_at(&vec![2; MIB as usize], block * MIB)
            .expect("written in place");
    }
    let bytes = rest(&mut connection);
    assert!((bytes.len() as u64) < 31 * MIB, "{}", bytes.len());
    assert!(
        bytes.iter().all(|byte| *byte == 1),
        "bytes of both versions"
    );
}
