//! What a boot asks of this service's database, counted: on PostgreSQL each
//! statement is a round trip, and each commit forces the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use yakumo_types::server_state::{ServerState, VmState};
use yakumo_types::{RequestContext, RequestId};
use yakumo_workflow::EngineConfig;

use super::{World, fakes};
use crate::app::create::{NewServer, WantedNetwork, WantedNetworks};
use crate::app::flavors::NewFlavor;
use crate::config::{Config, QuotaConfig};
use crate::store::servers::{self as store, Life, Scope, state_of};

/// Counts what sea-orm is asked for, by the names of its functions.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl<S: tracing::Subscriber> Layer<S> for Counting {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target().starts_with("sea_orm::database") {
            *self.0.lock().unwrap().entry(metadata.name()).or_default() += 1;
        }
    }
}

impl Counting {
    fn of(&self, names: &[&str]) -> usize {
        let all = self.0.lock().unwrap();
        names.iter().filter_map(|name| all.get(name)).sum()
    }

    /// Statements, and commits.
    fn take(&self) -> (usize, usize) {
        let found = (
            self.of(&["execute_raw", "query_one_raw", "query_all_raw"]),
            self.of(&["commit"]),
        );
        self.0.lock().unwrap().clear();
        found
    }
}

fn caller() -> RequestContext {
    let row = crate::app::tests::sample_server();
    RequestContext {
        user_id: row.user_id.parse().unwrap(),
        project_id: Some(row.project_id.parse().unwrap()),
        ..RequestContext::internal(RequestId::from_uuid(uuid::Uuid::from_u128(1)))
    }
}

fn wanted() -> NewServer {
    NewServer {
        name: "web".into(),
        image_id: fakes::IMAGE.into(),
        flavor_id: "1".into(),
        networks: WantedNetworks::These(vec![WantedNetwork {
            network_id: Some(fakes::NETWORK.into()),
            ..WantedNetwork::default()
        }]),
        security_groups: Vec::new(),
        key_name: None,
        user_data: None,
        config_drive: false,
        metadata: BTreeMap::new(),
        availability_zone: None,
        admin_password: None,
        min_count: 1,
        max_count: 1,
    }
}

/// Boots a server and counts.
async fn boot(world: &World, counting: &Counting) -> (usize, usize) {
    counting.take();
    let accepted = world
        .app
        .server_create(&caller(), wanted(), None)
        .await
        .unwrap();
    let id = accepted.servers[0].id.parse().unwrap();
    // Asking is a statement, too.
    let mut asked = 0;
    loop {
        world.app.env.clock.sleep(Duration::from_millis(20)).await;
        let row = store::server_fetch(world.app.db.read(), Scope::All, id, Life::Either)
            .await
            .unwrap()
            .unwrap();
        asked += 1;
        if state_of(&row) == ServerState::resting(VmState::Active) {
            break;
        }
        assert_eq!(row.fault, None);
        assert!(asked < 3000, "never active: {row:?}");
    }
    let (statements, commits) = counting.take();
    (statements - asked, commits)
}

// On one thread, so that no other test's statements are counted.
#[tokio::test]
async fn a_boot_takes_few_statements_and_counts_servers_only_under_a_quota() {
    let counting = Counting::default();
    // While there is one subscriber alone, whether a span is wanted is asked of
    // whichever thread comes to it first, and other tests' threads have none.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(counting.clone());
    let _counted = tracing::subscriber::set_default(subscriber);
    let unlimited = QuotaConfig {
        instances: -1,
        cores: -1,
        ram: -1,
        ..QuotaConfig::default()
    };
    let config = Config {
        quota: unlimited,
        ..Config::default()
    };
    // Nothing but the boot: the engine looks and waits as long as it takes.
    let never = Duration::from_secs(3600);
    let engine = EngineConfig {
        lease: 2 * never,
        renew_every: never,
        poll_every: never,
        linger: never,
        ..EngineConfig::default()
    };
    let world = World::accepted_on(config, engine).await;
    crate::workflows::register(&world.app);
    let tasks = TaskTracker::new();
    world.app.engine.start(
        &|_, task| {
            tasks.spawn(task);
        },
        CancellationToken::new(),
    );
    let flavor = NewFlavor {
        name: "m1.tiny".into(),
        id: Some("1".into()),
        memory_mib: 512,
        vcpus: 1,
        disk_gib: 1,
        ephemeral_gib: 0,
        swap_mib: 0,
        rxtx_factor: 1.0,
        is_public: true,
    };
    world
        .app
        .flavor_create(&caller(), flavor, None)
        .await
        .unwrap();
    boot(&world, &counting).await;

    // Accepting it (flavor, quota, lease, workflow, server, build, action),
    // choosing (3), being ready (4), a look, the host's report (4), and the end
    // (3); each of the four changes and the report is one commit.
    assert_eq!(boot(&world, &counting).await, (22, 5));

    // A limit makes one statement more: servers are counted.
    let (caller, limits) = (caller(), [("cores".to_owned(), 100)].into());
    let project = caller.project_id.unwrap();
    let quota = world.app.quota_update(&caller, project, limits, true);
    quota.await.unwrap();
    assert_eq!(boot(&world, &counting).await, (23, 5));
    world.app.engine.kill();
}
