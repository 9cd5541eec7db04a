//! Network namespaces of a test's own, and what guests do in them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use yakumo_host::{arp, bind_tcp_in_netns, in_netns};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Runs a shell script, in a namespace or outside.
pub fn sh(netns: Option<&str>, script: &str) -> Output {
    let mut command = match netns {
        Some(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name, "sh", "-ec", script]);
            command
        }
        None => {
            let mut command = Command::new("sh");
            command.args(["-ec", script]);
            command
        }
    };
    command.output().unwrap()
}

/// Runs a script that must succeed, and gives what it wrote.
pub fn run(netns: Option<&str>, script: &str) -> String {
    let output = sh(netns, script);
    assert!(
        output.status.success(),
        "{script}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Namespaces that go with the test, with every process in them.
pub struct Namespaces {
    names: Vec<String>,
}

impl Namespaces {
    pub fn new() -> Self {
        Self { names: Vec::new() }
    }

    pub fn add(&mut self, role: &str) -> String {
        let number = COUNTER.fetch_add(1, Ordering::SeqCst);
        let name = format!("yktest-{}-{number}-{role}", std::process::id());
        run(None, &format!("ip netns add {name}"));
        run(Some(&name), "ip link set lo up");
        self.names.push(name.clone());
        name
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = sh(
                None,
                &format!(
                    "for pid in $(ip netns pids {name}); do kill -9 $pid || :; done; ip netns del {name}"
                ),
            );
        }
    }
}

/// Asks for an address as a guest does. `store` is a file for what came.
pub fn lease(netns: &str, folder: &std::path::Path) -> String {
    let script = folder.join("udhcpc.sh");
    let store = folder.join(format!("{netns}.lease"));
    let text = format!(
        r#"#!/bin/sh
case "$1" in
deconfig) ip addr flush dev $interface; ip link set $interface up ;;
bound|renew)
  env > {}
  ip addr replace $ip/$mask dev $interface
  ip link set $interface mtu ${{mtu:-1500}}
  set -- $staticroutes
  while [ $# -ge 2 ]; do ip route replace $1 via $2; shift 2; done ;;
esac
"#,
        store.display()
    );
    std::fs::write(&script, text).unwrap();
    run(
        Some(netns),
        &format!(
            "chmod +x {0}; busybox udhcpc -i eth0 -n -q -f -t 20 -T 1 -A 1 -O staticroutes -O mtu -s {0}",
            script.display()
        ),
    );
    std::fs::read_to_string(store).unwrap()
}

/// Whether a ping is answered.
pub fn pings(netns: &str, address: &str) -> bool {
    sh(Some(netns), &format!("busybox ping -c 1 -W 1 {address}"))
        .status
        .success()
}

/// An echo server in a namespace, until it is dropped. It also tells who asks.
pub struct Echo {
    stop: Arc<AtomicBool>,
    pub peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Echo {
    pub fn listen(netns: &str, port: u16) -> Self {
        let listener = bind_tcp_in_netns(Some(netns), ([0, 0, 0, 0], port).into()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let peers: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let (ended, seen) = (Arc::clone(&stop), Arc::clone(&peers));
        std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        seen.lock().unwrap().push(peer);
                        std::thread::spawn(move || echo(stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { stop, peers }
    }

    pub fn last_peer(&self) -> Option<std::net::IpAddr> {
        self.peers.lock().unwrap().last().map(SocketAddr::ip)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// A connection from a namespace; `None` when it is refused or lost.
pub fn connect(netns: &str, address: &str, port: u16) -> Option<TcpStream> {
    let target: SocketAddr = format!("{address}:{port}").parse().unwrap();
    let stream = in_netns(Some(netns), move || {
        TcpStream::connect_timeout(&target, Duration::from_millis(1500))
    })
    .ok()?;
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    Some(stream)
}

/// Whether a byte comes back.
pub fn alive(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

/// Everything that arrives in a namespace, until it is dropped.
pub struct Capture {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Capture {
    pub fn start(netns: &str) -> Self {
        use nix::sys::socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt,
        };
        use nix::sys::time::TimeVal;
        let socket = in_netns(Some(netns), || {
            Ok(socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?)
        })
        .unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let frames: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (ended, seen) = (Arc::clone(&stop), Arc::clone(&frames));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !ended.load(Ordering::SeqCst) {
                if let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    seen.lock().unwrap().push(buffer[..length].to_vec());
                }
            }
        });
        Self { stop, frames }
    }

    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap().clone()
    }

    /// Whether some frame holds these bytes.
    pub fn saw(&self, bytes: &[u8]) -> bool {
        self.frames()
            .iter()
            .any(|frame| frame.windows(bytes.len()).any(|window| window == bytes))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Sends a whole frame out of `eth0` of a namespace.
pub fn send(netns: &str, frame: Vec<u8>) {
    in_netns(Some(netns), move || {
        let index = nix::net::if_::if_nametoindex("eth0")?;
        arp::send_frame(index, &frame)
    })
    .unwrap();
}

pub fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// A UDP datagram in a frame.
pub fn udp_frame(
    to: [u8; 6],
    from: [u8; 6],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 7, 0, 0, 64, 17, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(from);
    frame.extend([0x08, 0x00]);
    frame.extend(header);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(4001_u16.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// An ARP request for `target` by somebody who claims to be `sender`.
pub fn arp_frame(from: [u8; 6], claimed: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(claimed);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}
