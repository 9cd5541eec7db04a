//! Servers that a whole cloud cannot make, and what their owners are told.

use reqwest::Method;
use serde_json::json;
use yakumo_integration::in_process::{Client, TestCloud};

/// What a person reads who does not run the cloud.
async fn complaint(client: &Client, id: &str) -> anyhow::Result<String> {
    let server = client.wait_for_status(id, "ERROR").await?;
    let fault = &server["fault"];
    assert!(fault.get("details").is_none(), "{server:#}");
    let text = server.to_string();
    assert!(!text.contains("sim-0"), "{text}");
    Ok(fault["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flavor_larger_than_every_host_is_refused_without_names_of_hosts() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let member = cloud.admin.new_project("demo").await?;
    let giant = cloud.admin.make_flavor("giant", 2, 40_000, 1).await?;
    let id = member
        .make_server("giant", &cloud.image, &giant, &cloud.network)
        .await?;
    let message = complaint(&member, &id).await?;
    assert!(
        message.contains("Of 2 hosts, capacity removed 2") && message.contains("40000 MiB wanted"),
        "{message}"
    );
    // Names are for those who run it.
    let server = cloud.admin.show_server(&id).await?;
    let details = server["fault"]["details"].as_str().unwrap_or_default();
    assert!(details.contains("sim-0"), "{details}");
    // Nothing was taken for it.
    let ports = member.get(&member.network("/ports")).await?.expect(200)?;
    assert_eq!(ports["ports"], json!([]));
    member.remove_server(&id).await?;
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_free_addresses_is_what_the_fault_says() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let member = cloud.admin.new_project("demo").await?;
    let network = cloud.admin.make_network("narrow", "10.66.0.0/24").await?;
    let subnets = cloud
        .admin
        .get(
            &cloud
                .admin
                .network(&format!("/subnets?network_id={network}")),
        )
        .await?
        .expect(200)?;
    let url = cloud.admin.network(&format!(
        "/subnets/{}",
        subnets["subnets"][0]["id"].as_str().unwrap()
    ));
    let one = json!({ "subnet": {
        "allocation_pools": [{ "start": "10.66.0.10", "end": "10.66.0.10" }],
    }});
    cloud
        .admin
        .request(Method::PUT, &url, Some(one))
        .await?
        .expect(200)?;
    let first = member
        .make_server("first", &cloud.image, &cloud.flavor, &network)
        .await?;
    member.wait_for_status(&first, "ACTIVE").await?;
    let second = member
        .make_server("second", &cloud.image, &cloud.flavor, &network)
        .await?;
    let message = complaint(&member, &second).await?;
    assert!(message.contains("No more IP addresses"), "{message}");
    // The other one keeps its own, and nothing else is left.
    let ports = member.get(&member.network("/ports")).await?.expect(200)?;
    assert_eq!(ports["ports"].as_array().map(Vec::len), Some(1));
    assert_eq!(ports["ports"][0]["device_id"], first.as_str());
    // Once it is free, it is the next one's.
    member.remove_server(&second).await?;
    member.remove_server(&first).await?;
    let third = member
        .make_server("third", &cloud.image, &cloud.flavor, &network)
        .await?;
    let server = member.wait_for_status(&third, "ACTIVE").await?;
    assert_eq!(server["addresses"]["narrow"][0]["addr"], "10.66.0.10");
    cloud.stop().await
}
