//! A proxy that makes a connection deaf, or cuts it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Stands between a bus and the broker, and can swallow everything that the
/// broker says on the connections made so far, except that it lives.
pub struct Deafener {
    port: u16,
    pub made: Arc<AtomicUsize>,
    deaf_below: Arc<AtomicUsize>,
    cut_at: Arc<Mutex<Option<Vec<u8>>>>,
    hold_at: Arc<Mutex<Option<Vec<u8>>>>,
    held: watch::Sender<bool>,
}

/// Whether a piece of what a client says has the word that is waited for; once.
fn heard(word: &Mutex<Option<Vec<u8>>>, piece: &[u8]) -> bool {
    let is_it = |word: &mut Vec<u8>| piece.windows(word.len()).any(|at| at == word);
    word.lock().unwrap().take_if(is_it).is_some()
}

impl Deafener {
    pub async fn new(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (made, deaf_below) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, deaf) = (made.clone(), deaf_below.clone());
        let cut_at = Arc::<Mutex<Option<Vec<u8>>>>::default();
        let cut = cut_at.clone();
        let hold_at = Arc::<Mutex<Option<Vec<u8>>>>::default();
        let (hold, held) = (hold_at.clone(), watch::Sender::new(false));
        let is_held = held.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let broker = TcpStream::connect(("127.0.0.1", broker_port))
                    .await
                    .unwrap();
                let deaf = deaf.clone();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_broker, mut to_broker) = broker.into_split();
                let (cut, over) = (cut.clone(), CancellationToken::new());
                let (hold, holds) = (hold.clone(), is_held.clone());
                let mut is_held = is_held.subscribe();
                let (frames, mut frame) = mpsc::unbounded_channel::<(u16, Vec<u8>)>();
                let end = over.clone();
                tokio::spawn(async move {
                    let _end = end.drop_guard();
                    let mut piece = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_client.read(&mut piece).await {
                        let piece = &piece[..length];
                        if heard(&hold, piece) {
                            holds.send_replace(true);
                        }
                        if heard(&cut, piece) || to_broker.write_all(piece).await.is_err() {
                            break;
                        }
                    }
                });
                let relay = async move {
                    loop {
                        // Type, channel, size; payload and end mark follow.
                        let mut head = [0; 7];
                        if from_broker.read_exact(&mut head).await.is_err() {
                            break;
                        }
                        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
                        let mut body = vec![0; size as usize + 1];
                        if from_broker.read_exact(&mut body).await.is_err() {
                            break;
                        }
                        let channel = u16::from_be_bytes([head[1], head[2]]);
                        if channel != 0 && number < deaf.load(Ordering::SeqCst) {
                            continue;
                        }
                        if frames.send((channel, [&head[..], &body].concat())).is_err() {
                            break;
                        }
                    }
                };
                let tell = async move {
                    let mut kept: Vec<u8> = Vec::new();
                    loop {
                        let told = tokio::select! {
                            next = frame.recv() => match next {
                                Some((1.., bytes)) if *is_held.borrow() => {
                                    kept.extend(bytes);
                                    continue;
                                }
                                Some((_, bytes)) => bytes,
                                None => break,
                            },
                            _ = is_held.changed() => match *is_held.borrow_and_update() {
                                true => continue,
                                false => std::mem::take(&mut kept),
                            },
                        };
                        if to_client.write_all(&told).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay => {}
                        () = tell => {}
                        () = over.cancelled() => {}
                    }
                });
            }
        });
        Self {
            port,
            made,
            deaf_below,
            cut_at,
            hold_at,
            held,
        }
    }

    /// Keeps back what the broker says from when a client says this word, once.
    pub fn hold_at(&self, word: &str) {
        *self.hold_at.lock().unwrap() = Some(word.as_bytes().to_vec());
    }

    /// Whether something is kept back.
    pub fn holds(&self) -> bool {
        *self.held.borrow()
    }

    /// Lets go what was kept back.
    pub fn let_go(&self) {
        self.held.send_replace(false);
    }

    /// Cuts the connection that says this word, once.
    pub fn cut_at(&self, word: &str) {
        *self.cut_at.lock().unwrap() = Some(word.as_bytes().to_vec());
    }

    pub fn deafen(&self) {
        self.deaf_below
            .store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    pub fn url(&self, user: &str) -> String {
        format!("amqp://{user}@127.0.0.1:{}/%2f", self.port)
    }
}
