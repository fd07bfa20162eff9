//! F11 · What this host lacks for a configuration, found out before anything is started.
//!
//! Owns the questions to the host that `gannet check` and the start ask alike: addresses, CPUs, descriptors, files that
//! are written. Whatever
//! would keep the start from listening is told here, but for a port that another program has at the moment. Never
//! leaves anything open.

use crate::archive;
use crate::certificates;
use crate::config::{Config, ConfigError, ListenAddress, ListenSocket, Place, Warning};
use crate::consumers;
use crate::reactor::Steering;
use crate::server::Room;
use crate::service;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;

/// What this node is called in its log: `node.name`, or else the host's name.
pub fn node_name(config: &Config) -> String {
    match config.node.name.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name => name.to_owned(),
    }
}

/// All that is in the way.
pub fn obstacles(config: &Config) -> Vec<ConfigError> {
    let mut found = Vec::new();
    let reactors = reactor_count(config);
    if let Err(message) = raise_descriptors(config, reactors) {
        found.push(message);
    }
    if let Err(message) = Steering::new(&config.http_server, reactors) {
        found.push(message);
    }
    for socket in config.sockets() {
        if let Err(message) = address(socket, config.dev).and_then(|address| try_bind(socket, address)) {
            found.push(message);
        }
    }
    for (option, path) in [("log.file", &config.log.file), ("pid_file", &config.pid_file)] {
        found.extend(try_append(option, path).err());
    }
    found.extend(service::tls_faults(config));
    found.extend(consumers::faults(config));
    found.extend(certificates::faults(config));
    found.extend(archive::faults(config));
    found.into_iter().map(|message| ConfigError { place: Place::Default, message }).collect()
}

/// What this host leaves of what is asked for.
pub fn shortcomings(config: &Config) -> Vec<Warning> {
    let reactors = reactor_count(config);
    let asked = config.client.connection_limit;
    let clients = raise_descriptors(config, reactors).map(|open| Room::share(open, config, reactors).clients);
    let option = "client.connection_limit".to_owned();
    let warning = |clients| {
        let message = format!("{asked} is more than the file descriptors allow, {clients}: raise LimitNOFILE");
        Warning { option, message }
    };
    clients.ok().filter(|clients| asked > *clients).map(warning).into_iter().collect()
}

pub fn reactor_count(config: &Config) -> usize {
    match config.reactors {
        0 => thread::available_parallelism().map_or(1, |cores| cores.get()),
        set => set,
    }
}

/// Raises the soft limit of file descriptors to the hard one: how many that makes, if they are enough to serve.
pub fn raise_descriptors(config: &Config, reactors: usize) -> Result<usize, String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let open = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let open = open.unwrap_or(u64::MAX).min(u64::from(u32::MAX)) as usize;
    match open < 2 * Room::reserved(config, reactors) {
        true => Err(format!("the file descriptor limit is {open}, too few to serve: raise LimitNOFILE")),
        false => Ok(open),
    }
}

/// Where to listen: all addresses, of both families, unless one is given; loopback with `dev`.
pub fn address(socket: ListenSocket<'_>, dev: bool) -> Result<SocketAddr, String> {
    let ip = match ListenAddress::parse(socket.address) {
        Some(ListenAddress::At(ip)) => ip,
        Some(ListenAddress::All) if dev => IpAddr::from([127, 0, 0, 1]),
        Some(ListenAddress::All) if !has_ipv6() => IpAddr::from([0, 0, 0, 0]),
        Some(ListenAddress::All) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        // The configuration was checked.
        None => return Err(format!("{} {:?} is no IP address", socket.address_option, socket.address)),
    };
    Ok(SocketAddr::new(ip, socket.port))
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// Takes the address for a moment, and does not listen: nobody can connect meanwhile.
fn try_bind(socket: ListenSocket<'_>, address: SocketAddr) -> Result<(), String> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    match bind() {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(cannot_listen(socket, address, &error)),
        _ => Ok(()),
    }
}

/// Can the file be written to? It is left as it was.
fn try_append(option: &str, path: &str) -> Result<(), String> {
    let was_there = path.is_empty() || Path::new(path).exists();
    open_to_append(option, path)?;
    if !was_there {
        // Another process may have begun to use it meanwhile, or removed it.
        let _ = fs::metadata(path).is_ok_and(|file| file.len() == 0 && fs::remove_file(path).is_ok());
    }
    Ok(())
}

/// A file that an option names; `None` if it names none.
pub fn open_to_append(option: &str, path: &str) -> Result<Option<File>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let opened = File::options().append(true).create(true).open(path);
    opened.map(Some).map_err(|error| format!("{option}: cannot write to {path}: {error}"))
}

/// Why there is no listening on `address`, and what to do.
pub fn cannot_listen(socket: ListenSocket<'_>, address: SocketAddr, error: &io::Error) -> String {
    let share = "or for an upgrade --http_server.share_port";
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse if socket.port_option == "http_server.port" => {
            format!("; another program has the port: choose one with --{}, {share}", socket.port_option)
        }
        io::ErrorKind::AddrInUse => {
            format!("; another program has the port: another port is chosen with --{}", socket.port_option)
        }
        io::ErrorKind::PermissionDenied => "; a port below 1024 needs CAP_NET_BIND_SERVICE".to_owned(),
        io::ErrorKind::AddrNotAvailable => format!("; this host has no such address: see {}", socket.address_option),
        _ => String::new(),
    };
    format!("cannot listen on {address}: {error}{advice}")
}
