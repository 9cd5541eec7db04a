//! Requests that come at once do not undo each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use yakumo_auth::JwsContextSeal;
use yakumo_db::{Backend, Db};
use yakumo_identity::{Config, PasswordConfig};
use yakumo_rpc::Bus;
use yakumo_service::{Process, system_env};
use yakumo_testing::databases;

use super::support::*;

/// A world where hashing takes so long that much happens meanwhile.
async fn slow_world() -> Arc<World> {
    let config = Config {
        password: PasswordConfig {
            memory_kib: 16 * 1024,
            iterations: 8,
            ..config().password
        },
        ..config()
    };
    Arc::new(world_with(config).await)
}

/// Somebody who changes the own password again and again.
struct Restless {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Restless {
    fn start(world: &Arc<World>, user: &str, password: &str) -> Self {
        let (stop, changes) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let path = format!("/v3/users/{user}/password");
        let (world, mut old) = (world.clone(), password.to_owned());
        let (stopped, counted) = (stop.clone(), changes.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                let new = format!("next-{}", counted.load(Ordering::SeqCst));
                let body = json!({"user": {"original_password": old, "password": new}});
                let answer = world.send(Method::POST, &path, None, Some(&body)).await;
                if answer.status != 204 {
                    assert_eq!(answer.status, 401);
                    return;
                }
                old = new;
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            stop,
            changes,
            task,
        }
    }

    /// Waits until the next change after the present one is under way.
    async fn at_work(&self) {
        let seen = self.changes.load(Ordering::SeqCst);
        let more = async {
            while self.changes.load(Ordering::SeqCst) == seen {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), more)
            .await
            .unwrap();
    }

    /// Ends when the change that is under way has been answered.
    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_disabled_while_it_changes_its_password_stays_disabled() {
    let world = slow_world().await;
    let admin = world.admin().await;
    let user = world.user("ann").await;
    let restless = Restless::start(&world, &user, "ann");
    restless.at_work().await;
    let path = format!("/v3/users/{user}");
    let disable = json!({"user": {"enabled": false}});
    let disabled = world.patch(&path, &admin, disable).await;
    assert_eq!(disabled.status, 200);
    restless.end().await;
    let shown = world.get(&path, &admin).await;
    assert_eq!(shown.body["user"]["enabled"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_an_administrator_sets_is_not_undone() {
    let world = slow_world().await;
    let admin = world.admin().await;
    let user = world.user("ann").await;
    let restless = Restless::start(&world, &user, "ann");
    restless.at_work().await;
    let path = format!("/v3/users/{user}");
    let reset = json!({"user": {"password": "reset"}});
    assert_eq!(world.patch(&path, &admin, reset).await.status, 200);
    restless.end().await;
    assert_eq!(world.login("ann", "reset", Value::Null).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_change_of_a_user_keeps_what_was_changed_meanwhile() {
    let world = slow_world().await;
    let admin = world.admin().await;
    let user = world.user("ann").await;
    let path = format!("/v3/users/{user}");
    let slow = {
        let (world, admin, path) = (world.clone(), admin.clone(), path.clone());
        tokio::spawn(async move {
            let change = json!({"user": {"password": "another"}});
            world.patch(&path, &admin, change).await
        })
    };
    let mut last = String::new();
    for number in 0.. {
        last = format!("change {number}");
        let change = json!({"user": {"description": last}});
        assert_eq!(world.patch(&path, &admin, change).await.status, 200);
        if slow.is_finished() {
            break;
        }
    }
    assert_eq!(slow.await.unwrap().status, 200);
    let shown = world.get(&path, &admin).await;
    assert_eq!(shown.body["user"]["description"], last.as_str());
    assert_eq!(world.login("ann", "another", Value::Null).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_different_attributes_all_stay() {
    let world = world().await;
    let admin = world.admin().await;
    for (kind, list) in [
        ("project", "projects"),
        ("domain", "domains"),
        ("group", "groups"),
    ] {
        let new = json!({kind: {"name": "first"}});
        let made = world.post(&format!("/v3/{list}"), &admin, new).await;
        assert_eq!(made.status, 201, "{kind}");
        let path = format!("/v3/{list}/{}", made.id());
        for number in 0..50 {
            let (name, about) = (format!("name {number}"), format!("about {number}"));
            let (named, described) = tokio::join!(
                world.patch(&path, &admin, json!({kind: {"name": name}})),
                world.patch(&path, &admin, json!({kind: {"description": about}})),
            );
            assert_eq!(
                (named.status.as_u16(), described.status.as_u16()),
                (200, 200)
            );
            let shown = world.get(&path, &admin).await;
            assert_eq!(shown.body[kind]["name"], name.as_str());
            assert_eq!(shown.body[kind]["description"], about.as_str());
        }
    }
}

/// Replicas that start together on empty tables all come up, and make everything
/// once.
async fn replicas_start_together_on(backend: Backend) {
    for _ in 0..4 {
        let database = databases::fresh(backend).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let process = Process::new("identity", system_env());
        let seal = Arc::new(JwsContextSeal::ephemeral(system_env()).unwrap());
        let bus = Bus::in_process(system_env(), seal);
        let starts = (0..4).map(|number| {
            let (process, bus) = (process.named(&format!("replica-{number}")), bus.clone());
            let database = &database;
            async move {
                let db = Db::connect(&database.config).await?;
                yakumo_identity::start(process, bus, db, config()).await
            }
        });
        let started = futures::future::try_join_all(starts).await.unwrap();
        let world = World {
            process,
            bus,
            base: format!("http://{}", started[0].address),
            http: reqwest::Client::new(),
            folder,
            config: config(),
        };
        let admin = world.admin().await;
        for (list, count) in [
            ("regions", 1),
            ("services", 3),
            ("endpoints", 9),
            ("users", 1),
        ] {
            let made = world.get(&format!("/v3/{list}"), &admin).await.ids(list);
            assert_eq!(made.len(), count, "{list}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_start_together_on_sqlite() {
    replicas_start_together_on(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_start_together_on_postgres() {
    replicas_start_together_on(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_start_together_on_mysql() {
    replicas_start_together_on(Backend::Mysql).await;
}
