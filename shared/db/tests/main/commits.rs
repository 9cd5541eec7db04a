//! Connections that end in the moment of the commit. Nobody can know then
//! whether it happened: that is said, and it is never done a second time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use yakumo_db::{Backend, Db, DbConfig, DbError};
use yakumo_testing::databases::DatabaseServer;

use crate::things::{Entity, Migrator, insert, thing};
use sea_orm::{EntityTrait, PaginatorTrait};

/// When the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Never = 0,
    /// The server is not told to commit.
    Before,
    /// It has committed, and its answer is lost.
    After,
}

/// Stands on a socket before a server's, and ends the next connection that
/// commits.
struct Cutter {
    next: Arc<AtomicUsize>,
}

impl Cutter {
    fn new(socket: &Path, server: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (next, server) = (Arc::new(AtomicUsize::new(0)), server.to_owned());
        let cut = next.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = UnixStream::connect(&server).await {
                    tokio::spawn(relay(client, server, cut.clone()));
                }
            }
        });
        Self { next }
    }

    fn cut(&self, cut: Cut) {
        self.next.store(cut as usize, Ordering::SeqCst);
    }

    /// Whether the cut is still to come.
    fn waits(&self) -> bool {
        self.next.load(Ordering::SeqCst) != Cut::Never as usize
    }
}

async fn relay(client: UnixStream, server: UnixStream, cut: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { pump(&mut from_server, &mut to_client).await });
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from_client.read(&mut piece).await {
        let piece = &piece[..length];
        let commits = piece.windows(7).any(is_commit);
        let now = match commits {
            true => cut.swap(Cut::Never as usize, Ordering::SeqCst),
            false => Cut::Never as usize,
        };
        if now == Cut::Before as usize {
            break;
        }
        if now == Cut::After as usize {
            // From here on nothing comes back; the server ends the connection
            // once it has done everything that it was told before.
            back.abort();
            let _ = back.await;
            let _ = to_server.write_all(piece).await;
            let _ = to_server.shutdown().await;
            return;
        }
        if to_server.write_all(piece).await.is_err() {
            break;
        }
    }
    back.abort();
}

/// A commit as PostgreSQL's simple query ends, or as a query of MySQL's
/// protocol begins; not the isolation level that every new connection asks
/// for, whose name begins with the same word.
fn is_commit(bytes: &[u8]) -> bool {
    bytes == b"COMMIT\0" || bytes == b"\x03COMMIT"
}

async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let _ = tokio::io::copy(from, to).await;
}

async fn a_commit_without_an_answer_is_not_done_again(backend: Backend) {
    let server = DatabaseServer::start(backend).await.unwrap();
    let url = server.create().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = server.socket();
    let cutter = Cutter::new(&folder.path().join(socket.file_name().unwrap()), &socket);
    let (real, before) = (socket.parent().unwrap(), folder.path());
    let direct = Db::connect(&DbConfig::with_url(url.clone())).await.unwrap();
    direct.migrate::<Migrator>().await.unwrap();
    let url = url.replace(&*real.to_string_lossy(), &before.to_string_lossy());
    let db = Db::connect(&DbConfig::with_url(url)).await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let change = |id: &'static str| {
        let runs = runs.clone();
        db.write(move |txn| {
            runs.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move { insert(txn, thing(id, id)).await })
        })
    };
    let is_there = async |id: &str| {
        let id = id.to_owned();
        Entity::find_by_id(id)
            .one(direct.read())
            .await
            .unwrap()
            .is_some()
    };
    for (cut, id) in [(Cut::Before, "before"), (Cut::After, "after")] {
        runs.store(0, Ordering::SeqCst);
        cutter.cut(cut);
        let outcome = tokio::time::timeout(Duration::from_secs(60), change(id)).await;
        let outcome = outcome.expect("an answer within a bound");
        assert!(
            matches!(outcome, Err(DbError::Unavailable)),
            "{cut:?}: {outcome:?}"
        );
        assert!(!cutter.waits(), "{cut:?}: nothing was cut");
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{cut:?}");
        if cut == Cut::After {
            let wait = async {
                while !is_there(id).await {
                    tokio::task::yield_now().await;
                }
            };
            let there = tokio::time::timeout(Duration::from_secs(30), wait).await;
            assert!(there.is_ok(), "it was committed");
        }
        // Whoever tries again finds out which it was.
        let again = change(id).await;
        match cut {
            Cut::After => assert!(matches!(again, Err(DbError::Conflict { .. })), "{again:?}"),
            Cut::Before | Cut::Never => again.unwrap(),
        }
    }
    assert_eq!(Entity::find().count(direct.read()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_to_postgres_without_an_answer_is_not_done_again() {
    a_commit_without_an_answer_is_not_done_again(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_to_mariadb_without_an_answer_is_not_done_again() {
    a_commit_without_an_answer_is_not_done_again(Backend::Mysql).await;
}
