//! A proxy that makes a connection deaf, or cuts it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Stands between a bus and the broker, and can swallow everything that the
/// broker says on the connections made so far, except that it lives.
pub struct Deafener {
    port: u16,
    pub made: Arc<AtomicUsize>,
    deaf_below: Arc<AtomicUsize>,
    cut_at: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Deafener {
    pub async fn new(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (made, deaf_below) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, deaf) = (made.clone(), deaf_below.clone());
        let cut_at = Arc::<Mutex<Option<Vec<u8>>>>::default();
        let cut = cut_at.clone();
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
                let end = over.clone();
                tokio::spawn(async move {
                    let _end = end.drop_guard();
                    let mut piece = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_client.read(&mut piece).await {
                        let piece = &piece[..length];
                        let is_it = |word: &Vec<u8>| piece.windows(word.len()).any(|at| at == word);
                        if cut.lock().unwrap().take_if(|word| is_it(word)).is_some()
                            || to_broker.write_all(piece).await.is_err()
                        {
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
                        let frame = [&head[..], &body].concat();
                        if to_client.write_all(&frame).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay => {}
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
        }
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
