//! Sockets that live in another network namespace than the process.
//!
//! A socket belongs to the namespace of the thread that made it. So a thread of
//! its own enters the namespace, makes the socket, and ends; the runtime's
//! threads never move.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps the handle of a named namespace.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Does something short inside the named network namespace, on a thread of its
/// own; `None` and the empty name mean the machine's own namespace. Blocks
/// until it is done.
pub fn in_netns<T: Send + 'static>(
    netns: Option<&str>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(name) = netns.filter(|name| !name.is_empty()) else {
        return work();
    };
    let handle = File::open(netns_path(name)).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the network namespace {name} cannot be entered: {error}"),
        )
    })?;
    std::thread::Builder::new()
        .name(format!("netns {name}"))
        .spawn(move || {
            setns(handle, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            work()
        })?
        .join()
        .map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

/// Listens inside a network namespace; the socket is non-blocking.
pub fn bind_tcp_in_netns(netns: Option<&str>, address: SocketAddr) -> io::Result<TcpListener> {
    in_netns(netns, move || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

/// Opens a datagram socket inside a network namespace; it is non-blocking.
pub fn bind_udp_in_netns(netns: Option<&str>, address: SocketAddr) -> io::Result<UdpSocket> {
    in_netns(netns, move || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_the_socket_is_the_machines_own() {
        let listener = bind_tcp_in_netns(Some(""), ([127, 0, 0, 1], 0).into()).unwrap();
        assert_ne!(listener.local_addr().unwrap().port(), 0);
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let error = bind_tcp_in_netns(Some("no-such"), ([127, 0, 0, 1], 0).into()).unwrap_err();
        assert!(error.to_string().contains("no-such"), "{error}");
    }
}
