//! The database goes away in the middle of everything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use yakumo_db::{Backend, Db, DbConfig};
use yakumo_testing::databases::{DatabaseServer, Durability};
use yakumo_workflow::testing::{quick, wait_for_end};
use yakumo_workflow::{End, EngineConfig, Outcome};

use crate::world::{LONG, Migrator, Running, env, simple, submit};

async fn workflows_survive_the_loss_of_their_database(backend: Backend) {
    // What is answered must still be there after the fall.
    let server = DatabaseServer::start_with(backend, Durability::Durable)
        .await
        .unwrap();
    let config = DbConfig {
        acquire_timeout: Duration::from_secs(1),
        ..DbConfig::with_url(server.create().await.unwrap())
    };
    let db = Db::connect(&config).await.unwrap();
    db.migrate::<Migrator>().await.unwrap();
    let env = env();
    let ran: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let (count, clock) = (Arc::clone(&ran), env.clone());
    let worker = Running::start(
        db.clone(),
        env.clone(),
        simple(&["one", "two", "three", "four"]).run(move |step, cx| {
            *count
                .lock()
                .unwrap()
                .entry(format!("{} {step}", cx.resource))
                .or_default() += 1;
            let clock = clock.clone();
            Box::pin(async move {
                clock.clock.sleep(Duration::from_millis(20)).await;
                Ok(Outcome::done())
            })
        }),
        EngineConfig {
            renew_every: Duration::from_millis(200),
            ..quick()
        },
    );
    let mut ids = Vec::new();
    for number in 0..200 {
        let resource = number.to_string();
        ids.push(
            submit(&db, &worker.engine, &resource, json!(null), LONG)
                .await
                .unwrap(),
        );
        if number == 150 {
            server.kill().await.unwrap();
            env.clock.sleep(Duration::from_millis(300)).await;
            server.resume().await.unwrap();
        }
    }
    for id in ids {
        let view = wait_for_end(&worker.engine, &env, id).await;
        assert_eq!(view.end(), Some(End::Succeeded));
    }
    assert_eq!(ran.lock().unwrap().len(), 800);
}

/// Stands between a database and its clients, and can leave the connections
/// made so far open and dumb, as if the machine at their other end had vanished.
struct Silencer {
    folder: tempfile::TempDir,
    silent_below: Arc<AtomicUsize>,
    made: Arc<AtomicUsize>,
}

impl Silencer {
    const SOCKET: &str = ".s.PGSQL.5432";

    fn before(database: &std::path::Path) -> Self {
        let silencer = Self {
            folder: tempfile::tempdir_in("/tmp").unwrap(),
            silent_below: Arc::default(),
            made: Arc::default(),
        };
        let listener = UnixListener::bind(silencer.folder.path().join(Self::SOCKET)).unwrap();
        let behind = database.join(Self::SOCKET);
        let (silent, made) = (silencer.silent_below.clone(), silencer.made.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = made.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = UnixStream::connect(&behind).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let pass = |from, to| pass(from, to, number, silent.clone());
                tokio::spawn(pass(from_client, to_server));
                tokio::spawn(pass(from_server, to_client));
            }
        });
        silencer
    }

    fn silence(&self) {
        self.silent_below
            .store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: usize,
    silent_below: Arc<AtomicUsize>,
) {
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        if number < silent_below.load(Ordering::SeqCst) {
            // Open for ever.
            return std::future::pending().await;
        }
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_go_on_when_the_connections_of_a_worker_fall_silent() {
    let server = DatabaseServer::start(Backend::Postgres).await.unwrap();
    let url = server.create().await.unwrap();
    let direct = Db::connect(&DbConfig::with_url(url.clone())).await.unwrap();
    direct.migrate::<Migrator>().await.unwrap();
    let (before, folder) = url.split_once("host=").unwrap();
    let silencer = Silencer::before(std::path::Path::new(folder));
    let through = format!("{before}host={}", silencer.folder.path().display());
    // Few, so that it would show if those that fell silent were kept.
    let few = DbConfig {
        max_connections: 2,
        ..DbConfig::with_url(through)
    };
    let db = Db::connect(&few).await.unwrap();
    let env = env();
    let worker = Running::start(
        db,
        env.clone(),
        simple(&["one", "two"]),
        EngineConfig {
            lease: Duration::from_secs(4),
            renew_every: Duration::from_millis(100),
            ..quick()
        },
    );
    // Accepts only; it is another process, whose connections are sound.
    let idle = yakumo_workflow::Engine::new(direct.clone(), env.clone())
        .register(Arc::new(simple(&["one", "two"])));
    for round in 0..4 {
        let id = submit(&direct, &idle, "r", json!(null), LONG)
            .await
            .unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(90), wait_for_end(&idle, &env, id));
        let view = ended.await.unwrap_or_else(|_| panic!("round {round}"));
        assert_eq!(view.end(), Some(End::Succeeded));
        silencer.silence();
    }
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_survive_the_loss_of_postgres() {
    workflows_survive_the_loss_of_their_database(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workflows_survive_the_loss_of_mariadb() {
    workflows_survive_the_loss_of_their_database(Backend::Mysql).await;
}
