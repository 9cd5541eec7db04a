//! Servers on a cloud of real services and simulated guests.

use serde_json::json;
use yakumo_integration::in_process::{TestCloud, Wanted};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_boots_gets_an_address_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let member = cloud.admin.new_project("demo").await?;
    let id = member
        .make_server("web", &cloud.image, &cloud.flavor, &cloud.network)
        .await?;
    let server = member.wait_for_status(&id, "ACTIVE").await?;
    let address = server["addresses"]["flat"][0]["addr"].as_str();
    assert!(
        address.is_some_and(|address| address.starts_with("10.20.0.")),
        "{server:#}"
    );
    assert_eq!(server["addresses"]["flat"][0]["OS-EXT-IPS:type"], "fixed");
    assert_eq!(server["security_groups"], json!([{ "name": "default" }]));

    let ports = member.get(&member.network("/ports")).await?.expect(200)?;
    assert_eq!(ports["ports"][0]["device_id"], id.as_str());
    let groups = member
        .get(&member.compute(&format!("/servers/{id}/os-security-groups")))
        .await?
        .expect(200)?;
    assert_eq!(groups["security_groups"][0]["name"], "default");
    let interfaces = member
        .get(&member.compute(&format!("/servers/{id}/os-interface")))
        .await?
        .expect(200)?;
    assert_eq!(
        interfaces["interfaceAttachments"].as_array().map(Vec::len),
        Some(1)
    );

    member.remove_server(&id).await?;
    let ports = member.get(&member.network("/ports")).await?.expect(200)?;
    assert_eq!(ports["ports"], json!([]));
    let sums = cloud
        .admin
        .get(&cloud.admin.compute("/os-hypervisors/statistics"))
        .await?
        .expect(200)?;
    assert_eq!(sums["hypervisor_statistics"]["count"], 2);
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_works_on_a_simulated_guest() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let admin = &cloud.admin;
    let id = admin
        .make_server("web", &cloud.image, &cloud.flavor, &cloud.network)
        .await?;
    admin.wait_for_status(&id, "ACTIVE").await?;
    for (body, status) in [
        (json!({ "os-stop": null }), "SHUTOFF"),
        (json!({ "os-start": null }), "ACTIVE"),
        (json!({ "reboot": { "type": "SOFT" } }), "ACTIVE"),
        (json!({ "reboot": { "type": "HARD" } }), "ACTIVE"),
        (json!({ "pause": null }), "PAUSED"),
        (json!({ "unpause": null }), "ACTIVE"),
    ] {
        admin
            .post(&admin.compute(&format!("/servers/{id}/action")), body)
            .await?
            .expect(202)?;
        admin.wait_for_status(&id, status).await?;
    }
    let console = admin
        .post(
            &admin.compute(&format!("/servers/{id}/action")),
            json!({ "os-getConsoleOutput": { "length": 10 } }),
        )
        .await?
        .expect(200)?;
    assert!(console["output"].is_string());
    admin.remove_server(&id).await?;
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fits_nowhere_says_what_was_missing() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let admin = &cloud.admin;
    let giant = admin.make_flavor("giant", 1, 40_000, 1).await?;
    let id = admin
        .make_server("giant", &cloud.image, &giant, &cloud.network)
        .await?;
    let server = admin.wait_for_status(&id, "ERROR").await?;
    let message = server["fault"]["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("Of 2 hosts") && message.contains("40000 MiB wanted"),
        "{message}"
    );
    let details = server["fault"]["details"].as_str().unwrap_or_default();
    assert!(details.contains("\"capacity\""), "{details}");
    admin.remove_server(&id).await?;
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_filled_and_never_oversold() -> anyhow::Result<()> {
    // Room for four: two on each host.
    let cloud = TestCloud::start_as(Wanted {
        memory_mib: 1024,
        ..Wanted::default()
    })
    .await?;
    let admin = &cloud.admin;
    let mut ids = Vec::new();
    for number in 0..6 {
        let name = format!("n{number}");
        ids.push(
            admin
                .make_server(&name, &cloud.image, &cloud.flavor, &cloud.network)
                .await?,
        );
    }
    let mut active = 0;
    let mut refused = 0;
    for id in &ids {
        if admin.wait_for_status(id, "ACTIVE").await.is_ok() {
            active += 1;
        } else {
            let server = admin.show_server(id).await?;
            let message = server["fault"]["message"].as_str().unwrap_or_default();
            assert!(message.contains("No valid host"), "{server:#}");
            refused += 1;
        }
    }
    let all = admin
        .get(&admin.compute("/os-hypervisors/detail"))
        .await?
        .expect(200)?;
    assert_eq!((active, refused), (4, 2), "{all:#}");
    for id in &ids {
        admin.remove_server(id).await?;
    }
    // All of it was given back.
    let id = admin
        .make_server("again", &cloud.image, &cloud.flavor, &cloud.network)
        .await?;
    admin.wait_for_status(&id, "ACTIVE").await?;
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn boots_that_fail_on_the_host_leave_nothing() -> anyhow::Result<()> {
    let cloud = TestCloud::start_as(Wanted {
        build_failures: 1.0,
        ..Wanted::default()
    })
    .await?;
    let admin = &cloud.admin;
    let id = admin
        .make_server("unlucky", &cloud.image, &cloud.flavor, &cloud.network)
        .await?;
    let server = admin.wait_for_status(&id, "ERROR").await?;
    assert!(server["fault"]["message"].is_string(), "{server:#}");
    let ports = admin.get(&admin.network("/ports")).await?.expect(200)?;
    assert_eq!(ports["ports"], json!([]), "{ports:#}");
    admin.remove_server(&id).await?;
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_do_not_see_each_other() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let one = cloud.admin.new_project("one").await?;
    let two = cloud.admin.new_project("two").await?;
    let id = one
        .make_server("mine", &cloud.image, &cloud.flavor, &cloud.network)
        .await?;
    one.wait_for_status(&id, "ACTIVE").await?;
    let url = two.compute(&format!("/servers/{id}"));
    assert_eq!(two.get(&url).await?.status, 404);
    assert_eq!(two.delete(&url).await?.status, 404);
    let listed = two.get(&two.compute("/servers")).await?.expect(200)?;
    assert_eq!(listed["servers"], json!([]));
    assert_eq!(
        two.get(&two.network("/ports")).await?.expect(200)?["ports"],
        json!([])
    );
    let all = cloud
        .admin
        .get(&cloud.admin.compute("/servers?all_tenants=1"))
        .await?
        .expect(200)?;
    assert_eq!(all["servers"].as_array().map(Vec::len), Some(1));
    cloud.stop().await
}
