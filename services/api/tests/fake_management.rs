//! RabbitMQ's management, as far as the api service can tell.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use yakumo_api::JoinConfig;
use yakumo_rpc::ManagementConfig;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub what: String,
    pub body: Value,
}

/// Says yes to everything, and writes it down.
#[derive(Default)]
pub struct FakeManagement {
    asked: Mutex<Vec<Asked>>,
    /// So many requests are answered 503.
    pub troubles: AtomicU32,
    address: Mutex<String>,
}

impl FakeManagement {
    pub async fn serve() -> Arc<Self> {
        let fake = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *fake.address.lock().unwrap() = listener.local_addr().unwrap().to_string();
        let me = Arc::downgrade(&fake);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(fake) = me.upgrade() else { return };
                tokio::spawn(async move { fake.answer(stream).await });
            }
        });
        fake
    }

    /// Settings with which hosts can join.
    pub fn join_config(&self) -> JoinConfig {
        JoinConfig {
            management: ManagementConfig {
                url: format!("http://{}", self.address.lock().unwrap()),
                user: "admin".into(),
                password: "the broker's own".into(),
                vhost: "/".into(),
                ca: None,
            },
            broker_url: "amqp://rabbit:5672/%2f".into(),
            broker_ca: Some("a certificate".into()),
            context_public_keys: vec!["a key".into()],
        }
    }

    async fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut first = String::new();
            if stream.read_line(&mut first).await.ok()? == 0 {
                return None;
            }
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.ok()?;
                if line.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().ok()?;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            let what = first.rsplit_once(' ')?.0.to_owned();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            self.asked.lock().unwrap().push(Asked { what, body });
            let fails = self
                .troubles
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
            let status = if fails { "503 Away" } else { "204 Done" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    /// What was asked since the last time.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}
