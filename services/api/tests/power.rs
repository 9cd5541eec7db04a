//! Start, stop, reboot, pause; and what guests do by themselves.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use yakumo_types::Fault;

use crate::cloud::{Cloud, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn each_action_leads_where_it_should() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    for (body, status, power) in [
        (json!({ "os-stop": null }), "SHUTOFF", 4),
        (json!({ "os-start": null }), "ACTIVE", 1),
        (json!({ "reboot": { "type": "SOFT" } }), "ACTIVE", 1),
        (json!({ "pause": null }), "PAUSED", 3),
        (json!({ "unpause": null }), "ACTIVE", 1),
        (json!({ "os-stop": null }), "SHUTOFF", 4),
        (json!({ "reboot": { "type": "HARD" } }), "ACTIVE", 1),
    ] {
        cloud.action(&id, body.clone()).await.expect(202);
        let server = cloud.wait_status(&id, status).await;
        assert_eq!(server["OS-EXT-STS:power_state"], power, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_does_not_fit_the_state_is_a_conflict() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    for body in [json!({ "os-start": null }), json!({ "unpause": null })] {
        let message = cloud
            .action(&id, body)
            .await
            .refused(409, "conflictingRequest");
        assert!(
            message.contains("while it is in vm_state active"),
            "{message}"
        );
    }
    cloud.hosts[0].frozen.store(true, Ordering::SeqCst);
    cloud
        .action(&id, json!({ "os-stop": null }))
        .await
        .expect(202);
    let message = cloud
        .action(&id, json!({ "reboot": { "type": "SOFT" } }))
        .await
        .refused(409, "conflictingRequest");
    assert!(message.contains("task_state powering-off"), "{message}");
    cloud.hosts[0].thaw();
    cloud.wait_status(&id, "SHUTOFF").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_fails_leaves_the_server_as_it_was() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    *cloud.hosts[0].complaint.lock().unwrap() = Some("The guest does not stop.".into());
    cloud
        .action(&id, json!({ "os-stop": null }))
        .await
        .expect(202);
    let back = wait_for(async || {
        let server = cloud.show(&id).await;
        server["status"] == "ACTIVE" && server["OS-EXT-STS:task_state"].is_null()
    })
    .await;
    assert!(back);
    *cloud.hosts[0].complaint.lock().unwrap() = None;
    let actions = cloud
        .get(&format!("/servers/{id}/os-instance-actions"))
        .await
        .expect(200);
    assert_eq!(
        actions["instanceActions"][0]["message"],
        "The guest does not stop."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_switches_itself_off_is_stopped_and_stays_so() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let before = cloud.hosts[0].desired(&id).unwrap().generation;
    cloud.hosts[0].observe(&id, "shutdown").await;
    cloud.wait_status(&id, "SHUTOFF").await;
    // The host is told that this is the intent now.
    let told = wait_for(async || {
        cloud.hosts[0].desired(&id).is_some_and(|desired| {
            desired.generation > before
                && desired.power() == yakumo_contracts::compute_host::Power::Stopped
        })
    })
    .await;
    assert!(told);
    cloud
        .action(&id, json!({ "os-start": null }))
        .await
        .expect(202);
    cloud.wait_status(&id, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_guest_is_stopped_and_comes_back_when_it_is_found_running() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    cloud.hosts[0].observe(&id, "crashed").await;
    let server = cloud.wait_status(&id, "SHUTOFF").await;
    assert_eq!(server["OS-EXT-STS:power_state"], 6);
    cloud.hosts[0].observe(&id, "running").await;
    cloud.wait_status(&id, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_server_is_left_alone_by_members() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    cloud.action(&id, json!({ "lock": null })).await.expect(202);
    for body in [json!({ "os-stop": null }), json!({ "pause": null })] {
        let message = cloud
            .action(&id, body)
            .await
            .refused(409, "conflictingRequest");
        assert!(message.contains("is locked"), "{message}");
    }
    cloud
        .delete(&format!("/servers/{id}"))
        .await
        .refused(409, "conflictingRequest");
    cloud
        .action(&id, json!({ "unlock": null }))
        .await
        .expect(202);
    cloud
        .action(&id, json!({ "os-stop": null }))
        .await
        .expect(202);
    cloud.wait_status(&id, "SHUTOFF").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_lock_is_an_administrators_to_take_away() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let path = format!("/servers/{id}/action");
    let (lock, unlock) = (json!({ "lock": null }), json!({ "unlock": null }));
    // A member's lock first: the administrator's takes its place.
    cloud.action(&id, lock.clone()).await.expect(202);
    cloud.admin_post(&path, lock.clone()).await.expect(202);
    // To lock it once more does not make it the member's.
    cloud.action(&id, lock.clone()).await.expect(202);
    cloud
        .action(&id, unlock.clone())
        .await
        .refused(403, "forbidden");
    cloud
        .action(&id, json!({ "os-stop": null }))
        .await
        .refused(409, "conflictingRequest");
    cloud.admin_post(&path, unlock.clone()).await.expect(202);
    cloud.action(&id, lock.clone()).await.expect(202);
    cloud.action(&id, unlock.clone()).await.expect(202);
    // And an administrator may open a member's.
    cloud.action(&id, lock).await.expect(202);
    cloud.admin_post(&path, unlock).await.expect(202);
    cloud
        .action(&id, json!({ "os-stop": null }))
        .await
        .expect(202);
    cloud.wait_status(&id, "SHUTOFF").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lines_of_a_console_are_for_those_who_may_read_all_of_it() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let none = json!({ "os-getConsoleOutput": { "length": 0 } });
    let body = cloud.action(&id, none.clone()).await.expect(200);
    assert_eq!(body["output"], "");
    let path = format!("/servers/{id}/action");
    for (token, path, status, name) in [
        ("reader", path.as_str(), 403, "forbidden"),
        ("stranger", &path, 404, "itemNotFound"),
        (
            "member",
            "/servers/77777777-7777-4777-8777-777777777777/action",
            404,
            "itemNotFound",
        ),
    ] {
        cloud
            .post_as(token, path, none.clone())
            .await
            .refused(status, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_log_comes_from_the_host() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    for (argument, lines) in [
        (json!({}), 0),
        (json!({ "length": 5 }), 5),
        (json!({ "length": "7" }), 7),
        (json!({ "length": -1 }), 0),
        (Value::Null, 0),
    ] {
        let body = cloud
            .action(&id, json!({ "os-getConsoleOutput": argument }))
            .await
            .expect(200);
        assert_eq!(body["output"], format!("{lines} lines of {id}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_can_say_what_the_state_is() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let path = format!("/servers/{id}/action");
    let body = json!({ "os-resetState": { "state": "error" } });
    cloud
        .post(&path, body.clone())
        .await
        .refused(403, "forbidden");
    cloud.admin_post(&path, body).await.expect(202);
    cloud.wait_status(&id, "ERROR").await;
    cloud
        .admin_post(&path, json!({ "os-resetState": { "state": "active" } }))
        .await
        .expect(202);
    cloud.wait_status(&id, "ACTIVE").await;
    cloud
        .admin_post(&path, json!({ "os-resetState": { "state": "stopped" } }))
        .await
        .refused(400, "badRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn security_groups_are_the_network_services_word() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    cloud
        .action(&id, json!({ "addSecurityGroup": { "name": "open" } }))
        .await
        .expect(202);
    let server = cloud.show(&id).await;
    assert_eq!(
        server["security_groups"],
        json!([{ "name": "default" }, { "name": "open" }])
    );
    assert_eq!(
        server["addresses"]["flat"][0]["OS-EXT-IPS:type"], "fixed",
        "{server:#}"
    );
    cloud
        .action(&id, json!({ "removeSecurityGroup": { "name": "open" } }))
        .await
        .expect(202);
    assert_eq!(
        cloud.show(&id).await["security_groups"],
        json!([{ "name": "default" }])
    );
    cloud.network.trouble.fail("x", Fault::internal("x"), 0);
}
