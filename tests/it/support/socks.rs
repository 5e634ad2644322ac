//! A SOCKS5 proxy (RFC 1928, RFC 1929) that writes down where it is to connect, and connects to one server.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A running proxy, until the test ends.
pub struct Socks {
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Socks {
    /// It connects to this server, whatever it is asked for, for clients with this login.
    pub fn start(server: SocketAddr, login: Option<(&'static str, &'static str)>) -> Socks {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let kept = log.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = kept.clone();
                thread::spawn(move || serve(stream, server, login, &log));
            }
        });
        Socks { address, log }
    }

    pub fn url(&self, scheme: &str, login: &str) -> String {
        format!("{scheme}://{login}{}", self.address)
    }

    /// The hosts, as clients named them.
    pub fn hosts(&self) -> Vec<String> {
        self.log.lock().expect("no test panics with it").clone()
    }
}

fn serve(
    mut client: TcpStream,
    server: SocketAddr,
    login: Option<(&str, &str)>,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let [_, methods] = bytes(&mut client)?;
    let mut offered = vec![0; usize::from(methods)];
    client.read_exact(&mut offered)?;
    let method = if login.is_some() { 2 } else { 0 };
    assert!(offered.contains(&method), "{offered:?}");
    client.write_all(&[5, method])?;
    if let Some((user, password)) = login {
        let [_] = bytes(&mut client)?;
        let is_known = text(&mut client)? == user && text(&mut client)? == password;
        client.write_all(&[1, u8::from(!is_known)])?;
    }
    let [_, _, _, kind] = bytes(&mut client)?;
    let host = match kind {
        1 => Ipv4Addr::from(bytes::<4>(&mut client)?).to_string(),
        3 => text(&mut client)?,
        _ => "another kind".to_owned(),
    };
    let [_, _] = bytes(&mut client)?;
    log.lock().expect("no test panics with it").push(host);
    let mut server = TcpStream::connect(server)?;
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0])?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || io::copy(&mut from_server, &mut to_client));
    io::copy(&mut client, &mut server).map(drop)
}

fn bytes<const N: usize>(from: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A text after its length.
fn text(from: &mut TcpStream) -> io::Result<String> {
    let [length] = bytes(from)?;
    let mut text = vec![0; usize::from(length)];
    from.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
