//! What stands before a service that several processes give: takes its clients'
//! connections and hands each to one of them. An operator can take a process
//! out: it gets no more connections, and those that it has may end.
//!
//! While no process of a service takes any, clients wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::config::Ports;
use crate::wait;

/// How long a client waits at the most.
const PATIENCE: Duration = Duration::from_secs(90);
const BETWEEN: Duration = Duration::from_millis(20);

struct Backend {
    name: String,
    port: u16,
    takes: bool,
    open: Arc<AtomicUsize>,
}

type Backends = Arc<Mutex<Vec<Backend>>>;

fn lock(backends: &Backends) -> MutexGuard<'_, Vec<Backend>> {
    backends.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One port and those behind it.
struct Front {
    backends: Backends,
    relay: JoinHandle<()>,
}

impl Front {
    async fn start() -> Result<(Self, u16)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let backends = Backends::default();
        let behind = Arc::clone(&backends);
        let relay = tokio::spawn(async move {
            let mut turn = 0_usize;
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(carry(stream, Arc::clone(&behind), turn));
                turn = turn.wrapping_add(1);
            }
        });
        Ok((Self { backends, relay }, port))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// Counts a connection for as long as it is there.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn of(backend: &Backend) -> Self {
        backend.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&backend.open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn carry(mut near: TcpStream, backends: Backends, turn: usize) {
    let begun = Instant::now();
    let mut turn = turn;
    while begun.elapsed() < PATIENCE {
        // Counted under the lock: whoever takes it out waits for this one, too.
        let chosen = {
            let backends = lock(&backends);
            let mut taking: Vec<_> = backends.iter().filter(|it| it.takes).collect();
            if taking.is_empty() {
                None
            } else {
                let one = taking.swap_remove(turn % taking.len());
                Some((one.port, Open::of(one)))
            }
        };
        if let Some((port, _open)) = chosen
            && let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await
        {
            let _ = far.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            return;
        }
        turn = turn.wrapping_add(1);
        wait::hold_still(BETWEEN).await;
    }
}

/// See the module.
pub struct Balancer {
    /// Where clients connect to.
    pub ports: Ports,
    identity: Front,
    image: Front,
    object_store: Front,
    compute: Front,
    network: Front,
    volume: Front,
}

impl Balancer {
    /// One without any process behind it.
    pub async fn start() -> Result<Self> {
        let (identity, identity_port) = Front::start().await?;
        let (image, image_port) = Front::start().await?;
        let (object_store, object_store_port) = Front::start().await?;
        let (compute, compute_port) = Front::start().await?;
        let (network, network_port) = Front::start().await?;
        let (volume, volume_port) = Front::start().await?;
        Ok(Self {
            ports: Ports {
                identity: identity_port,
                image: image_port,
                object_store: object_store_port,
                compute: compute_port,
                network: network_port,
                volume: volume_port,
                ..Ports::free()?
            },
            identity,
            image,
            object_store,
            compute,
            network,
            volume,
        })
    }

    fn fronts(&self) -> [&Front; 6] {
        [
            &self.identity,
            &self.image,
            &self.object_store,
            &self.compute,
            &self.network,
            &self.volume,
        ]
    }

    /// Puts a process of `service` behind it that listens at `own`; one of a
    /// service that has no clients is let be.
    pub fn add(&self, service: &str, name: &str, own: &Ports) {
        let behind: &[(&Front, u16)] = match service {
            "identity" => &[(&self.identity, own.identity)],
            "image" => &[(&self.image, own.image)],
            "object-store" => &[(&self.object_store, own.object_store)],
            "api" => &[
                (&self.compute, own.compute),
                (&self.network, own.network),
                (&self.volume, own.volume),
            ],
            _ => &[],
        };
        for (front, port) in behind {
            lock(&front.backends).push(Backend {
                name: name.to_owned(),
                port: *port,
                takes: true,
                open: Arc::default(),
            });
        }
    }

    /// Takes a process out, and waits for `bound` until it has no connections
    /// any more.
    pub async fn take_out(&self, name: &str, bound: Duration) {
        let mut open = Vec::new();
        for front in self.fronts() {
            let mut backends = lock(&front.backends);
            for backend in backends.iter_mut().filter(|it| it.name == name) {
                backend.takes = false;
                open.push(Arc::clone(&backend.open));
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < bound && open.iter().any(|it| it.load(Ordering::SeqCst) > 0) {
            wait::hold_still(BETWEEN).await;
        }
    }

    /// Puts a process back.
    pub fn put_back(&self, name: &str) {
        for front in self.fronts() {
            let mut backends = lock(&front.backends);
            for backend in backends.iter_mut().filter(|it| it.name == name) {
                backend.takes = true;
            }
        }
    }
}
