//! A proxy that writes down what it is asked for. Wherever a request wants to go, it goes to the two servers that the proxy
//! was given: so names may stand in URLs that no resolver knows.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What a proxy was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET` or `CONNECT`.
    pub method: String,
    /// The whole URL, or host and port to connect to.
    pub target: String,
    /// The value of Proxy-Authorization.
    pub login: Option<String>,
}

/// A running proxy, until the test ends.
pub struct Proxy {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// Requests in the clear go to the one, tunnels to the other.
    pub fn start(clear: SocketAddr, tls: SocketAddr) -> Proxy {
        Proxy::with(move |asked| match asked.method.as_str() {
            "CONNECT" => Ok(tls),
            _ => Ok(clear),
        })
    }

    /// Refuses everything with this status.
    pub fn refusing(status: u16) -> Proxy {
        Proxy::with(move |_| Err(status))
    }

    fn with(lead: impl Fn(&Asked) -> Result<SocketAddr, u16> + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let log = Arc::<Mutex<Vec<Asked>>>::default();
        let (kept, lead) = (log.clone(), Arc::new(lead));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, lead) = (kept.clone(), lead.clone());
                thread::spawn(move || serve(stream, &log, &*lead));
            }
        });
        Proxy { address, log }
    }

    /// As it stands in a variable.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// With a login.
    pub fn url_with(&self, login: &str) -> String {
        format!("http://{login}@{}", self.address)
    }

    pub fn log(&self) -> Vec<Asked> {
        self.log.lock().expect("no test panics with it").clone()
    }
}

/// One connection. A client keeps it for one server, so the first request decides where all go.
fn serve(
    client: TcpStream,
    log: &Mutex<Vec<Asked>>,
    lead: &dyn Fn(&Asked) -> Result<SocketAddr, u16>,
) -> Option<()> {
    let mut from_client = BufReader::new(client.try_clone().ok()?);
    let mut to_client = client;
    let mut server: Option<TcpStream> = None;
    loop {
        let head = read_head(&mut from_client)?;
        let mut words = head.first()?.split(' ');
        let asked = Asked {
            method: words.next()?.to_owned(),
            target: words.next()?.to_owned(),
            login: header(&head, "proxy-authorization"),
        };
        log.lock()
            .expect("no test panics with it")
            .push(asked.clone());
        let address = match lead(&asked) {
            Ok(address) => address,
            Err(status) => {
                let answer = format!(
                    "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                to_client.write_all(answer.as_bytes()).ok()?;
                return None;
            }
        };
        if asked.method == "CONNECT" {
            let mut server = TcpStream::connect(address).ok()?;
            to_client
                .write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
                .ok()?;
            relay(server.try_clone().ok()?, to_client.try_clone().ok()?);
            server.write_all(from_client.buffer()).ok()?;
            copy(&mut to_client.try_clone().ok()?, &mut server);
            return None;
        }
        if server.is_none() {
            let connected = TcpStream::connect(address).ok()?;
            relay(connected.try_clone().ok()?, to_client.try_clone().ok()?);
            server = Some(connected);
        }
        let (_, rest) = asked.target.split_once("://")?;
        let path = &rest[rest.find('/')?..];
        let mut request = format!("{} {path} HTTP/1.1\r\n", asked.method);
        for line in &head[1..] {
            if !line.to_ascii_lowercase().starts_with("proxy-") {
                request.push_str(&format!("{line}\r\n"));
            }
        }
        request.push_str("\r\n");
        server.as_mut()?.write_all(request.as_bytes()).ok()?;
    }
}

/// Sends everything that one end says to the other, aside.
fn relay(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || copy(&mut from, &mut to));
}

fn copy(from: &mut impl Read, to: &mut TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// The lines of a request up to the empty one.
fn read_head(from: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => return Some(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn header(head: &[String], name: &str) -> Option<String> {
    head.iter().find_map(|line| {
        let (other, value) = line.split_once(':')?;
        other
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}
