//! The whole agent: messages in, reports out, on a simulated hypervisor.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use yakumo_compute::drivers::simulated::SimulatedHypervisor;
use yakumo_compute::{Buses, Reports, SimulatedConfig};
use yakumo_contracts::common::Fence;
use yakumo_contracts::compute_host::{
    ConsoleLogRequest, DesiredServer, Power, Resources, ServerSpec, SetDesiredRequest,
    VolumeConnection,
};
use yakumo_service::system_env;
use yakumo_types::{Env, FaultCode};

use crate::support::{HeldClock, World, context, desired, ids, new_server, spec, until, volume};

fn simulated(config: SimulatedConfig) -> Arc<SimulatedHypervisor> {
    Arc::new(SimulatedHypervisor::new(system_env(), config))
}

async fn world(folder: &tempfile::TempDir) -> (World, Arc<SimulatedHypervisor>) {
    let hypervisor = simulated(SimulatedConfig::default());
    let world = World::new(folder.path(), hypervisor.clone()).await;
    (world, hypervisor)
}

#[tokio::test]
async fn a_server_lives_from_its_claim_to_its_tombstone() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    assert_eq!(world.list().await.claims, [server.to_string()]);
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    world.reached(server, 2, "running").await;
    assert!(world.list().await.claims.is_empty());
    world.set(desired(server, 3, Power::Paused)).await.unwrap();
    world.reached(server, 3, "paused").await;
    world.set(desired(server, 4, Power::Running)).await.unwrap();
    world.reached(server, 4, "running").await;
    world.set(desired(server, 5, Power::Stopped)).await.unwrap();
    world.reached(server, 5, "shutdown").await;
    world.set(desired(server, 6, Power::Running)).await.unwrap();
    world.reached(server, 6, "running").await;
    assert_eq!(hypervisor.starts(server), 2);
    assert_eq!(hypervisor.disks_made(server), 1);

    let fault = world.confirm(server, 6).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    world.set(desired(server, 7, Power::Absent)).await.unwrap();
    world.reached(server, 7, "nostate").await;
    assert!(hypervisor.is_empty());
    world.confirm(server, 7).await.unwrap();
    assert!(world.list().await.servers.is_empty());
    assert_eq!(
        std::fs::read_dir(folder.path().join("compute/servers"))
            .unwrap()
            .count(),
        0
    );
    // Confirmed twice, and of a server that was never here: fine.
    world.confirm(server, 7).await.unwrap();
}

#[tokio::test]
async fn what_comes_three_times_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    let given_up = new_server();
    // Some of them side by side, as the bus may deliver them.
    let claims =
        [server, given_up, server, server, given_up, given_up].map(|it| world.claim(it, 1));
    futures::future::try_join_all(claims).await.unwrap();
    assert_eq!(world.list().await.claims.len(), 2);
    for _ in 0..3 {
        world.release(given_up, 2).await.unwrap();
    }
    assert_eq!(world.list().await.claims, [server.to_string()]);
    let wishes = [(); 3].map(|()| world.set(desired(server, 3, Power::Running)));
    futures::future::try_join_all(wishes).await.unwrap();
    world.reached(server, 3, "running").await;
    world.set(desired(server, 3, Power::Running)).await.unwrap();
    assert_eq!(hypervisor.starts(server), 1);
    assert_eq!(hypervisor.disks_made(server), 1);
    for _ in 0..3 {
        world.set(desired(server, 4, Power::Absent)).await.unwrap();
    }
    world.reached(server, 4, "nostate").await;
    for _ in 0..3 {
        world.confirm(server, 4).await.unwrap();
    }
    let left = world.list().await;
    assert!(
        left.servers.is_empty() && left.claims.is_empty(),
        "{left:?}"
    );
    assert!(hypervisor.is_empty());
}

#[tokio::test]
async fn nothing_runs_without_a_claim_that_covers_it() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    let fault = world
        .set(desired(server, 1, Power::Running))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    world.claim(server, 1).await.unwrap();
    let mut greedy = desired(server, 2, Power::Running);
    greedy.spec = Some(ServerSpec {
        flavor: Some(Resources {
            vcpus: 1,
            memory_mib: 1 << 20,
            disk_gib: 1,
        }),
        ..spec()
    });
    let fault = world.set(greedy).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    assert_eq!(hypervisor.calls("build"), 0);
}

#[tokio::test]
async fn a_host_cannot_be_oversold_and_gives_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let hypervisor = simulated(SimulatedConfig {
        vcpus: 1,
        memory_mib: 256,
        disk_gib: 10,
        ..SimulatedConfig::default()
    });
    let world = World::new(folder.path(), hypervisor).await;
    let servers = [new_server(), new_server(), new_server()];
    let mut claims = Vec::new();
    for server in servers {
        claims.push(world.claim(server, 1));
    }
    let results = futures::future::join_all(claims).await;
    let refused: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].code, FaultCode::Conflict);
    assert_eq!(
        refused[0].details.as_ref().unwrap()["claimed"]["memory_mib"],
        256
    );
    for server in servers {
        world.release(server, 1).await.unwrap();
        world.release(server, 1).await.unwrap();
    }
    assert!(world.list().await.claims.is_empty());
    let other = new_server();
    let all = Resources {
        vcpus: 4,
        memory_mib: 256,
        disk_gib: 10,
    };
    world.claim_of(other, 1, all).await.unwrap();
    // The released claim's late twin comes too late.
    let fault = world.claim(servers[0], 1).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Stale);
}

#[tokio::test]
async fn an_older_generation_and_an_older_epoch_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    world.claim(server, 5).await.unwrap();
    world.set(desired(server, 6, Power::Running)).await.unwrap();
    world.set(desired(server, 6, Power::Running)).await.unwrap();
    world.reached(server, 6, "running").await;
    let fault = world
        .set(desired(server, 5, Power::Stopped))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Stale);
    let fault = world
        .set(desired(server, 6, Power::Stopped))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    let fault = world.claim(server, 4).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Stale);

    let fenced = |generation, epoch| SetDesiredRequest {
        server: Some(desired(server, generation, Power::Running)),
        fence: Some(Fence {
            workflow_id: "w".into(),
            step: "set_desired".into(),
            epoch,
        }),
    };
    let client = world.client();
    client.set_desired(&context(), fenced(7, 3)).await.unwrap();
    let fault = client
        .set_desired(&context(), fenced(8, 2))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Stale);
    world.reached(server, 7, "running").await;
    assert_eq!(hypervisor.starts(server), 1);
}

#[tokio::test]
async fn a_delete_overtakes_a_boot_and_no_late_message_makes_a_zombie() {
    let folder = tempfile::tempdir().unwrap();
    let hypervisor = simulated(SimulatedConfig {
        build_ms: 3_600_000,
        ..SimulatedConfig::default()
    });
    let world = World::new(folder.path(), hypervisor.clone()).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    let boot = desired(server, 2, Power::Running);
    world.set(boot.clone()).await.unwrap();
    world
        .heard(server, "being built", |state| {
            state.stage == "fetching_image"
        })
        .await;
    world.set(desired(server, 3, Power::Absent)).await.unwrap();
    world.reached(server, 3, "nostate").await;
    assert_eq!(world.set(boot).await.unwrap_err().code, FaultCode::Stale);
    assert_eq!(
        world.claim(server, 1).await.unwrap_err().code,
        FaultCode::Stale
    );
    assert!(hypervisor.is_empty());
    // A delete of a server that never came here leaves a tombstone too.
    let other = new_server();
    world.set(desired(other, 9, Power::Absent)).await.unwrap();
    world.reached(other, 9, "nostate").await;
    assert_eq!(
        world.claim(other, 8).await.unwrap_err().code,
        FaultCode::Stale
    );
}

#[tokio::test]
async fn a_restart_of_the_agent_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, hypervisor) = world(&folder).await;
    let (running, stopped, claimed) = (new_server(), new_server(), new_server());
    for server in [running, stopped, claimed] {
        world.claim(server, 1).await.unwrap();
    }
    world
        .set(desired(running, 2, Power::Running))
        .await
        .unwrap();
    world
        .set(desired(stopped, 2, Power::Running))
        .await
        .unwrap();
    world.reached(running, 2, "running").await;
    world.reached(stopped, 2, "running").await;
    let before = world.api.incarnation();
    world.stop().await;
    // What happens meanwhile is seen afterwards.
    hypervisor.guest_powers_off(stopped);
    world.start().await;
    world.reached(stopped, 2, "shutdown").await;
    world.reached(running, 2, "running").await;
    assert!(world.api.incarnation() > before);
    assert_eq!(hypervisor.starts(running), 1);
    assert_eq!(hypervisor.starts(stopped), 1);
    assert_eq!(world.list().await.claims, [claimed.to_string()]);
    // The claims still count.
    let all = Resources {
        vcpus: 1,
        memory_mib: 262_144 - 128 * 3 + 1,
        disk_gib: 1,
    };
    assert!(world.claim_of(new_server(), 1, all).await.is_err());
}

#[tokio::test]
async fn an_agent_that_dies_in_the_middle_of_a_boot_finishes_it() {
    let folder = tempfile::tempdir().unwrap();
    let hypervisor = simulated(SimulatedConfig {
        build_ms: 100,
        start_ms: 100,
        ..SimulatedConfig::default()
    });
    let mut world = World::new(folder.path(), hypervisor.clone()).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    for _ in 0..4 {
        until(Duration::from_millis(60), || None::<()>).await;
        world.restart().await;
    }
    world.reached(server, 2, "running").await;
    assert_eq!(hypervisor.starts(server), 1);
    assert_eq!(hypervisor.disks_made(server), 1);
}

#[tokio::test]
async fn after_a_reboot_of_the_host_what_ran_runs_again_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, hypervisor) = world(&folder).await;
    let (running, paused, stopped, ended) =
        (new_server(), new_server(), new_server(), new_server());
    for (server, power, shown) in [
        (running, Power::Running, "running"),
        (paused, Power::Paused, "paused"),
        (stopped, Power::Running, "running"),
        (ended, Power::Running, "running"),
    ] {
        world.claim(server, 1).await.unwrap();
        world.set(desired(server, 2, power)).await.unwrap();
        world.reached(server, 2, shown).await;
    }
    world
        .set(desired(stopped, 3, Power::Stopped))
        .await
        .unwrap();
    world.reached(stopped, 3, "shutdown").await;
    hypervisor.guest_powers_off(ended);
    world.reached(ended, 2, "shutdown").await;

    world.stop().await;
    hypervisor.lose_run_time_state();
    world.start().await;
    world
        .heard(running, "up again", |state| {
            state.converged && state.power_state == "running" && hypervisor.starts(running) == 2
        })
        .await;
    world
        .heard(paused, "paused again", |state| {
            state.converged && state.power_state == "paused" && hypervisor.starts(paused) == 2
        })
        .await;
    assert_eq!(hypervisor.starts(stopped), 1);
    assert_eq!(hypervisor.starts(ended), 1);
}

#[tokio::test]
async fn a_crash_is_noticed_at_once_and_not_papered_over() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    world.reached(server, 2, "running").await;
    hypervisor.crash(server);
    world.reached(server, 2, "crashed").await;
    assert_eq!(hypervisor.starts(server), 1);
    world.set(desired(server, 3, Power::Running)).await.unwrap();
    world.reached(server, 3, "running").await;
    assert_eq!(hypervisor.starts(server), 2);
}

#[tokio::test]
async fn reboots_are_counted_and_a_guest_that_does_not_obey_loses_its_plug() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    world.reached(server, 2, "running").await;
    let mut reboot = desired(server, 3, Power::Running);
    reboot.reboot_count = 1;
    world.set(reboot.clone()).await.unwrap();
    let state = world.reached(server, 3, "running").await;
    assert_eq!(state.reboot_count, 1);
    assert_eq!(hypervisor.starts(server), 2);
    assert_eq!(hypervisor.calls("pull_plug"), 0);

    hypervisor.ignore_power_button(server);
    reboot.generation = 4;
    reboot.reboot_count = 2;
    reboot.stop_timeout_seconds = 1;
    world.set(reboot.clone()).await.unwrap();
    world.reached(server, 4, "running").await;
    assert_eq!(hypervisor.starts(server), 3);
    assert_eq!(hypervisor.calls("pull_plug"), 1);

    reboot.generation = 5;
    reboot.reboot_count = 3;
    reboot.reboot_hard = true;
    world.set(reboot).await.unwrap();
    world.reached(server, 5, "running").await;
    assert_eq!(hypervisor.starts(server), 4);
    assert_eq!(hypervisor.calls("ask_to_stop"), 2);
}

#[tokio::test]
async fn a_wish_that_comes_while_the_plug_is_pulled_has_the_guest_on_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let clock = HeldClock::default();
    let pauses = Arc::clone(&clock.pauses);
    let env = Env {
        clock: Arc::new(clock),
        ..system_env()
    };
    // Without a time that it takes, pulling the plug cannot be held.
    let config = SimulatedConfig {
        other_ms: 1,
        ..SimulatedConfig::default()
    };
    let hypervisor = Arc::new(SimulatedHypervisor::new(env, config));
    let world = World::new(folder.path(), hypervisor.clone()).await;
    let (stopped, frozen, rebooted) = (new_server(), new_server(), new_server());
    let without_grace = DesiredServer {
        stop_timeout_seconds: 0,
        ..desired(stopped, 3, Power::Stopped)
    };
    let of_a_frozen_guest = desired(frozen, 3, Power::Stopped);
    // The wish after it does not know of this reboot, as if the control plane's
    // database were restored to a time before it.
    let reboot = DesiredServer {
        reboot_count: 1,
        reboot_hard: true,
        ..desired(rebooted, 3, Power::Running)
    };
    for (server, before, shown, pull) in [
        (stopped, Power::Running, "running", without_grace),
        (frozen, Power::Paused, "paused", of_a_frozen_guest),
        (rebooted, Power::Running, "running", reboot),
    ] {
        world.claim(server, 1).await?;
        world.set(desired(server, 2, before)).await?;
        world.reached(server, 2, shown).await;

        let pulled = hypervisor.calls("pull_plug");
        let held = pauses.lock().await;
        world.set(pull.clone()).await?;
        until(Duration::from_secs(10), || {
            (hypervisor.calls("pull_plug") > pulled).then_some(())
        })
        .await
        .with_context(|| format!("no plug is pulled for {pull:?}"))?;
        world.set(desired(server, 4, Power::Running)).await?;
        drop(held);

        // A guest that is taken for one that ended by itself rests as well.
        let state = world
            .heard(server, "at rest", |state| {
                state.generation == 4 && state.converged
            })
            .await;
        ensure!(
            state.power_state == "running" && state.fault.is_empty(),
            "after {pull:?}: {state:?}"
        );
        ensure!(hypervisor.starts(server) == 2, "after {pull:?}");
        ensure!(
            hypervisor.calls("pull_plug") == pulled + 1,
            "after {pull:?}"
        );
    }
    ensure!(hypervisor.calls("ask_to_stop") == 0, "a button was pressed");
    Ok(())
}

#[tokio::test]
async fn volumes_follow_the_wish_and_a_clinging_guest_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    let with = |generation, volumes: Vec<_>| {
        let mut desired = desired(server, generation, Power::Running);
        desired.spec.as_mut().unwrap().volumes = volumes;
        desired
    };
    world.set(with(2, vec![volume(0)])).await.unwrap();
    let state = world.reached(server, 2, "running").await;
    assert_eq!(state.attached_volume_ids, ids(&[volume(0)]));
    world
        .set(with(3, vec![volume(0), volume(1)]))
        .await
        .unwrap();
    let state = world.reached(server, 3, "running").await;
    assert_eq!(state.attached_volume_ids, ids(&[volume(0), volume(1)]));
    world.set(with(4, vec![volume(1)])).await.unwrap();
    let state = world.reached(server, 4, "running").await;
    assert_eq!(state.attached_volume_ids, ids(&[volume(1)]));

    // Detached and attached again, and the word in between was lost: what is
    // plugged in leads nowhere any more.
    let again = VolumeConnection {
        attachment_id: new_server().to_string(),
        nbd_socket: "/nowhere/again.sock".into(),
        ..volume(1)
    };
    let calls = || ["detach_volume", "attach_volume"].map(|what| hypervisor.calls(what));
    let [detached, attached] = calls();
    // But not before there is something that it could lead to.
    hypervisor.set_exported(&again.nbd_socket, false);
    world.set(with(5, vec![again.clone()])).await.unwrap();
    let state = world
        .heard(server, "waiting", |state| !state.fault.is_empty())
        .await;
    assert_eq!(state.fault, "The volume's export does not answer.");
    assert!(!state.fault_is_final && !state.converged);
    assert_eq!(calls(), [detached, attached]);
    hypervisor.set_exported(&again.nbd_socket, true);
    let state = world.reached(server, 5, "running").await;
    assert_eq!(state.attached_volume_ids, ids(&[volume(1)]));
    assert_eq!(calls(), [detached + 1, attached + 1]);

    hypervisor.cling_to_volumes(server);
    world.set(with(6, vec![])).await.unwrap();
    let state = world
        .heard(server, "refusing", |state| state.fault_is_final)
        .await;
    assert_eq!(state.generation, 6);
    assert!(!state.converged);
    assert_eq!(state.fault, "The guest did not let go of the volume.");
    assert_eq!(state.attached_volume_ids, ids(&[volume(1)]));
    // The control plane takes the wish back.
    world.set(with(7, vec![again])).await.unwrap();
    let state = world.reached(server, 7, "running").await;
    assert!(state.fault.is_empty());
}

#[tokio::test]
async fn a_failure_is_tried_again_and_a_final_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (world, hypervisor) = world(&folder).await;
    let server = new_server();
    hypervisor.fail("start", 1, false);
    world.claim(server, 1).await.unwrap();
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    world
        .heard(server, "failing", |state| {
            state.fault == "The simulated host failed at start." && !state.fault_is_final
        })
        .await;
    let state = world.reached(server, 2, "running").await;
    assert!(state.fault.is_empty());

    let other = new_server();
    hypervisor.fail("build", 1, true);
    world.claim(other, 1).await.unwrap();
    world.set(desired(other, 2, Power::Running)).await.unwrap();
    let state = world
        .heard(other, "given up", |state| state.fault_is_final)
        .await;
    assert_eq!(state.fault, "The simulated host failed at build.");
    assert!(!state.converged);
    world.set(desired(other, 3, Power::Absent)).await.unwrap();
    world.reached(other, 3, "nostate").await;
}

#[tokio::test]
async fn reports_reach_a_control_plane_that_was_away_and_stay_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = world(&folder).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    world.api.fail(3);
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    world.reached(server, 2, "running").await;
    world.api.forget();
    // The next heartbeat that is a call, or the next change, finds out.
    world.set(desired(server, 3, Power::Paused)).await.unwrap();
    world.reached(server, 3, "paused").await;
    assert_eq!(world.api.incarnation(), 2);
    let order = world.api.order();
    assert!(order.is_sorted(), "{order:?}");
    until(Duration::from_secs(10), || {
        (world.api.beats() > 1).then_some(())
    })
    .await
    .expect("heartbeats come by themselves");
}

#[tokio::test]
async fn what_the_host_promised_is_said_before_a_late_answer_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = world(&folder).await;
    let late = world.api.answers.lock().await;
    let before = world.api.reports();
    let servers = [new_server(), new_server(), new_server()];
    for server in servers {
        world.claim(server, 1).await.unwrap();
        world.set(desired(server, 2, Power::Running)).await.unwrap();
        until(Duration::from_secs(10), || {
            (world.api.reports() > before).then_some(())
        })
        .await
        .expect("a report of the first one");
    }
    until(Duration::from_secs(10), || {
        (world.api.beat().claimed_vcpus == 3).then_some(())
    })
    .await
    .expect("a heartbeat tells of all of them");
    assert!(servers.iter().all(|it| world.api.state(*it).is_none()));
    drop(late);
    for server in servers {
        world.reached(server, 2, "running").await;
    }
    let order = world.api.order();
    assert!(order.is_sorted(), "{order:?}");
}

#[tokio::test]
async fn that_the_other_agents_live_is_said_along_where_it_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, _) = world(&folder).await;
    // A control plane of the release before does not know of it.
    assert!(!world.beat().network());
    world.api.pass_on();
    let before = world.api.incarnation();
    world.restart().await;
    let beat = world.beat();
    until(Duration::from_secs(10), || {
        (world.api.incarnation() > before && beat.network()).then_some(())
    })
    .await
    .expect("it is carried from the registration on");
    until(Duration::from_secs(10), || {
        (world.api.network_lives() == 1).then_some(())
    })
    .await
    .expect("it is said");
    let beats = world.api.beats();
    until(Duration::from_secs(10), || {
        (world.api.beats() > beats + 1).then_some(())
    })
    .await
    .expect("heartbeats come by themselves");
    assert_eq!(world.api.network_lives(), 1, "the agent was silent since");
}

#[tokio::test]
async fn a_refused_registration_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, _) = world(&folder).await;
    world.api.refuse_registration(2);
    let before = world.api.incarnation();
    world.restart().await;
    until(Duration::from_secs(10), || {
        (world.api.incarnation() > before).then_some(())
    })
    .await
    .expect("it registers in the end");
}

#[tokio::test]
async fn bad_wishes_are_refused_before_anything_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = world(&folder).await;
    let server = new_server();
    world.claim(server, 1).await.unwrap();
    let mut no_id = desired(server, 2, Power::Running);
    no_id.server_id = "../../etc/passwd".into();
    let mut no_spec = desired(server, 2, Power::Running);
    no_spec.spec = None;
    let mut no_image = desired(server, 2, Power::Running);
    no_image.spec.as_mut().unwrap().image = None;
    let mut bad_volume = desired(server, 2, Power::Running);
    let mut volume = volume(0);
    volume.nbd_export = "a' b".into();
    bad_volume.spec.as_mut().unwrap().volumes = vec![volume];
    for bad in [
        no_id,
        no_spec,
        no_image,
        bad_volume,
        desired(server, 0, Power::Running),
        desired(server, 2, Power::Unspecified),
    ] {
        let fault = world.set(bad.clone()).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Invalid, "{bad:?}");
    }
    assert_eq!(world.list().await.claims, [server.to_string()]);
}

#[tokio::test]
async fn the_console_log_is_read_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = world(&folder).await;
    let server = new_server();
    let log = |lines| {
        let client = world.client();
        async move {
            client
                .get_console_log(
                    &context(),
                    ConsoleLogRequest {
                        server_id: server.to_string(),
                        lines,
                    },
                )
                .await
        }
    };
    assert_eq!(log(0).await.unwrap_err().code, FaultCode::NotFound);
    world.claim(server, 1).await.unwrap();
    world.set(desired(server, 2, Power::Running)).await.unwrap();
    world.reached(server, 2, "running").await;
    let mut reboot = desired(server, 3, Power::Running);
    reboot.reboot_count = 1;
    world.set(reboot).await.unwrap();
    world.reached(server, 3, "running").await;
    assert_eq!(
        log(0).await.unwrap().output,
        "simulated boot 1 of web-1\nsimulated boot 2 of web-1\n"
    );
    assert_eq!(log(1).await.unwrap().output, "simulated boot 2 of web-1\n");
}

#[tokio::test]
async fn many_simulated_hosts_live_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let hypervisor = simulated(SimulatedConfig::default());
    let world = World::new(folder.path(), hypervisor).await;
    let process = yakumo_service::Process::new("compute", system_env());
    let config = yakumo_compute::Config {
        driver: yakumo_compute::DriverKind::Simulated,
        data_dir: folder.path().join("many"),
        simulated: SimulatedConfig {
            hosts: 200,
            ..SimulatedConfig::default()
        },
        ..yakumo_compute::Config::default()
    };
    let started = yakumo_compute::start(
        process.clone(),
        Buses::one(world.bus.clone()),
        config,
        Reports::AtOnce,
    )
    .await
    .unwrap();
    assert_eq!(started.hosts.len(), 200);
    let servers = started.serve().await.unwrap();
    let mut waiting = Vec::new();
    for host in &started.hosts {
        let client = yakumo_contracts::compute_host::ComputeHostClient::new(
            world.bus.clone(),
            yakumo_rpc::Target::host(host.name.clone()),
        );
        let server = new_server();
        let claim = yakumo_contracts::compute_host::ClaimServerRequest {
            server_id: server.to_string(),
            generation: 1,
            resources: Some(crate::support::flavor()),
            ..Default::default()
        };
        client.claim_server(&context(), claim).await.unwrap();
        let request = SetDesiredRequest {
            server: Some(desired(server, 2, Power::Running)),
            fence: None,
        };
        client.set_desired(&context(), request).await.unwrap();
        waiting.push(server);
    }
    for server in waiting {
        world.reached(server, 2, "running").await;
    }
    for server in servers {
        server.stop(Duration::from_secs(1)).await;
    }
    assert!(process.drain(Duration::from_secs(10)).await);
}
