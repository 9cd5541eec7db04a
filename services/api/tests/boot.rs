//! Making and removing servers.

use std::sync::atomic::Ordering;

use serde_json::json;
use yakumo_types::Fault;

use crate::cloud::{Cloud, server_body, wait_for};
use crate::fakes::IMAGE;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_shown_and_removed() {
    let cloud = Cloud::start().await;
    let answer = cloud.post("/servers", server_body("web")).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let id = answer.body["server"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        answer.headers["location"].to_str().unwrap(),
        format!("http://{}/v2.1/servers/{id}", cloud.started.compute)
    );
    assert_eq!(
        answer.body["server"]["adminPass"].as_str().unwrap().len(),
        12
    );
    let server = cloud.wait_status(&id, "ACTIVE").await;
    assert_eq!(server["OS-EXT-SRV-ATTR:host"], "node-1");
    assert_eq!(server["OS-EXT-STS:power_state"], 1);
    assert_eq!(server["OS-EXT-AZ:availability_zone"], "nova");
    assert!(server["OS-SRV-USG:launched_at"].is_string());
    assert_eq!(server["security_groups"], json!([{ "name": "default" }]));
    let desired = cloud.hosts[0].desired(&id).unwrap();
    let spec = desired.spec.unwrap();
    assert_eq!(spec.image.unwrap().image_id, IMAGE);
    assert_eq!(spec.ports.len(), 1);
    assert!(spec.config_drive.is_empty());

    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
    cloud.assert_nothing_left().await;
    // Deleting what is gone: 404. Its actions stay readable.
    cloud
        .delete(&format!("/servers/{id}"))
        .await
        .refused(404, "itemNotFound");
    let actions = cloud
        .get(&format!("/servers/{id}/os-instance-actions"))
        .await
        .expect(200);
    let names: Vec<_> = actions["instanceActions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| action["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["delete", "create"]);
    let request = actions["instanceActions"][1]["request_id"]
        .as_str()
        .unwrap();
    let action = cloud
        .get_as(
            "admin",
            &format!("/servers/{id}/os-instance-actions/{request}"),
        )
        .await
        .expect(200);
    assert_eq!(action["instanceAction"]["events"][0]["result"], "Success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_is_followed_by_the_next() {
    let cloud = Cloud::with_hosts(2).await;
    cloud.hosts[0].trouble.fail(
        "claim",
        Fault::conflict("The host has not enough left: memory."),
        u32::MAX,
    );
    let id = cloud.create("second").await;
    let server = cloud.wait_status(&id, "ACTIVE").await;
    assert_eq!(server["OS-EXT-SRV-ATTR:host"], "node-2");
    assert!(!cloud.hosts[0].has(&id));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_host_refuses_the_fault_says_what_each_said() {
    let cloud = Cloud::with_hosts(2).await;
    for host in &cloud.hosts {
        host.trouble.fail(
            "claim",
            Fault::conflict("The host has not enough left: memory."),
            u32::MAX,
        );
    }
    let id = cloud.create("nowhere").await;
    let server = cloud.wait_status(&id, "ERROR").await;
    let message = server["fault"]["message"].as_str().unwrap();
    assert!(
        message.contains("2 of 2: The host has not enough left: memory."),
        "{message}"
    );
    let details = server["fault"]["details"].as_str().unwrap();
    assert!(
        details.contains("node-1") && details.contains("node-2"),
        "{details}"
    );
    assert!(server["OS-EXT-SRV-ATTR:host"].is_null());
    // Its owner reads what was missing, and nothing of hosts.
    for path in [
        format!("/servers/{id}"),
        format!("/servers/{id}/os-instance-actions"),
    ] {
        let seen = cloud.get(&path).await;
        assert!(seen.text.contains("memory"), "{}", seen.text);
        assert!(!seen.text.contains("node-"), "{}", seen.text);
    }
    cloud.assert_nothing_left().await;
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_place_leaves_nothing_behind() {
    let cloud = Cloud::start().await;
    let final_fault = || Fault::conflict("No, and it is no use asking again.");
    let host = &cloud.hosts[0];
    for place in [
        "choose",
        "allocate",
        "wire",
        "ticket",
        "set_desired",
        "complaint",
    ] {
        match place {
            "choose" => cloud.scheduler.trouble.fail(
                place,
                Fault::no_valid_host("No valid host was found.").with_details(json!({})),
                1,
            ),
            "allocate" | "wire" => cloud.network.trouble.fail(place, final_fault(), 1),
            "ticket" => cloud.images.trouble.fail(place, final_fault(), 1),
            "set_desired" => host.trouble.fail(place, final_fault(), 1),
            _ => *host.complaint.lock().unwrap() = Some("The disk is full.".into()),
        }
        let id = cloud.create(place).await;
        let server = cloud.wait_status(&id, "ERROR").await;
        assert!(server["fault"]["message"].is_string(), "{server:#}");
        assert_eq!(server["addresses"], json!({}), "{place}");
        cloud.assert_nothing_left().await;
        *host.complaint.lock().unwrap() = None;
        cloud.delete(&format!("/servers/{id}")).await.expect(204);
        cloud.wait_gone(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_trouble_only_delays_a_boot() {
    let cloud = Cloud::start().await;
    let away = || Fault::unavailable("Try again.");
    cloud.network.trouble.fail("allocate", away(), 2);
    cloud.images.trouble.fail("ticket", away(), 1);
    cloud.hosts[0].trouble.fail("set_desired", away(), 1);
    let id = cloud.create("patient").await;
    cloud.wait_status(&id, "ACTIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_calls_a_boot_off() {
    let cloud = Cloud::start().await;
    let host = &cloud.hosts[0];
    host.frozen.store(true, Ordering::SeqCst);
    let id = cloud.create("slow").await;
    let told = wait_for(async || host.desired(&id).is_some()).await;
    assert!(told);
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    // Asking twice is fine.
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    let called_off = wait_for(async || {
        host.desired(&id)
            .is_none_or(|desired| desired.power() == yakumo_contracts::compute_host::Power::Absent)
    })
    .await;
    assert!(called_off);
    host.thaw();
    cloud.wait_gone(&id).await;
    cloud.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_right_after_the_request_leaves_nothing() {
    let cloud = Cloud::start().await;
    for round in 0..5 {
        let id = cloud.create(&format!("short-{round}")).await;
        cloud.delete(&format!("/servers/{id}")).await.expect(204);
        cloud.wait_gone(&id).await;
    }
    cloud.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_are_made_by_one_request() {
    let cloud = Cloud::start().await;
    let mut body = server_body("pack");
    body["server"]["min_count"] = json!(2);
    body["server"]["max_count"] = json!(3);
    body["server"]["return_reservation_id"] = json!(true);
    let reservation = cloud.post("/servers", body).await.expect(202)["reservation_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let listed = cloud
        .get(&format!(
            "/servers/detail?reservation_id={reservation}&sort_key=display_name&sort_dir=asc"
        ))
        .await
        .expect(200);
    let names: Vec<_> = listed["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["pack-1", "pack-2", "pack-3"]);
    for server in listed["servers"].as_array().unwrap() {
        cloud
            .wait_status(server["id"].as_str().unwrap(), "ACTIVE")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_drive_holds_what_the_metadata_service_says() {
    let cloud = Cloud::start().await;
    let key = cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "mine" } }))
        .await
        .expect(200);
    let public = key["keypair"]["public_key"].as_str().unwrap().to_owned();
    let mut body = server_body("driven");
    body["server"]["config_drive"] = json!(true);
    body["server"]["key_name"] = json!("mine");
    body["server"]["user_data"] = json!("IyEvYmluL3NoCg==");
    body["server"]["metadata"] = json!({ "role": "web" });
    let id = cloud.post("/servers", body).await.expect(202)["server"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    cloud.wait_status(&id, "ACTIVE").await;
    let drive = cloud.hosts[0]
        .desired(&id)
        .unwrap()
        .spec
        .unwrap()
        .config_drive;
    let data: serde_json::Value =
        serde_json::from_slice(&drive["openstack/latest/meta_data.json"]).unwrap();
    assert_eq!(data["public_keys"]["mine"], public.as_str());
    assert_eq!(data["meta"]["role"], "web");
    assert_eq!(drive["openstack/latest/user_data"], b"#!/bin/sh\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_made_anew() {
    let cloud = Cloud::start().await;
    cloud.hosts[0]
        .trouble
        .fail("claim_answer", Fault::timeout("No answer."), 1);
    let id = cloud.create("heard-late").await;
    let server = cloud.wait_status(&id, "ACTIVE").await;
    assert_eq!(server["OS-EXT-SRV-ATTR:host"], "node-1");
    assert_eq!(cloud.hosts[0].desired(&id).unwrap().generation, 2);
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
    cloud.assert_nothing_left().await;
}
