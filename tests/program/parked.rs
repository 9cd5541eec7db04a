//! What the bus has set aside, as a person finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use yakumo_auth::{JwsContextSeal, SealConfig, SigningKey};
use yakumo_rpc::{
    AmqpConfig, Bus, Handler, Incoming, MethodId, ServeOptions, Target, Topic, Version,
};
use yakumo_service::system_env;
use yakumo_testing::rabbitmq::Broker;
use yakumo_types::{Fault, RequestContext};

use crate::world::World;

const VERSION: Version = Version { major: 1, minor: 0 };

/// Counts what comes for one contract.
struct Counting {
    service: &'static str,
    seen: Arc<AtomicUsize>,
}

#[async_trait]
impl Handler for Counting {
    fn service(&self) -> &'static str {
        self.service
    }

    fn version(&self) -> Version {
        VERSION
    }

    fn open_to_hosts(&self, _: &str) -> bool {
        false
    }

    async fn handle(&self, _: Incoming) -> Result<Vec<u8>, Fault> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        Ok(Vec::new())
    }
}

/// Serves the topic `garden` for one contract; counts what comes.
async fn serve(bus: &Bus, service: &'static str) -> (yakumo_rpc::Server, Arc<AtomicUsize>) {
    let seen = Arc::<AtomicUsize>::default();
    let handler = Counting {
        service,
        seen: Arc::clone(&seen),
    };
    let server = bus
        .serve(
            Topic::Control("garden"),
            vec![Arc::new(handler)],
            ServeOptions::default(),
        )
        .await
        .unwrap();
    (server, seen)
}

/// What is parked, as lines of the table: id and the rest.
async fn listed(world: &World, count: usize) -> Vec<String> {
    let list = async {
        loop {
            let said = world.run(&["parked", "list"]);
            assert!(said.status.success(), "{}", said.err);
            let rows: Vec<String> = said
                .out
                .lines()
                .filter(|line| line.contains("garden.v1"))
                .map(str::to_owned)
                .collect();
            if rows.len() == count {
                return rows;
            }
            system_env().clock.sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), list)
        .await
        .unwrap_or_else(|_| panic!("there never were {count} parked messages"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lists_replays_and_discards_what_nobody_could_handle() {
    let broker = Broker::start().await.unwrap();
    let env = system_env();
    let key = SigningKey::generate(&env).unwrap().to_text().to_string();
    let world = World::with(&format!(
        "data_dir = \"FOLDER\"\n[bus]\nurl = \"{}\"\ncontext_key = \"{key}\"\n",
        broker.url()
    ));
    let seal = SealConfig {
        private_key: key,
        public_keys: Vec::new(),
    };
    let seal = Arc::new(JwsContextSeal::new(&seal, env.clone()).unwrap());
    let bus = Bus::connect(AmqpConfig::new(broker.url(), "test"), env.clone(), seal)
        .await
        .unwrap();
    let bound = Duration::from_secs(10);
    // It does not know the contract that it is spoken to in.
    let (server, _) = serve(&bus, "shed.v1.Shed").await;
    for method in ["Dig", "Sow"] {
        let method = MethodId {
            service: "garden.v1.Garden",
            method,
            version: VERSION,
        };
        let ctx = RequestContext::internal(env.id());
        bus.cast(&ctx, &Target::service("garden"), method, vec![])
            .await
            .unwrap();
    }
    let rows = listed(&world, 2).await;
    let id = |word: &str| {
        let row = rows.iter().find(|row| row.contains(word));
        let row = row.unwrap_or_else(|| panic!("{word}: {rows:?}"));
        assert!(row.contains("control"), "{row}");
        row.split(|byte: char| !byte.is_ascii_hexdigit() && byte != '-')
            .find(|word| word.len() == 36)
            .unwrap()
            .to_owned()
    };
    let (dig, sow) = (id("Dig"), id("Sow"));

    let said = world.run(&["parked", "discard", &sow]);
    assert!(said.status.success(), "{}", said.err);
    assert!(server.stop(bound).await);
    let (server, seen) = serve(&bus, "garden.v1.Garden").await;
    let said = world.run(&["parked", "replay", &dig]);
    assert!(said.status.success(), "{}", said.err);
    listed(&world, 0).await;
    let handled = async {
        while seen.load(Ordering::SeqCst) == 0 {
            env.clock.sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(bound, handled).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // It is there no more.
    for command in ["replay", "discard"] {
        let said = world.run(&["parked", command, &dig]);
        assert!(!said.status.success());
        assert!(said.err.contains("is not there"), "{}", said.err);
    }
    assert!(server.stop(bound).await);
}

#[test]
fn a_bus_within_one_process_says_that_there_is_nothing_to_look_at() {
    let world = World::with("data_dir = \"FOLDER\"\n");
    let said = world.run(&["parked", "list"]);
    assert!(!said.status.success());
    assert!(said.err.contains("bus.url"), "{}", said.err);
}
