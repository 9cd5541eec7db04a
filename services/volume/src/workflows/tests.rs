//! Each workflow is broken at each of its steps, and what is left is looked at.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use yakumo_contracts::volume_host::CreateRequest;
use yakumo_db::Backend;
use yakumo_types::VolumeId;
use yakumo_workflow::testing::{Case, Proof, quick, wait_for_end};
use yakumo_workflow::{End, Engine, Workflow, WorkflowView};

use super::{CREATE_VOLUME, CreateVolume, DELETE_VOLUME, DeleteVolume};
use crate::testing::{Broken, HOST, World};

impl World {
    fn case(&self, workflow: Arc<dyn Workflow>, id: VolumeId) -> Case {
        Case {
            db: self.app.db.clone(),
            env: self.app.env.clone(),
            workflow,
            resource: id.to_string(),
            input: json!({ "volume_id": id }),
            ctx: self.member(),
        }
    }

    fn create_case(&self, id: VolumeId) -> Case {
        let app = Arc::clone(&self.app);
        self.case(Arc::new(CreateVolume { app }), id)
    }

    fn delete_case(&self, id: VolumeId) -> Case {
        let app = Arc::clone(&self.app);
        self.case(Arc::new(DeleteVolume { app }), id)
    }

    /// Runs a workflow that gives up after `bound`.
    pub(crate) async fn run(
        &self,
        kind: &'static str,
        id: VolumeId,
        bound: Duration,
    ) -> WorkflowView {
        let engine = Engine::with_config(self.db().clone(), self.app.env.clone(), quick())
            .register(Arc::new(CreateVolume {
                app: Arc::clone(&self.app),
            }))
            .register(Arc::new(DeleteVolume {
                app: Arc::clone(&self.app),
            }));
        let tasks = tokio_util::task::TaskTracker::new();
        engine.start(
            &|_, task| {
                tasks.spawn(task);
            },
            tokio_util::sync::CancellationToken::new(),
        );
        let (submitter, ctx) = (engine.clone(), self.member());
        let workflow = self
            .db()
            .write(move |txn| {
                let (engine, ctx) = (submitter.clone(), ctx.clone());
                Box::pin(async move {
                    let input = json!({ "volume_id": id });
                    engine
                        .submit(txn, kind, &id.to_string(), input, &ctx, bound)
                        .await
                })
            })
            .await
            .unwrap();
        let view = wait_for_end(&engine, &self.app.env, workflow).await;
        engine.kill();
        view
    }

    /// A volume with its file.
    async fn made(&self) -> VolumeId {
        let id = self.insert("available").await;
        let request = CreateRequest {
            volume_id: id.to_string(),
            size_gib: 1,
            fence: Some(yakumo_contracts::common::Fence {
                epoch: 1,
                ..Default::default()
            }),
        };
        self.host
            .create(&self.app.internal(), request)
            .await
            .unwrap();
        id
    }
}

/// The world that is being broken, to be looked at.
#[derive(Default)]
struct Current(Mutex<Option<(Arc<World>, VolumeId)>>);

impl Current {
    fn keep(&self, world: World, id: VolumeId) -> Arc<World> {
        let world = Arc::new(world);
        *self.0.lock().unwrap() = Some((Arc::clone(&world), id));
        world
    }

    fn get(&self) -> (Arc<World>, VolumeId) {
        self.0.lock().unwrap().clone().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_breaks_anywhere_leaves_no_file_and_one_that_is_resumed_is_whole() {
    let current = Current::default();
    Proof {
        make: async || {
            let world = World::new().await;
            let id = world.insert("creating").await;
            current.keep(world, id).create_case(id)
        },
        done: async |_: &Case| {
            let (world, id) = current.get();
            assert_eq!(world.status(id).await, "available");
            let kept = world.kept().await;
            assert_eq!(kept.len(), 1, "{kept:?}");
            assert_eq!(kept[0].volume_id, id.to_string());
        },
        clean: async |_: &Case| {
            let (world, id) = current.get();
            assert_eq!(world.status(id).await, "error");
            assert!(world.kept().await.is_empty());
        },
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_breaks_can_be_asked_for_again_and_one_that_is_resumed_is_whole() {
    let current = Current::default();
    Proof {
        make: async || {
            let world = World::new().await;
            let id = world.made().await;
            let now = world.app.env.now();
            world
                .db()
                .write(move |txn| {
                    Box::pin(async move {
                        let from = &["available"];
                        crate::store::volumes::transition(txn, id, from, "deleting", now).await
                    })
                })
                .await
                .unwrap();
            current.keep(world, id).delete_case(id)
        },
        done: async |_: &Case| {
            let (world, id) = current.get();
            assert_eq!(world.status(id).await, "gone");
            assert!(world.kept().await.is_empty());
        },
        clean: async |_: &Case| {
            let (world, id) = current.get();
            assert_eq!(world.status(id).await, "error_deleting");
        },
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_host_that_stays_away_holds_neither_a_creation_nor_a_deletion() {
    let world = World::without_host(Backend::Sqlite).await;
    let id = world.insert("creating").await;
    let bound = Duration::from_millis(300);
    let view = world.run(CREATE_VOLUME, id, bound).await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    assert_eq!(world.status(id).await, "error");

    // While the host may come back at any moment, its file is not given up.
    let view = world.run(DELETE_VOLUME, id, bound).await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    assert_eq!(world.status(id).await, "error_deleting");

    world.forward(Duration::from_secs(120));
    let view = world.run(DELETE_VOLUME, id, Duration::from_secs(60)).await;
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
    assert_eq!(world.status(id).await, "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_waits_for_the_first_storage_host_to_be_heard_and_not_for_ever() {
    let bound = Duration::from_secs(60);
    let world = World::without_host(Backend::Sqlite).await;
    world.serve_host().await;
    world.forward(Duration::from_secs(120));
    let id = world.insert("creating").await;
    let heard_late = async {
        let clock = &world.app.env.clock;
        clock.sleep(Duration::from_millis(100)).await;
        assert_eq!(world.status(id).await, "creating");
        world.hear_host().await;
    };
    let (view, ()) = tokio::join!(world.run(CREATE_VOLUME, id, bound), heard_late);
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
    assert_eq!(world.status(id).await, "available");

    world.forward(Duration::from_secs(120));
    let id = world.insert("creating").await;
    world.forward(Duration::from_secs(31));
    let view = world.run(CREATE_VOLUME, id, bound).await;
    let Some(End::Failed(fault)) = view.end() else {
        panic!("{view:?}");
    };
    assert!(fault.message.contains("1 known, 0 heard"), "{fault}");
    assert_eq!(world.status(id).await, "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_host_that_was_heard_before_the_clock_was_put_back_is_not_up() {
    let world = World::without_host(Backend::Sqlite).await;
    world.serve_host().await;
    let hour = Duration::from_secs(3600);
    world.hear_host_at(world.app.env.now().plus(hour)).await;
    let id = world.insert("creating").await;
    world.forward(Duration::from_secs(31));
    let view = world.run(CREATE_VOLUME, id, Duration::from_secs(60)).await;
    let Some(End::Failed(fault)) = view.end() else {
        panic!("{view:?}");
    };
    assert!(fault.message.contains("1 known, 0 heard"), "{fault}");
    // It is up again with the first word after that.
    world.hear_host().await;
    let id = world.insert("creating").await;
    let view = world.run(CREATE_VOLUME, id, Duration::from_secs(60)).await;
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
}

/// Rows of workflows that the last release began say how many steps are done.
#[tokio::test(flavor = "multi_thread")]
async fn the_previous_releases_steps_are_counted_as_they_were() {
    let app = World::without_host(Backend::Sqlite).await.app;
    let create = CreateVolume { app: app.clone() };
    let delete = DeleteVolume { app };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previous");
    for (kind, now) in [
        (create.kind(), create.steps()),
        (delete.kind(), delete.steps()),
    ] {
        let file = folder.join(format!("{kind}.steps.json"));
        let now: Vec<String> = now.iter().map(|step| (*step).to_owned()).collect();
        yakumo_testing::recorded::is_still_read(&file, &now).unwrap();
        let before: Vec<String> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert!(now.starts_with(&before), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_cannot_be_taken_back_is_an_error_with_its_host_and_cause() {
    let world = World::without_host(Backend::Sqlite).await;
    world.serve_host_with(Arc::new(Broken)).await;
    let id = world.insert("creating").await;
    let view = world
        .run(CREATE_VOLUME, id, Duration::from_millis(500))
        .await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    let row = world.row(id).await.unwrap();
    assert_eq!((row.status.as_str(), row.host.as_str()), ("error", HOST));
    assert!(row.fault.contains("The disk is broken"), "{}", row.fault);
}
