//! A wire between two programs that can be cut, or be slow: a relay for TCP
//! ports and unix sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    /// Raised by every cut: connections of an older one are over.
    cuts: u64,
    /// New connections are closed at once.
    refuses: bool,
    /// Every piece of data waits for so long.
    delay: Duration,
}

/// See the module. The relay ends with it.
pub struct Wire {
    state: watch::Sender<State>,
    relay: JoinHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Clone)]
enum End {
    Port(u16),
    Socket(PathBuf),
}

impl End {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

impl Wire {
    /// A wire to a port of 127.0.0.1, and the port that it begins at.
    pub async fn to_port(port: u16) -> Result<(Self, u16)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let begin = listener.local_addr()?.port();
        let state = watch::Sender::default();
        let watching = state.clone();
        let relay = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(carry(stream, End::Port(port), watching.subscribe()));
            }
        });
        Ok((Self { state, relay }, begin))
    }

    /// A wire to a unix socket that begins at another one.
    pub fn to_socket(begin: &Path, socket: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(begin).with_context(|| format!("binding {}", begin.display()))?;
        let state = watch::Sender::default();
        let (watching, end) = (state.clone(), End::Socket(socket.to_owned()));
        let relay = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, end.clone(), watching.subscribe()));
            }
        });
        Ok(Self { state, relay })
    }

    /// Ends all of its connections; new ones may be made at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Takes no connections, or takes them again.
    pub fn refuse(&self, refuses: bool) {
        self.state.send_modify(|state| state.refuses = refuses);
    }

    /// Lets every piece of data wait.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.relay.abort();
        self.cut();
    }
}

async fn carry(near: impl Stream, end: End, mut state: watch::Receiver<State>) {
    let now = *state.borrow();
    if now.refuses {
        return;
    }
    let Ok(far) = end.connect().await else { return };
    let (near_in, near_out) = tokio::io::split(near);
    let (far_in, far_out) = tokio::io::split(far);
    let (there, back) = (state.clone(), state.clone());
    tokio::select! {
        // Either side's end is the end of both: nobody here speaks after hanging up.
        () = pump(near_in, far_out, there) => {}
        () = pump(far_in, near_out, back) => {}
        _ = state.wait_for(|state| state.cuts != now.cuts) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: watch::Receiver<State>,
) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut piece).await {
        let Some(piece) = piece.get(..length).filter(|piece| !piece.is_empty()) else {
            return;
        };
        let delay = state.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_ends_what_was_connected_and_nothing_that_comes_after() {
        let echo = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = echo.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let (wire, begin) = Wire::to_port(port).await.unwrap();
        let mut first = TcpStream::connect(("127.0.0.1", begin)).await.unwrap();
        let mut byte = [7];
        first.write_all(&byte).await.unwrap();
        first.read_exact(&mut byte).await.unwrap();

        wire.refuse(true);
        wire.cut();
        assert_eq!(first.read(&mut byte).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(("127.0.0.1", begin)).await.unwrap();
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);

        wire.refuse(false);
        let mut second = TcpStream::connect(("127.0.0.1", begin)).await.unwrap();
        second.write_all(&[9]).await.unwrap();
        second.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [9]);
    }
}
