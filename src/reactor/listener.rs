//! F10 · The listening sockets: one a reactor on one port, so that the kernel spreads connections over the cores.
//!
//! Options that an accepted socket inherits are set here once, and so cost nothing for each client.

use crate::config::HttpServer;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// `count` listeners on one address. Port 0 is picked by the kernel for the first and shared by the rest. A port that
/// another process listens on is an error, unless `share`: two nodes that know nothing of each other would each get
/// half of the clients.
pub fn listen(options: &HttpServer, address: SocketAddr, count: usize, share: bool) -> io::Result<Vec<TcpListener>> {
    if !share && address.port() != 0 {
        // The kernel lets sockets meet on a port only if all of them allow it: this one does not, so it asks.
        drop(open(options, address, false)?);
    }
    let mut address = address;
    (0..count)
        .map(|_| {
            let listener = open(options, address, true)?;
            address = listener.local_addr()?;
            Ok(listener)
        })
        .collect()
}

fn open(options: &HttpServer, address: SocketAddr, meets_others: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(meets_others)?;
    socket.set_tcp_nodelay(true)?;
    if options.send_buffer_size > 0 {
        socket.set_send_buffer_size(options.send_buffer_size)?;
    }
    if options.receive_buffer_size > 0 {
        socket.set_recv_buffer_size(options.receive_buffer_size)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(options.listen_backlog.min(i32::MAX as u32) as i32)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_share_the_port_that_the_kernel_picked() {
        let options = crate::config::Config::default().http_server;
        let listeners = listen(&options, "127.0.0.1:0".parse().expect("address"), 3, true).expect("listen");
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().expect("address").port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }
}
