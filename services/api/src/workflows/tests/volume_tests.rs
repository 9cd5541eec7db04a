//! Volumes that come and go: broken at each step, with the host away, with
//! answers lost, and beside other things that happen to the server.

use super::*;

const VOLUME: &str = "66666666-6666-4666-8666-666666666666";

impl World {
    fn attachment(&self) -> AttachmentId {
        AttachmentId::from_uuid(*self.id.as_uuid())
    }

    /// An attachment that was just accepted.
    async fn ask_for_attachment(self: &Arc<Self>) -> Case {
        self.volumes.add(VOLUME, &sample_server().project_id);
        let row = ServerVolume {
            attachment_id: self.attachment().to_string(),
            server_id: self.id.to_string(),
            volume_id: VOLUME.into(),
            device: "/dev/vdb".into(),
            state: "attaching".into(),
            connection: None,
            created_at: 1,
        };
        self.app
            .db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move { volumes::server_volume_insert(txn, row).await })
            })
            .await
            .unwrap();
        let workflow = attach_volume::AttachVolume::new(Arc::downgrade(&self.app));
        let input = attach_volume::Input {
            server_id: self.id,
            volume_id: VOLUME.parse::<VolumeId>().unwrap(),
            attachment_id: self.attachment(),
            device: "/dev/vdb".into(),
            action_id: "action".into(),
        };
        self.case(Arc::new(workflow), serde_json::to_value(input).unwrap())
    }

    /// A running server that has the volume.
    async fn attached_with(config: Config) -> Arc<Self> {
        let world = Self::running_with(config).await;
        let case = world.ask_for_attachment().await;
        world.run(&case).await;
        world.assert_attached().await;
        world
    }

    async fn attached() -> Arc<Self> {
        Self::attached_with(Config::default()).await
    }

    async fn mark(&self, state: &'static str) {
        let attachment = self.attachment();
        self.app
            .db
            .write(move |txn| {
                Box::pin(async move {
                    volumes::server_volume_change(txn, attachment, state, None).await
                })
            })
            .await
            .unwrap();
    }

    /// A detachment that was just accepted.
    async fn ask_for_detachment(self: &Arc<Self>) -> Case {
        self.mark("detaching").await;
        let workflow = detach_volume::DetachVolume::new(Arc::downgrade(&self.app));
        let input = detach_volume::Input {
            server_id: self.id,
            attachment_id: self.attachment(),
            action_id: "action".into(),
        };
        self.case(Arc::new(workflow), serde_json::to_value(input).unwrap())
    }

    async fn volume_row(&self) -> Option<ServerVolume> {
        volumes::server_volume_list(self.app.db.read(), vec![self.id.to_string()])
            .await
            .unwrap()
            .pop()
    }

    fn held_by_guest(&self) -> bool {
        self.host.volumes(&self.id.to_string()).contains(VOLUME)
    }

    fn assert_nothing_torn_away(&self) {
        let torn = self.volumes.torn_away.lock().unwrap();
        assert!(torn.is_empty(), "a guest has a volume without an export");
    }

    async fn assert_attached(&self) {
        self.assert_nothing_torn_away();
        let row = self.volume_row().await.unwrap();
        assert_eq!(row.state, "attached");
        assert!(row.connection.is_some());
        let volume = self.volumes.get(VOLUME);
        assert_eq!((volume.status.as_str(), volume.exported), ("in-use", true));
        assert!(self.held_by_guest(), "{}", self.host.left());
    }

    async fn assert_detached(&self) {
        self.assert_nothing_torn_away();
        assert_eq!(self.volume_row().await, None);
        let volume = self.volumes.get(VOLUME);
        assert_eq!(
            (volume.status.as_str(), volume.exported, volume.attachment),
            ("available", false, None)
        );
        assert!(!self.held_by_guest(), "{}", self.host.left());
    }

    /// Runs a workflow that is given up after `bound`.
    async fn run_bound(&self, engine: &Engine, case: &Case, bound: Duration) -> WorkflowView {
        let id = submit_bound(engine, case, bound).await;
        wait_for_end(engine, &self.app.env, id).await
    }

    /// Raises the generation, as another workflow on the server does.
    async fn raise_generation(&self) {
        let (id, now) = (self.id, self.app.env.now());
        self.app
            .db
            .write(move |txn| {
                Box::pin(async move {
                    let row = super::super::row_in(txn, id).await?;
                    let change = ServerChange::at(now).desired(
                        row.generation + 1,
                        &row.desired_power,
                        row.reboot_count,
                    );
                    store::server_change(txn, id, &Expected::anything(), change).await
                })
            })
            .await
            .unwrap();
    }

    async fn action_message(&self) -> Option<String> {
        let all = actions::action_list(self.app.db.read(), self.id, 10)
            .await
            .unwrap();
        all.into_iter().next().unwrap().message
    }
}

/// Hosts count as down as soon as they do not answer.
fn hasty() -> Config {
    Config {
        host_silence_seconds: 0,
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_that_breaks_anywhere_leaves_nothing_and_one_that_is_resumed_is_whole() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::running().await;
            worlds.keep(&world);
            world.ask_for_attachment().await
        },
        done: async |case: &Case| worlds.of(case).assert_attached().await,
        clean: async |case: &Case| worlds.of(case).assert_detached().await,
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detachment_that_breaks_goes_back_or_is_finished_and_one_that_is_resumed_is_whole() {
    let worlds = Worlds::default();
    Proof {
        make: async || {
            let world = World::attached().await;
            worlds.keep(&world);
            world.ask_for_detachment().await
        },
        done: async |case: &Case| worlds.of(case).assert_detached().await,
        clean: async |case: &Case| {
            let world = worlds.of(case);
            // Which of the two depends on whether the release had begun.
            match world.volume_row().await {
                Some(_) => world.assert_attached().await,
                None => world.assert_detached().await,
            }
        },
    }
    .all()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_whose_push_was_taken_and_not_answered_is_taken_from_the_host_first() {
    let world = World::running().await;
    let case = world.ask_for_attachment().await;
    let lost = Fault::conflict("The answer was lost.");
    world.host.trouble.fail("set_desired_answer", lost, 1);
    let view = world.run_to_end(&case).await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    world.assert_detached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_whose_reservation_was_taken_and_not_answered_gives_it_back() {
    let world = World::running().await;
    let case = world.ask_for_attachment().await;
    let lost = Fault::conflict("The answer was lost.");
    world.volumes.trouble.fail("reserve_answer", lost, 1);
    let view = world.run_to_end(&case).await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    world.assert_detached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_ends_although_the_host_is_down() {
    let world = World::running_with(hasty()).await;
    let case = world.ask_for_attachment().await;
    let away = Fault::unavailable("The host is away.");
    world.host.trouble.fail("set_desired", away, u32::MAX);
    let engine = world.worker(&[&case]);
    let bound = Duration::from_millis(300);
    let view = world.run_bound(&engine, &case, bound).await;
    engine.kill();
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    world.assert_detached().await;
    let row = world.row().await;
    assert!(
        row.generation > row.seen_generation,
        "the host is to be told"
    );
}

/// An attachment that failed, on a host that is up and does nothing about it.
async fn an_attachment_ends_in_the_end(jam: impl Fn(&World)) {
    let world = World::running().await;
    let case = world.ask_for_attachment().await;
    jam(&world);
    let engine = world.worker(&[&case]);
    let id = submit_bound(&engine, &case, Duration::from_millis(300)).await;
    // It waits for the host, and the volume with it.
    loop {
        let view = engine.find(id).await.unwrap().unwrap();
        let tried = view.waiting_for.contains("to let go of the volume") || view.attempt > 1;
        if view.state == WorkflowState::Undoing && tried {
            break;
        }
        world.app.env.clock.sleep(Duration::from_millis(5)).await;
    }
    assert!(world.volumes.get(VOLUME).exported);

    world.let_bounds_run_out().await;
    let (handle, server) = (engine.clone(), case.resource.clone());
    let wake = world.app.db.write(move |txn| {
        let (engine, server) = (handle.clone(), server.clone());
        Box::pin(async move { engine.wake(txn, &server).await })
    });
    wake.await.unwrap();
    let view = wait_for_end(&engine, &world.app.env, id).await;
    engine.kill();
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    world.assert_detached().await;
    assert_eq!(world.app.to_sync.take(), ["node-1"], "it is told later");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_ends_although_the_host_says_nothing_of_it() {
    an_attachment_ends_in_the_end(|world| world.host.frozen.store(true, Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_ends_although_the_host_does_not_listen() {
    an_attachment_ends_in_the_end(|world| {
        let deaf = Fault::timeout("The host does not answer.");
        world.host.trouble.fail("set_desired", deaf, u32::MAX);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detachment_ends_although_the_host_is_down() {
    let world = World::attached_with(hasty()).await;
    let case = world.ask_for_detachment().await;
    let away = Fault::unavailable("The host is away.");
    world.host.trouble.fail("set_desired", away, u32::MAX);
    let engine = world.worker(&[&case]);
    let bound = Duration::from_millis(300);
    let view = world.run_bound(&engine, &case, bound).await;
    engine.kill();
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    world.assert_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_has_begun_is_finished_whatever_the_clock_says() {
    let world = World::attached().await;
    let case = world.ask_for_detachment().await;
    let lost = Fault::timeout("The answer was lost.");
    world.volumes.trouble.fail("release_answer", lost, u32::MAX);
    let engine = world.worker(&[&case]);
    let (ending, healing) = tokio::join!(
        world.run_bound(&engine, &case, Duration::from_millis(300)),
        async {
            // The way back has begun: the deadline has passed.
            let undoing = async || {
                let all = engine.of_resource(&case.resource).await.unwrap();
                all.iter()
                    .any(|view| view.fault.is_some() && view.finished_at.is_none())
            };
            while !undoing().await {
                world.app.env.clock.sleep(Duration::from_millis(5)).await;
            }
            world.volumes.trouble.heal();
        }
    );
    let () = healing;
    engine.kill();
    assert!(matches!(ending.end(), Some(End::Failed(_))), "{ending:?}");
    world.assert_detached().await;
    assert_eq!(world.action_message().await, None, "it was done after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detachment_of_what_is_released_already_ends_without_it() {
    let world = World::attached().await;
    let case = world.ask_for_detachment().await;
    let gone = Fault::not_found("There is no such attachment.");
    world.volumes.trouble.fail("begin_detach", gone.clone(), 1);
    world.volumes.trouble.fail("abort_detach", gone, u32::MAX);
    world.run_to_end(&case).await;
    assert_eq!(world.volume_row().await, None);
    assert!(!world.held_by_guest(), "{}", world.host.left());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_keeps_its_volume_does_not_fail_a_reboot() {
    let world = World::attached().await;
    let detach = world.ask_for_detachment().await;
    *world.host.volume_complaint.lock().unwrap() = Some("The guest keeps it.".into());
    world.host.frozen.store(true, Ordering::SeqCst);
    let engine = world.worker(&[&detach]);
    let detaching = submit(&engine, &detach).await;
    // The detachment has been issued, and then the reboot.
    while world.volume_row().await.unwrap().state != "leaving" {
        world.app.env.clock.sleep(Duration::from_millis(5)).await;
    }
    let asked = world.ask_for("running", TaskState::Rebooting, 1).await;
    let reboot = world.power_case(asked.clone());
    engine.add(reboot.workflow.clone());
    let rebooting = submit(&engine, &reboot).await;
    let told = || {
        let desired = world.host.desired(&world.id.to_string());
        desired.is_some_and(|it| it.generation == u64::try_from(asked.generation).unwrap())
    };
    while !told() {
        world.app.env.clock.sleep(Duration::from_millis(5)).await;
    }
    world.host.thaw();
    let reboot = wait_for_end(&engine, &world.app.env, rebooting).await;
    let detached = wait_for_end(&engine, &world.app.env, detaching).await;
    engine.kill();
    assert_eq!(reboot.end(), Some(End::Succeeded), "{reboot:?}");
    let Some(End::Failed(fault)) = detached.end() else {
        panic!("{detached:?}");
    };
    assert_eq!(fault.message, "The guest keeps it.");
    world.assert_attached().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_fails_is_taken_back_although_a_volume_came_meanwhile() {
    let world = World::running().await;
    let asked = world.ask_for("stopped", TaskState::PoweringOff, 0).await;
    world.raise_generation().await;
    *world.host.complaint.lock().unwrap() = Some("The guest does not stop.".into());
    let view = world.run_to_end(&world.power_case(asked)).await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    let row = world.row().await;
    assert_eq!(row.desired_power, "running");
    assert_eq!(state_of(&row), ServerState::resting(VmState::Active));
    assert_eq!(world.host.desired(&row.id).unwrap().power(), Power::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_state_is_of_one_generation_however_quickly_it_changes() {
    let world = World::attached().await;
    let first = world.row().await.generation;
    let (id, attachment) = (world.id, world.attachment());
    let change = async |round: i64| {
        let now = world.app.env.now();
        let changed = world.app.db.write(move |txn| {
            Box::pin(async move {
                let state = match round % 2 {
                    0 => "attached",
                    _ => "leaving",
                };
                volumes::server_volume_change(txn, attachment, state, None).await?;
                let change = ServerChange::at(now).desired(first + round, "running", 0);
                store::server_change(txn, id, &Expected::anything(), change).await
            })
        });
        changed.await.unwrap();
    };
    let rounds = 200;
    let changes = async {
        for round in 1..=rounds {
            change(round).await;
        }
    };
    let reads = async {
        loop {
            let Ok((row, request)) = world.app.desired(id).await else {
                continue;
            };
            let round = row.generation - first;
            let spec = request.server.unwrap().spec.unwrap();
            assert_eq!(spec.volumes.len(), usize::from(round % 2 == 0), "{round}");
            if round == rounds {
                return;
            }
        }
    };
    tokio::join!(changes, reads);
}
