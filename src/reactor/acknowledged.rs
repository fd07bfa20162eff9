//! F10 · What a peer's kernel has acknowledged, asked of this host's kernel by netlink (sock_diag(7)).
//!
//! Owns one question and its answer. It costs four system calls, so it is put only before somebody would be judged.
//! A host whose kernel does not answer gives `None`, and then nobody is waited for.

use crate::turn::Taken;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use std::net::{IpAddr, SocketAddr, TcpStream};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
/// Stands for a socket's cookie that is not known.
const NO_COOKIE: [u8; 8] = [0xff; 8];
const IPPROTO_TCP: u8 = 6;

/// Lengths of `nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg` and `nlattr`.
const HEAD: usize = 16;
const REQUEST: usize = 56;
const REPLY: usize = 72;
const ATTRIBUTE: usize = 4;
/// Where the bytes that are not acknowledged stand in `inet_diag_msg`.
const WRITE_QUEUE: usize = 60;
/// Where `tcpi_bytes_acked` stands in `tcp_info`; Linux 4.1 and later.
const BYTES_ACKED: usize = 120;

pub fn taken(stream: &TcpStream) -> Option<Taken> {
    let (local, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
    let kind = (AddressFamily::NETLINK, SocketType::DGRAM);
    let diag = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG)).ok()?;
    send(&diag, &question(local, peer)?, SendFlags::empty()).ok()?;
    let mut answer = [0; 1024];
    // The kernel answers while it is asked: there is nothing to wait for.
    let (size, _) = recv(&diag, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    read(answer.get(..size)?)
}

fn question(local: SocketAddr, peer: SocketAddr) -> Option<Vec<u8>> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let address = |ip: IpAddr| {
        let mut bytes = [0; 16];
        match ip {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        bytes
    };
    let mut out = Vec::with_capacity(HEAD + REQUEST);
    out.extend(((HEAD + REQUEST) as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    // No sequence number, and from nobody in particular.
    out.extend([0; 8]);
    out.extend([u8::try_from(family.as_raw()).ok()?, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    // In whatever state.
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(peer.port().to_be_bytes());
    out.extend(address(local.ip()));
    out.extend(address(peer.ip()));
    // By whatever interface.
    out.extend([0; 4]);
    out.extend(NO_COOKIE);
    Some(out)
}

fn read(answer: &[u8]) -> Option<Taken> {
    let u16_at = |bytes: &[u8], at| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    if u16_at(answer, 4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let waiting = u32::from_ne_bytes(*answer.get(HEAD + WRITE_QUEUE..)?.first_chunk()?);
    let mut rest = answer.get(HEAD + REPLY..)?;
    loop {
        let (size, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        if kind == INET_DIAG_INFO {
            let acknowledged = *rest.get(..size)?.get(ATTRIBUTE + BYTES_ACKED..)?.first_chunk()?;
            return Some(Taken { acknowledged: u64::from_ne_bytes(acknowledged), waiting: waiting as usize });
        }
        // Each begins at a multiple of four.
        rest = rest.get(size.max(ATTRIBUTE).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Both ends of a connection by `address`.
    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let peer = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        (listener.accept().expect("the other end").0, peer)
    }

    #[test]
    fn what_the_peer_takes_is_acknowledged_and_the_rest_waits() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let (mut stream, mut peer) = pair(address);
            stream.write_all(&[7; 1000]).expect("room");
            peer.read_exact(&mut [0; 1000]).expect("its bytes");
            let before = taken(&stream).expect("the kernel answers");
            assert_eq!(before.waiting, 0, "{address}");
            stream.set_nonblocking(true).expect("a mode");
            let mut wrote = 0;
            while let Ok(size) = stream.write(&[7; 64 * 1024]) {
                wrote += size;
            }
            let full = taken(&stream).expect("the kernel answers");
            assert!(full.waiting > 0, "{address}: {full:?}");
            assert_eq!(full.acknowledged - before.acknowledged + full.waiting as u64, wrote as u64, "{address}");
            peer.read_exact(&mut vec![0; wrote]).expect("its bytes");
            let after = taken(&stream).expect("the kernel answers");
            assert_eq!(after.acknowledged - before.acknowledged, wrote as u64, "{address}");
        }
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0xff; 200]), None);
        let mut answer = vec![0; HEAD + REPLY];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        for size in [0, 1, 2, 8, 200] {
            answer.truncate(HEAD + REPLY);
            answer.extend((size as u16).to_ne_bytes());
            answer.extend(INET_DIAG_INFO.to_ne_bytes());
            answer.extend([0; 60]);
            assert_eq!(read(&answer), None, "{size}");
        }
    }
}
