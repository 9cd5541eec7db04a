//! Hosts: registration, order of reports, reconciliation, metadata.

use serde_json::json;
use yakumo_contracts::api::{
    HostReport, HostReportsClient, MetadataRequest, ServerState, StorageFacts,
};
use yakumo_contracts::compute_host::Power;
use yakumo_contracts::volume::StorageHost;
use yakumo_rpc::Target;
use yakumo_types::{FaultCode, RequestContext};

use crate::cloud::{Cloud, project, wait_for};
use crate::fakes::FakeHost;

#[tokio::test(flavor = "multi_thread")]
async fn another_host_under_a_known_name_is_refused_until_the_first_is_removed() {
    let cloud = Cloud::with_config(1, |config| config.host_silence_seconds = 1).await;
    let first = &cloud.hosts[0];
    first.register().await.unwrap();
    let facts = |id: &str| yakumo_contracts::api::RegisterHostRequest {
        facts: Some(yakumo_contracts::api::HostFacts {
            host: "node-1".into(),
            host_id: id.into(),
            ..Default::default()
        }),
    };
    let client = HostReportsClient::new(cloud.bus.as_host("node-1"), Target::service("api"));
    let context = RequestContext::host(cloud.env.id());
    let installed_anew = cloud.env.rng.uuid().to_string();
    let again = || client.register(&context, facts(&installed_anew));
    let refused = async || {
        let fault = again().await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Conflict);
        assert!(fault.message.contains(&first.host_id), "{fault}");
    };
    refused().await;
    // And nobody speaks for somebody else.
    let other = HostReportsClient::new(cloud.bus.as_host("node-9"), Target::service("api"));
    let fault = other
        .register(&context, facts(&first.host_id))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    // Its silence makes no difference; its removal does.
    let down = wait_for(async || {
        let all = cloud.get_as("admin", "/os-services").await.expect(200);
        all["services"][0]["state"] == "down"
    })
    .await;
    assert!(down);
    refused().await;
    let path = "/os-services/1";
    let removed = cloud.request("DELETE", path, Some("admin"), None).await;
    removed.expect(204);
    again().await.unwrap();
}

/// That a host was heard an hour ahead is what a clock that was put back leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_heard_before_the_clock_was_put_back_is_not_up() {
    let cloud = Cloud::with_hosts(1).await;
    let host = &cloud.hosts[0];
    let is = async |state: &str| {
        let all = cloud.get_as("admin", "/os-services").await.expect(200);
        let hypervisors = cloud.get_as("admin", "/os-hypervisors").await.expect(200);
        all["services"][0]["state"] == state && hypervisors["hypervisors"][0]["state"] == state
    };
    assert!(wait_for(async || is("up").await).await);
    let ahead = "UPDATE host SET heard_at = heard_at + 3600000000";
    cloud.database.run(ahead).await.unwrap();
    assert!(is("down").await);
    // And up again with its first word after that.
    let up = wait_for(async || {
        host.beat(host.report_of(Vec::new())).await;
        is("up").await
    })
    .await;
    assert!(up);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hosts_say_of_their_other_agents_is_passed_on_together() {
    let cloud = Cloud::with_hosts(3).await;
    let facts = StorageFacts {
        free_gib: 5,
        total_gib: 9,
        availability_zone: "east".into(),
        reachable_everywhere: true,
    };
    let lives = |host: &FakeHost, storage: Option<&StorageFacts>| HostReport {
        network_lives: true,
        storage: storage.cloned(),
        ..host.report_of(Vec::new())
    };
    let (first, second, third) = (&cloud.hosts[0], &cloud.hosts[1], &cloud.hosts[2]);
    let told = wait_for(async || {
        // By a sign of life, by a report, and of nobody else.
        first.beat(lives(first, None)).await;
        second.send(lives(second, Some(&facts))).await.unwrap();
        third.beat(third.report_of(Vec::new())).await;
        let mut overtaken = lives(third, Some(&facts));
        overtaken.incarnation -= 1;
        third.beat(overtaken).await;
        first.beat(lives(third, Some(&facts))).await;
        !cloud.network.living.lock().unwrap().is_empty()
            && !cloud.volumes.living.lock().unwrap().is_empty()
    })
    .await;
    assert!(told);
    assert_eq!(*cloud.network.living.lock().unwrap(), ["node-1", "node-2"]);
    let storage = StorageHost {
        host: "node-2".into(),
        host_id: second.host_id.clone(),
        free_gib: 5,
        total_gib: 9,
        availability_zone: "east".into(),
        heard_at: 0,
        reachable_everywhere: true,
        alive: None,
    };
    assert_eq!(*cloud.volumes.living.lock().unwrap(), [storage]);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_repeated_reports_change_nothing() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let host = &cloud.hosts[0];
    let state = |power: &str| ServerState {
        server_id: id.clone(),
        generation: host.desired(&id).unwrap().generation,
        converged: true,
        power_state: power.into(),
        ..ServerState::default()
    };
    let early = host.report_of(vec![state("paused")]);
    let late = host.report_of(vec![state("running")]);
    host.send(late.clone()).await.unwrap();
    host.send(early).await.unwrap();
    host.send(late).await.unwrap();
    assert_eq!(cloud.show(&id).await["status"], "ACTIVE");
    // A start that was overtaken must register again.
    let mut old = host.report_of(vec![state("paused")]);
    old.incarnation -= 1;
    old.sequence += 100;
    assert!(host.send(old).await.unwrap().register_again);
    assert_eq!(cloud.show(&id).await["status"], "ACTIVE");
}

#[tokio::test(flavor = "multi_thread")]
async fn strays_are_removed_and_what_a_host_lost_is_in_error() {
    let cloud = Cloud::start().await;
    let host = &cloud.hosts[0];
    let stray = cloud.env.rng.uuid().to_string();
    let id = cloud.running("web").await;
    host.plant(&stray);
    // A registration makes the control plane look at the host's own list.
    host.register().await.unwrap();
    let removed = wait_for(async || {
        host.desired(&stray)
            .is_none_or(|desired| desired.power() == Power::Absent)
    })
    .await;
    assert!(removed, "{}", host.left());
    assert_eq!(cloud.show(&id).await["status"], "ACTIVE");

    host.forget_everything();
    host.register().await.unwrap();
    let server = cloud.wait_status(&id, "ERROR").await;
    let message = server["fault"]["message"].as_str().unwrap();
    assert!(message.contains("does not have it any more"), "{message}");
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_takes_hosts_out_of_service() {
    let cloud = Cloud::start().await;
    let body =
        json!({ "host": "node-1", "binary": "nova-compute", "disabled_reason": "new disks" });
    cloud
        .put_as("member", "/os-services/disable-log-reason", body.clone())
        .await
        .refused(403, "forbidden");
    cloud
        .put_as("admin", "/os-services/disable-log-reason", body)
        .await
        .expect(200);
    let services = cloud.get_as("admin", "/os-services").await.expect(200);
    assert_eq!(services["services"][0]["status"], "disabled");
    assert_eq!(services["services"][0]["disabled_reason"], "new disks");
    assert_eq!(services["services"][0]["state"], "up");
    let told = wait_for(async || {
        let told = cloud.scheduler.told.lock().unwrap();
        told.get("node-1")
            .and_then(|change| change.host.clone())
            .is_some_and(|host| !host.enabled)
    })
    .await;
    assert!(told);
    cloud
        .put_as(
            "admin",
            "/os-services/enable",
            json!({ "host": "node-1", "binary": "nova-compute" }),
        )
        .await
        .expect(200);
    cloud
        .put_as(
            "admin",
            "/os-services/enable",
            json!({ "host": "nowhere", "binary": "nova-compute" }),
        )
        .await
        .refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_servers_is_not_forgotten() {
    let cloud = Cloud::with_config(1, |config| config.host_silence_seconds = 1).await;
    let id = cloud.running("web").await;
    let forget = async || {
        let path = "/os-services/1";
        cloud.request("DELETE", path, Some("admin"), None).await
    };
    // First because it is alive, then because of its server.
    let refused = wait_for(async || {
        let message = forget().await.refused(409, "conflictingRequest");
        message.contains("still has servers")
    })
    .await;
    assert!(refused);
    assert_eq!(cloud.show(&id).await["OS-EXT-SRV-ATTR:host"], "node-1");
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
    let forgotten = wait_for(async || forget().await.status == 204).await;
    assert!(forgotten);
    let listed = cloud.get_as("admin", "/os-services").await.expect(200);
    assert_eq!(listed["services"], json!([]));
    forget().await.refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn hypervisors_and_zones_are_listed() {
    let cloud = Cloud::with_hosts(2).await;
    let all = cloud
        .get_as("admin", "/os-hypervisors/detail")
        .await
        .expect(200);
    assert_eq!(all["hypervisors"].as_array().unwrap().len(), 2);
    assert_eq!(all["hypervisors"][0]["memory_mb"], 16_384);
    let one = cloud.get_as("admin", "/os-hypervisors/1").await.expect(200);
    assert_eq!(one["hypervisor"]["hypervisor_hostname"], "node-1");
    let sums = cloud
        .get_as("admin", "/os-hypervisors/statistics")
        .await
        .expect(200);
    assert_eq!(sums["hypervisor_statistics"]["count"], 2);
    for path in ["/os-hypervisors/77", "/os-hypervisors/x"] {
        cloud
            .get_as("admin", path)
            .await
            .refused(404, "itemNotFound");
    }
    cloud.get("/os-hypervisors").await.refused(403, "forbidden");
    let zones = cloud.get("/os-availability-zone").await.expect(200);
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneName"], "nova");
    assert_eq!(
        zones["availabilityZoneInfo"][0]["zoneState"]["available"],
        true
    );
    let detail = cloud
        .get_as("admin", "/os-availability-zone/detail")
        .await
        .expect(200);
    assert!(
        detail["availabilityZoneInfo"][0]["hosts"]["node-2"]["nova-compute"]["available"]
            .as_bool()
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_goes_to_the_servers_own_host_alone() {
    let cloud = Cloud::with_hosts(2).await;
    let id = cloud.running("web").await;
    let server = cloud.show(&id).await;
    let own = server["OS-EXT-SRV-ATTR:host"].as_str().unwrap();
    let other = if own == "node-1" { "node-2" } else { "node-1" };
    let ask = async |host: &str, project: String, port: &str| {
        let client = HostReportsClient::new(cloud.bus.as_host(host), Target::service("api"));
        let request = MetadataRequest {
            server_id: id.clone(),
            project_id: project,
            port_id: port.to_owned(),
            path: "/latest/meta-data/hostname".into(),
        };
        let context = RequestContext::host(cloud.env.id());
        client.get_metadata(&context, request).await.unwrap()
    };
    let right = ask(own, project(1).to_string(), &id).await;
    assert_eq!((right.status, &right.body[..]), (200, &b"web"[..]));
    for (host, owner, port) in [
        (other, project(1), id.as_str()),
        (own, project(2), id.as_str()),
        (own, project(1), "66666666-6666-4666-8666-666666666666"),
    ] {
        assert_eq!(ask(host, owner.to_string(), port).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_does_not_wait_for_a_host_that_is_gone() {
    let cloud = Cloud::with_config(1, |config| config.host_silence_seconds = 1).await;
    let id = cloud.running("web").await;
    let host: &FakeHost = &cloud.hosts[0];
    let away = || yakumo_types::Fault::unavailable("gone");
    for method in ["set_desired", "release_claim", "confirm"] {
        host.trouble.fail(method, away(), u32::MAX);
    }
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
    assert!(cloud.network.ports.lock().unwrap().is_empty());
    // It comes back, and what it still has is removed.
    host.trouble.heal();
    host.register().await.unwrap();
    cloud.assert_nothing_left().await;
}
