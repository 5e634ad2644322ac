//! The socket on which connections arrive.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted. While there are more, the system drops those that arrive, and their clients try again after
/// a second.
const BACKLOG: u32 = 1024;

/// Listens at the first of these addresses where that is possible. `send_buffer`: bytes that the system holds of what a connection
/// sends; `None`: as many as it finds right.
pub fn listen(addresses: &[SocketAddr], send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match listen_at(*address, send_buffer) {
            Ok(listener) => return Ok(listener),
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

fn listen_at(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = send_buffer {
        // Connections inherit it.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
