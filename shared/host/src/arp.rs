//! Telling the neighbours that an address has moved here.

use std::io;
use std::net::Ipv4Addr;

use crate::netns::in_netns;

/// The frame of a gratuitous ARP request: sender and target are the address.
pub fn gratuitous_arp_frame(mac: [u8; 6], address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    // Ethernet, IPv4, address lengths, and "request".
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// Sends one gratuitous ARP for `address` through `interface` of the namespace.
/// Needs CAP_NET_RAW. Blocks for less than a millisecond.
pub fn announce(netns: Option<&str>, interface: &str, address: Ipv4Addr) -> io::Result<()> {
    let interface = interface.to_owned();
    in_netns(netns, move || {
        let mac = read_mac(&interface)?;
        let index = nix::net::if_::if_nametoindex(interface.as_str()).map_err(io::Error::from)?;
        send_frame(index, &gratuitous_arp_frame(mac, address))
    })
}

/// Sends one whole Ethernet frame through the interface with this index, in the
/// namespace of the calling thread.
pub fn send_frame(index: u32, frame: &[u8]) -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;

    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(io::Error::from)?;
    let index = i32::try_from(index).map_err(io::Error::other)?;
    #[allow(unsafe_code)]
    // SAFETY: the address is a plain structure that is valid when zeroed; the
    // pointers and lengths given to `sendto` describe `frame` and `address`,
    // which both outlive the call.
    let sent = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index;
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&address).cast(),
            std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The MAC of an interface in the namespace of the calling thread.
///
/// Asked of the kernel by address list, as `/sys` of this thread would show the
/// interfaces of the namespace that it was mounted from.
pub fn read_mac(interface: &str) -> io::Result<[u8; 6]> {
    nix::ifaddrs::getifaddrs()
        .map_err(io::Error::from)?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.as_ref()?.as_link_addr()?.addr())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("the interface {interface} has no MAC"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gratuitous_arp_asks_for_its_own_address() {
        let frame = gratuitous_arp_frame([2, 0, 0, 0, 0, 9], Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(&frame[12..14], &[8, 6]);
        assert_eq!(&frame[28..32], &frame[38..42]);
        assert_eq!(&frame[38..42], &[192, 0, 2, 7]);
    }
}
