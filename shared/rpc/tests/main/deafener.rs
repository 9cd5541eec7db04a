//! A proxy that makes a connection deaf.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Stands between a bus and the broker, and can swallow everything that the
/// broker says on the connections made so far, except that it lives.
pub struct Deafener {
    port: u16,
    pub made: Arc<AtomicUsize>,
    deaf_below: Arc<AtomicUsize>,
}

impl Deafener {
    pub async fn new(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (made, deaf_below) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, deaf) = (made.clone(), deaf_below.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let broker = TcpStream::connect(("127.0.0.1", broker_port))
                    .await
                    .unwrap();
                let deaf = deaf.clone();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_broker, mut to_broker) = broker.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_broker).await;
                });
                tokio::spawn(async move {
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
                });
            }
        });
        Self {
            port,
            made,
            deaf_below,
        }
    }

    pub fn deafen(&self) {
        self.deaf_below
            .store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    pub fn url(&self, user: &str) -> String {
        format!("amqp://{user}@127.0.0.1:{}/%2f", self.port)
    }
}
