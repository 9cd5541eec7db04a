//! The network API over REST: shapes, errors, pages, walls.

use reqwest::Method;
use serde_json::{Value, json};
use yakumo_integration::in_process::{Answer, Client, TestCloud};

pub fn kind(answer: &Answer) -> (u16, &str) {
    (
        answer.status,
        answer.body["NeutronError"]["type"].as_str().unwrap_or(""),
    )
}

pub fn id(document: &Value) -> &str {
    document["id"].as_str().unwrap()
}

pub async fn make(client: &Client, path: &str, name: &str, body: Value) -> anyhow::Result<Value> {
    let answer = client
        .post(&client.network(path), json!({ name: body }))
        .await?
        .expect(201)?;
    Ok(answer[name].clone())
}

pub async fn put(client: &Client, path: &str, body: Value) -> anyhow::Result<Answer> {
    client
        .request(Method::PUT, &client.network(path), Some(body))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_api_speaks_as_its_clients_expect() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let admin = &cloud.admin;
    let one = admin.new_project("one").await?;
    let two = admin.new_project("two").await?;
    documents(&one).await?;
    resources(admin, &one).await?;
    bad_input(admin, &one, &cloud.network).await?;
    pages(&one).await?;
    walls(admin, &one, &two).await?;
    quotas(admin, &one).await?;
    cloud.stop().await
}

/// Version documents and extensions; nobody else gets in without a token.
async fn documents(client: &Client) -> anyhow::Result<()> {
    let plain = reqwest::Client::new();
    let root = client
        .endpoints
        .network
        .trim_end_matches("/v2.0")
        .to_owned();
    let versions: Value = plain.get(&root).send().await?.json().await?;
    assert_eq!(versions["versions"][0]["status"], "CURRENT");
    let href = versions["versions"][0]["links"][0]["href"]
        .as_str()
        .unwrap();
    assert!(
        href.starts_with("http://") && href.ends_with("/v2.0/"),
        "{href}"
    );
    assert_eq!(plain.get(client.network("/")).send().await?.status(), 200);
    for path in [
        "/networks",
        "/ports",
        "/security-groups",
        "/extensions",
        "/quotas/x",
    ] {
        let response = plain.get(client.network(path)).send().await?;
        assert_eq!(response.status(), 401, "{path}");
        assert!(response.headers().contains_key("www-authenticate"));
    }
    let extensions = client
        .get(&client.network("/extensions"))
        .await?
        .expect(200)?;
    let aliases: Vec<&str> = extensions["extensions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|extension| extension["alias"].as_str())
        .collect();
    assert!(aliases.contains(&"security-group") && !aliases.contains(&"trunk"));
    let answer = client.get(&client.network("/extensions/trunk")).await?;
    assert_eq!(answer.status, 404);
    Ok(())
}

async fn resources(admin: &Client, client: &Client) -> anyhow::Result<()> {
    let network = make(
        client,
        "/networks",
        "network",
        json!({"name": "own", "description": "mine"}),
    )
    .await?;
    assert_eq!(network["project_id"], client.project.as_str());
    assert_eq!(network["tenant_id"], client.project.as_str());
    assert_eq!(network["status"], "ACTIVE");
    assert_eq!(network["router:external"], false);
    assert!(
        network.get("provider:network_type").is_none(),
        "that is for administrators"
    );
    let path = format!("/networks/{}", id(&network));
    let shown = admin.get(&admin.network(&path)).await?.expect(200)?;
    assert_eq!(shown["network"]["provider:network_type"], "local");
    let shown = client
        .get(&client.network(&format!("{path}?fields=id&fields=name")))
        .await?
        .expect(200)?;
    assert_eq!(
        shown,
        json!({"network": {"id": id(&network), "name": "own"}})
    );
    let renamed = put(
        client,
        &path,
        json!({"network": {"name": "other", "mtu": "1400"}}),
    )
    .await?
    .expect(200)?;
    assert_eq!(
        (&renamed["network"]["name"], &renamed["network"]["mtu"]),
        (&json!("other"), &json!(1400))
    );

    let subnet = json!({"network_id": id(&network), "cidr": "10.77.0.0/24", "ip_version": 4,
        "dns_nameservers": ["9.9.9.9"], "allocation_pools": [{"start": "10.77.0.20", "end": "10.77.0.30"}]});
    let subnet = make(client, "/subnets", "subnet", subnet).await?;
    assert_eq!(subnet["gateway_ip"], "10.77.0.1");
    assert_eq!(
        subnet["allocation_pools"],
        json!([{"start": "10.77.0.20", "end": "10.77.0.30"}])
    );
    let at = format!("/subnets/{}", id(&subnet));
    let changed = put(client, &at, json!({"subnet": {"gateway_ip": null}}))
        .await?
        .expect(200)?;
    assert_eq!(changed["subnet"]["gateway_ip"], Value::Null);

    let port = make(
        client,
        "/ports",
        "port",
        json!({"network_id": id(&network), "name": "p"}),
    )
    .await?;
    assert_eq!(port["fixed_ips"][0]["subnet_id"], subnet["id"]);
    assert_eq!(port["security_groups"].as_array().unwrap().len(), 1);
    assert!(
        port.get("binding:host_id").is_none(),
        "that is for administrators"
    );
    let address = port["fixed_ips"][0]["ip_address"].as_str().unwrap();
    let found = client
        .get(&client.network(&format!(
            "/ports?fixed_ips=ip_address%3D{address}&network_id={}",
            id(&network)
        )))
        .await?
        .expect(200)?;
    assert_eq!(found["ports"][0]["id"], port["id"]);

    let group = make(
        client,
        "/security-groups",
        "security_group",
        json!({"name": "web"}),
    )
    .await?;
    let rule = json!({"security_group_id": id(&group), "direction": "ingress", "protocol": "tcp",
        "port_range_min": 80, "port_range_max": "80", "remote_ip_prefix": "0.0.0.0/0"});
    let made = make(
        client,
        "/security-group-rules",
        "security_group_rule",
        rule.clone(),
    )
    .await?;
    assert_eq!(
        (&made["port_range_min"], &made["ethertype"]),
        (&json!(80), &json!("IPv4"))
    );
    let again = client
        .post(
            &client.network("/security-group-rules"),
            json!({"security_group_rule": rule}),
        )
        .await?;
    assert_eq!(kind(&again), (409, "SecurityGroupRuleExists"));
    let shown = client
        .get(&client.network(&format!("/security-groups/{}", id(&group))))
        .await?
        .expect(200)?;
    assert_eq!(
        shown["security_group"]["security_group_rules"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let bulk = json!({"networks": [{"name": "b1"}, {"name": "b2"}]});
    let bulk = client
        .post(&client.network("/networks"), bulk)
        .await?
        .expect(201)?;
    for made in bulk["networks"].as_array().unwrap() {
        client
            .delete(&client.network(&format!("/networks/{}", id(made))))
            .await?
            .expect(204)?;
    }
    let answer = client.delete(&client.network(&path)).await?;
    assert_eq!(kind(&answer), (409, "NetworkInUse"));
    client
        .delete(&client.network(&format!("/ports/{}", id(&port))))
        .await?
        .expect(204)?;
    client
        .delete(&client.network(&format!("/security-groups/{}", id(&group))))
        .await?
        .expect(204)?;
    client.delete(&client.network(&path)).await?.expect(204)?;
    let answer = client.get(&client.network(&path)).await?;
    assert_eq!(kind(&answer), (404, "NetworkNotFound"));

    let agents = admin.get(&admin.network("/agents")).await?.expect(200)?;
    assert_eq!(agents["agents"][0]["alive"], true);
    let zones = client
        .get(&client.network("/availability_zones"))
        .await?
        .expect(200)?;
    assert_eq!(zones["availability_zones"][0]["state"], "available");
    Ok(())
}

async fn bad_input(admin: &Client, client: &Client, network: &str) -> anyhow::Result<()> {
    let post = async |path: &str, body: Value| client.post(&client.network(path), body).await;
    for (path, body) in [
        ("/networks", json!({})),
        ("/networks", json!({"network": {"name": 7}})),
        ("/networks", json!({"network": {"colour": "red"}})),
        ("/networks", json!({"network": {"name": "x".repeat(256)}})),
        ("/networks", json!({"network": {"name": "a\u{0}b"}})),
        ("/networks", json!({"network": {"mtu": "many"}})),
        ("/networks", json!({"network": {}, "networks": []})),
        ("/networks", json!([])),
        (
            "/ports",
            json!({"port": {"network_id": network, "fixed_ips": "10.0.0.1"}}),
        ),
        (
            "/ports",
            json!({"port": {"network_id": network, "allowed_address_pairs": [{"ip_address": "1.1.1.1"}]}}),
        ),
        (
            "/security-group-rules",
            json!({"security_group_rule": {"direction": "ingress"}}),
        ),
        ("/routers", json!({"router": {"ha": true}})),
    ] {
        let answer = post(path, body.clone()).await?;
        assert_eq!(answer.status, 400, "{path} {body} {}", answer.text);
        assert!(
            answer.body["NeutronError"]["message"].is_string(),
            "{}",
            answer.text
        );
    }
    let six = json!({"subnet": {"network_id": network, "cidr": "fd00::/64", "ip_version": 6}});
    let answer = admin.post(&admin.network("/subnets"), six).await?;
    assert_eq!(kind(&answer), (400, "InvalidInput"), "{}", answer.text);
    let broken = reqwest::Client::new()
        .post(client.network("/networks"))
        .header("X-Auth-Token", &client.token)
        .header("Content-Type", "application/json")
        .body(vec![b'{', 0xff, b'}'])
        .send()
        .await?;
    assert_eq!(broken.status(), 400);
    for path in [
        "/networks?sort_key=colour",
        "/networks?limit=-1",
        "/networks?limit=x",
        "/ports?sort_key=id&sort_dir=up",
    ] {
        let answer = client.get(&client.network(path)).await?;
        assert_eq!(answer.status, 400, "{path} {}", answer.text);
    }
    for (path, wanted) in [
        ("/networks/nonsense", "NetworkNotFound"),
        (
            "/ports/00000000-0000-0000-0000-000000000000",
            "PortNotFound",
        ),
        ("/security-groups/%00", "SecurityGroupNotFound"),
        ("/floatingips/x", "FloatingIPNotFound"),
        ("/routers/x", "RouterNotFound"),
        ("/networks?marker=nothing&limit=2", "NetworkNotFound"),
    ] {
        let answer = client.get(&client.network(path)).await?;
        assert_eq!(kind(&answer), (404, wanted), "{path} {}", answer.text);
    }
    let answer = client.get(&client.network("/trunks")).await?;
    assert_eq!(answer.status, 404);
    Ok(())
}

async fn pages(client: &Client) -> anyhow::Result<()> {
    for number in 0..5 {
        make(
            client,
            "/networks",
            "network",
            json!({"name": format!("page-{number}"), "description": "paged"}),
        )
        .await?;
    }
    let mut url = client.network("/networks?description=paged&limit=2&sort_key=name&sort_dir=desc");
    let mut names = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..10 {
        let page = client.get(&url).await?.expect(200)?;
        for network in page["networks"].as_array().unwrap() {
            names.push(network["name"].as_str().unwrap().to_owned());
            ids.push(id(network).to_owned());
        }
        let next = page["networks_links"]
            .as_array()
            .and_then(|links| links.iter().find(|link| link["rel"] == "next"))
            .and_then(|link| link["href"].as_str());
        match next {
            Some(next) => url = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["page-4", "page-3", "page-2", "page-1", "page-0"]);
    let whole = client
        .get(&client.network("/networks?description=paged"))
        .await?
        .expect(200)?;
    assert_eq!(whole["networks"].as_array().unwrap().len(), 5);
    assert!(whole.get("networks_links").is_none());
    for id in ids {
        client
            .delete(&client.network(&format!("/networks/{id}")))
            .await?
            .expect(204)?;
    }
    Ok(())
}

async fn walls(admin: &Client, one: &Client, two: &Client) -> anyhow::Result<()> {
    let network = make(one, "/networks", "network", json!({"name": "walled"})).await?;
    let path = format!("/networks/{}", id(&network));
    assert_eq!(
        kind(&two.get(&two.network(&path)).await?),
        (404, "NetworkNotFound")
    );
    assert_eq!(
        kind(&two.delete(&two.network(&path)).await?),
        (404, "NetworkNotFound")
    );
    assert_eq!(
        put(two, &path, json!({"network": {"name": "taken"}}))
            .await?
            .status,
        404
    );
    let body =
        json!({"subnet": {"network_id": id(&network), "cidr": "10.78.0.0/24", "ip_version": 4}});
    assert_eq!(two.post(&two.network("/subnets"), body).await?.status, 404);
    let listed = two
        .get(&two.network(&format!("/networks?id={}", id(&network))))
        .await?
        .expect(200)?;
    assert_eq!(listed["networks"], json!([]));
    for (url, body) in [
        ("/networks", json!({"network": {"shared": true}})),
        ("/networks", json!({"network": {"router:external": true}})),
        (
            "/networks",
            json!({"network": {"provider:network_type": "flat"}}),
        ),
        ("/networks", json!({"network": {"project_id": one.project}})),
    ] {
        let answer = two.post(&two.network(url), body.clone()).await?;
        assert_eq!(kind(&answer), (403, "PolicyNotAuthorized"), "{body}");
    }
    assert_eq!(two.get(&two.network("/agents")).await?.status, 403);
    assert_eq!(
        two.get(&two.network(&format!("/quotas/{}", one.project)))
            .await?
            .status,
        403
    );
    admin.delete(&admin.network(&path)).await?.expect(204)?;
    Ok(())
}

async fn quotas(admin: &Client, one: &Client) -> anyhow::Result<()> {
    let path = format!("/quotas/{}", one.project);
    let set = put(
        admin,
        &path,
        json!({"quota": {"network": 1, "security_group": "2"}}),
    )
    .await?
    .expect(200)?;
    assert_eq!(set["quota"]["network"], 1);
    assert_eq!(
        put(one, &path, json!({"quota": {"network": 9}}))
            .await?
            .status,
        403
    );
    let network = make(one, "/networks", "network", json!({"name": "the only one"})).await?;
    let answer = one
        .post(&one.network("/networks"), json!({"network": {}}))
        .await?;
    assert_eq!(kind(&answer), (409, "OverQuota"));
    let details = one
        .get(&one.network(&format!("{path}/details.json")))
        .await?
        .expect(200)?;
    assert_eq!(
        details["quota"]["network"],
        json!({"limit": 1, "used": 1, "reserved": 0})
    );
    one.delete(&one.network(&format!("/networks/{}", id(&network))))
        .await?
        .expect(204)?;
    admin.delete(&admin.network(&path)).await?.expect(204)?;
    let shown = one.get(&one.network(&path)).await?.expect(200)?;
    assert_eq!(shown["quota"]["network"], 100);
    Ok(())
}
