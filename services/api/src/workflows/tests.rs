//! Each workflow is broken at each of its steps, and what is left is looked at.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use yakumo_contracts::api::{ApiHandler, HostReportsHandler};
use yakumo_contracts::compute_host::Power;
use yakumo_db::{DatabaseTransaction, Db, DbConfig, DbError};
use yakumo_rpc::{Bus, ServeOptions, Topic};
use yakumo_service::system_env;
use yakumo_testing::databases::execute;
use yakumo_types::server_state::{ServerState, TaskState, VmState};
use yakumo_types::{
    AttachmentId, ContextSeal, Env, Fault, ProjectId, RequestContext, RequestId, ServerId, UserId,
    VolumeId, WorkflowId,
};
use yakumo_workflow::testing::{Case, Proof, quick, submit, wait_for_end};
use yakumo_workflow::{
    End, Engine, EngineConfig, Outcome, StepCx, StepError, Workflow, WorkflowState, WorkflowView,
};

use super::{attach_volume, change_power, create_server, delete_server, detach_volume};
use crate::app::App;
use crate::app::tests::{sample_build, sample_server};
use crate::config::Config;
use crate::store::actions::{self, Action};
use crate::store::servers::{
    self as store, Expected, Life, Scope, Server, ServerBuild, ServerChange, state_of,
};
use crate::store::volumes::{self, ServerVolume};

mod statements;
mod stuck_tests;
mod volume_tests;

#[allow(dead_code, reason = "the handlers' tests use the rest")]
#[path = "../../tests/fakes.rs"]
mod fakes;

use fakes::{FakeHost, FakeImages, FakeNetwork, FakeScheduler, FakeVolumes, Trouble};

struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("not sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("not sealed here"))
    }
}

/// One cloud with one server.
struct World {
    app: Arc<App>,
    host: Arc<FakeHost>,
    network: Arc<FakeNetwork>,
    volumes: Arc<FakeVolumes>,
    /// Steps that fail before they begin; `undo_<name>` of what is taken back.
    steps: Trouble,
    id: ServerId,
    _folder: tempfile::TempDir,
}

impl World {
    /// A server that was just accepted.
    async fn accepted() -> Arc<Self> {
        Self::accepted_with(Config::default()).await
    }

    async fn accepted_with(config: Config) -> Arc<Self> {
        Self::accepted_on(config, EngineConfig::default()).await
    }

    async fn accepted_on(config: Config, engine: EngineConfig) -> Arc<Self> {
        let env = system_env();
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            database: DbConfig {
                sqlite_durable: false,
                ..DbConfig::sqlite(&folder.path().join("api.sqlite"))
            },
            ..config
        };
        let db = Db::connect(&config.database).await.unwrap();
        db.migrate::<crate::Migrator>().await.unwrap();
        let engine = Engine::with_config(db.clone(), env.clone(), engine);
        let app = App::new(env.clone(), config, db, bus.clone(), engine).unwrap();
        bus.serve(
            Topic::Control("api"),
            vec![
                Arc::new(HostReportsHandler::new(Arc::new(crate::rpc::HostReports {
                    app: app.clone(),
                }))),
                Arc::new(ApiHandler::new(Arc::new(crate::rpc::Api {
                    app: app.clone(),
                }))),
            ],
            ServeOptions::default(),
        )
        .await
        .unwrap();
        let network = FakeNetwork::serve(&bus).await;
        FakeImages::serve(&bus).await;
        let scheduler = FakeScheduler::serve(&bus).await;
        let host = FakeHost::serve(&bus, &env, "node-1").await;
        scheduler.add(&host.name);
        let volumes = FakeVolumes::serve(&bus).await;
        volumes.watch(&host);
        let id: ServerId = env.id();
        let world = Arc::new(Self {
            app,
            host,
            network,
            volumes,
            steps: Trouble::default(),
            id,
            _folder: folder,
        });
        world.insert(&env).await;
        world
    }

    /// The rows of a server that was just accepted.
    fn first_rows(&self) -> (Server, ServerBuild) {
        let state = ServerState::ACCEPTED;
        let row = Server {
            id: self.id.to_string(),
            host: None,
            vm_state: state.vm.as_str().into(),
            task_state: state.task.map(|task| task.as_str().into()),
            power_state: 0,
            seen_generation: 0,
            seen_converged: false,
            seen_power: String::new(),
            image_id: Some(fakes::IMAGE.into()),
            ..sample_server()
        };
        let mut build = sample_build();
        build.server_id = self.id.to_string();
        build.networks = serde_json::json!([{
            "network_id": fakes::NETWORK, "label": "flat",
        }])
        .to_string();
        (row, build)
    }

    async fn insert(&self, env: &Env) {
        let (row, build) = self.first_rows();
        let action = Action {
            id: "action".into(),
            server_id: row.id.clone(),
            request_id: env.rng.uuid().to_string(),
            project_id: row.project_id.clone(),
            user_id: row.user_id.clone(),
            action: "create".into(),
            started_at: 1,
            finished_at: None,
            message: None,
            events: "[]".into(),
        };
        self.app
            .db
            .write(move |txn| {
                let (row, build, action) = (row.clone(), build.clone(), action.clone());
                Box::pin(async move {
                    store::server_insert(txn, vec![row], vec![build]).await?;
                    actions::action_insert(txn, vec![action]).await
                })
            })
            .await
            .unwrap();
    }

    /// A server that runs on the host, as a boot would have left it.
    async fn running() -> Arc<Self> {
        Self::running_with(Config::default()).await
    }

    async fn running_with(config: Config) -> Arc<Self> {
        let world = Self::accepted_with(config).await;
        world.run(&world.create_case()).await;
        world
    }

    /// A server that was stopped.
    async fn stopped() -> Arc<Self> {
        let world = Self::running().await;
        let asked = world.ask_for("stopped", TaskState::PoweringOff, 0).await;
        world.run(&world.power_case(asked)).await;
        world
    }

    /// A worker that knows these workflows.
    fn worker(&self, cases: &[&Case]) -> Engine {
        let engine = Engine::with_config(self.app.db.clone(), self.app.env.clone(), quick());
        for case in cases {
            engine.add(case.workflow.clone());
        }
        let tasks = tokio_util::task::TaskTracker::new();
        engine.start(
            &|_, task| {
                tasks.spawn(task);
            },
            tokio_util::sync::CancellationToken::new(),
        );
        engine
    }

    /// Runs a workflow, which succeeds.
    async fn run(&self, case: &Case) {
        let view = self.run_to_end(case).await;
        assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
    }

    async fn run_to_end(&self, case: &Case) -> WorkflowView {
        let engine = self.worker(&[case]);
        let id = submit(&engine, case).await;
        let view = wait_for_end(&engine, &case.env, id).await;
        engine.kill();
        view
    }

    fn case(self: &Arc<Self>, workflow: Arc<dyn Workflow>, input: Value) -> Case {
        let row = sample_server();
        Case {
            db: self.app.db.clone(),
            env: self.app.env.clone(),
            workflow: Arc::new(Keeping {
                inner: workflow,
                world: self.clone(),
            }),
            resource: self.id.to_string(),
            input,
            ctx: RequestContext {
                user_id: row.user_id.parse::<UserId>().unwrap(),
                project_id: Some(row.project_id.parse::<ProjectId>().unwrap()),
                roles: vec!["member".into()],
                system: false,
                ..RequestContext::internal(RequestId::from_uuid(self.app.env.rng.uuid()))
            },
        }
    }

    fn create_case(self: &Arc<Self>) -> Case {
        let workflow = create_server::CreateServer::new(Arc::downgrade(&self.app));
        let (row, build) = self.first_rows();
        let input = create_server::Input {
            server_id: self.id,
            action_id: "action".into(),
            facts: create_server::Facts::of(&row, &build).unwrap(),
        };
        self.case(Arc::new(workflow), serde_json::to_value(input).unwrap())
    }

    async fn row(&self) -> Server {
        store::server_fetch(self.app.db.read(), Scope::All, self.id, Life::Either)
            .await
            .unwrap()
            .unwrap()
    }

    async fn assert_nothing_left(&self) {
        assert!(self.host.is_empty(), "{}", self.host.left());
        assert!(self.network.ports.lock().unwrap().is_empty());
        let row = self.row().await;
        assert_eq!(state_of(&row), ServerState::resting(VmState::Error));
        assert_eq!(row.host, None);
        assert!(row.fault.is_some());
    }

    /// The new intent is written down, as an accepted request leaves it.
    async fn ask_for(
        &self,
        power: &'static str,
        task: TaskState,
        reboots: i64,
    ) -> change_power::Input {
        let (id, now) = (self.id, self.app.env.now());
        let before = self.row().await;
        let (vm, generation) = (state_of(&before).vm, before.generation + 1);
        self.app
            .db
            .write(move |txn| {
                Box::pin(async move {
                    let change = ServerChange::at(now)
                        .state(ServerState {
                            vm,
                            task: Some(task),
                        })
                        .desired(generation, power, reboots);
                    store::server_change(txn, id, &Expected::anything(), change).await
                })
            })
            .await
            .unwrap();
        change_power::Input {
            server_id: self.id,
            action_id: "action".into(),
            generation,
            power: power.into(),
            reboot_count: reboots,
            before_power: before.desired_power,
        }
    }

    fn power_case(self: &Arc<Self>, input: change_power::Input) -> Case {
        let workflow = change_power::ChangePower::new(Arc::downgrade(&self.app));
        self.case(Arc::new(workflow), serde_json::to_value(input).unwrap())
    }

    fn deletion_case(self: &Arc<Self>, overtaken: Option<WorkflowId>) -> Case {
        let workflow = delete_server::DeleteServer::new(Arc::downgrade(&self.app));
        let input = delete_server::Input {
            server_id: self.id,
            action_id: "action".into(),
            overtaken,
        };
        self.case(Arc::new(workflow), serde_json::to_value(input).unwrap())
    }

    /// The bounds of all that was asked for were over ten minutes ago.
    async fn let_bounds_run_out(&self) {
        let sql = "UPDATE workflows SET deadline_at = deadline_at - 600000000";
        execute(&self.app.db, sql).await.unwrap();
    }

    async fn ask_for_deletion(&self) {
        let (id, now) = (self.id, self.app.env.now());
        self.app
            .db
            .write(move |txn| {
                Box::pin(async move {
                    let change = ServerChange::at(now).state(ServerState {
                        vm: VmState::Active,
                        task: Some(TaskState::Deleting),
                    });
                    store::server_change(txn, id, &Expected::anything(), change).await
                })
            })
            .await
            .unwrap();
    }
}

/// Submits a workflow that is given up after `bound`.
async fn submit_bound(engine: &Engine, case: &Case, bound: Duration) -> WorkflowId {
    let (handle, kind) = (engine.clone(), case.workflow.kind());
    let (resource, input, ctx) = (case.resource.clone(), case.input.clone(), case.ctx.clone());
    case.db
        .write(move |txn| {
            let (engine, resource) = (handle.clone(), resource.clone());
            let (input, ctx) = (input.clone(), ctx.clone());
            Box::pin(async move {
                engine
                    .submit(txn, kind, &resource, input, &ctx, bound)
                    .await
            })
        })
        .await
        .unwrap()
}

/// Keeps the world while its workflow runs, and knows its troubles.
struct Keeping {
    inner: Arc<dyn Workflow>,
    world: Arc<World>,
}

#[async_trait]
impl Workflow for Keeping {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn steps(&self) -> &'static [&'static str] {
        self.inner.steps()
    }

    fn is_lazy(&self, step: &str) -> bool {
        self.inner.is_lazy(step)
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        self.world.steps.check(cx.step())?;
        self.inner.run(step, cx).await
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        self.world.steps.check(cx.step())?;
        self.inner.undo(step, cx).await
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        self.inner.on_finished(txn, cx, end).await
    }
}

/// The worlds of a proof, to be found again by the server's id.
#[derive(Default)]
struct Worlds(Mutex<HashMap<String, Arc<World>>>);

impl Worlds {
    fn keep(&self, world: &Arc<World>) {
        // Each world is looked at before the next one is made.
        let mut all = self.0.lock().unwrap();
        all.clear();
        all.insert(world.id.to_string(), world.clone());
    }

    fn of(&self, case: &Case) -> Arc<World> {
        self.0.lock().unwrap()[&case.resource].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_breaks_anywhere_leaves_nothing_and_one_that_is_resumed_is_whole() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::accepted().await;
            worlds.keep(&world);
            world.create_case()
        },
        done: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Active));
            assert_eq!(row.host.as_deref(), Some("node-1"));
            let desired = world.host.desired(&row.id).unwrap();
            assert_eq!(desired.power(), Power::Running);
            assert_eq!(world.network.ports.lock().unwrap().len(), 1);
        },
        clean: async |case: &Case| worlds.of(case).assert_nothing_left().await,
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_breaks_anywhere_goes_back_and_one_that_is_resumed_is_whole() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::running().await;
            let asked = world.ask_for("stopped", TaskState::PoweringOff, 0).await;
            worlds.keep(&world);
            world.power_case(asked)
        },
        done: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Stopped));
            assert_eq!(world.host.desired(&row.id).unwrap().power(), Power::Stopped);
        },
        clean: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Active));
            assert_eq!(row.desired_power, "running");
            assert_eq!(world.host.desired(&row.id).unwrap().power(), Power::Running);
        },
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_breaks_anywhere_goes_back_and_one_that_is_resumed_is_whole() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::stopped().await;
            let asked = world.ask_for("running", TaskState::PoweringOn, 0).await;
            worlds.keep(&world);
            world.power_case(asked)
        },
        done: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Active));
            assert_eq!(world.host.desired(&row.id).unwrap().power(), Power::Running);
        },
        clean: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Stopped));
            assert_eq!(row.desired_power, "stopped");
            assert_eq!(world.host.desired(&row.id).unwrap().power(), Power::Stopped);
        },
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_breaks_anywhere_leaves_a_running_server_and_is_done_once() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::running().await;
            let asked = world.ask_for("running", TaskState::Rebooting, 1).await;
            worlds.keep(&world);
            world.power_case(asked)
        },
        done: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Active));
            assert_eq!((row.reboot_count, row.seen_reboots), (1, 1));
            let desired = world.host.desired(&row.id).unwrap();
            assert_eq!((desired.power(), desired.reboot_count), (Power::Running, 1));
        },
        clean: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Active));
            assert_eq!(row.desired_power, "running");
            assert_eq!(world.host.desired(&row.id).unwrap().power(), Power::Running);
        },
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_breaks_can_be_asked_for_again_and_one_that_is_resumed_is_whole() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::running().await;
            world.ask_for_deletion().await;
            worlds.keep(&world);
            world.deletion_case(None)
        },
        done: async |case: &Case| {
            let world = worlds.of(case);
            let row = world.row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Deleted));
            assert_ne!(row.deleted_at, 0);
            assert!(world.network.ports.lock().unwrap().is_empty());
        },
        clean: async |case: &Case| {
            let row = worlds.of(case).row().await;
            assert_eq!(state_of(&row), ServerState::resting(VmState::Error));
            assert_eq!(row.deleted_at, 0);
            assert!(row.workflow_id.is_none());
        },
    }
    .all()
    .await;
}
