//! What the network API refuses, in its own words, with nothing changed.

use reqwest::Method;
use serde_json::{Value, json};
use yakumo_integration::in_process::{Answer, Client, TestCloud};

use crate::callers::{bad_bodies, bad_tokens, reader_of, send, with_token};
use crate::network::{id, kind, make, put};

/// One of everything in a project, by the collection that it is in.
struct Things {
    network: String,
    subnet: String,
    port: String,
    router: String,
    group: String,
    rule: String,
    floating: String,
    /// An external network that everybody may use.
    outside: String,
}

impl Things {
    /// The router leads outside, and the floating IP is in front of the port.
    async fn make(admin: &Client, client: &Client) -> anyhow::Result<Self> {
        let own = |document: Value| id(&document).to_owned();
        let outside = json!({"name": "outside", "router:external": true});
        let outside = own(make(admin, "/networks", "network", outside).await?);
        // Room for the router and two floating IPs.
        let room = json!({"network_id": outside, "cidr": "172.30.0.0/24", "ip_version": 4,
            "allocation_pools": [{"start": "172.30.0.10", "end": "172.30.0.12"}]});
        make(admin, "/subnets", "subnet", room).await?;
        let network = json!({"name": "kept"});
        let network = own(make(client, "/networks", "network", network).await?);
        let subnet = json!({"network_id": network, "cidr": "10.79.0.0/24", "ip_version": 4});
        let subnet = own(make(client, "/subnets", "subnet", subnet).await?);
        let group = json!({"name": "kept"});
        let group = own(make(client, "/security-groups", "security_group", group).await?);
        let rule = json!({"security_group_id": group, "direction": "ingress", "protocol": "tcp",
            "port_range_min": 22, "port_range_max": 22});
        let rule = own(make(client, "/security-group-rules", "security_group_rule", rule).await?);
        let port = json!({"network_id": network, "security_groups": [group]});
        let port = own(make(client, "/ports", "port", port).await?);
        let router = json!({"name": "kept", "external_gateway_info": {"network_id": outside}});
        let router = own(make(client, "/routers", "router", router).await?);
        let path = format!("/routers/{router}/add_router_interface");
        put(client, &path, json!({"subnet_id": subnet}))
            .await?
            .expect(200)?;
        let floating = json!({"floating_network_id": outside, "port_id": port});
        let floating = own(make(client, "/floatingips", "floatingip", floating).await?);
        Ok(Self {
            network,
            subnet,
            port,
            router,
            group,
            rule,
            floating,
            outside,
        })
    }

    /// Every write that changes one of them: its path, its body, and the name
    /// of the thing that is missing for those who cannot see it.
    fn changes(&self) -> Vec<(Method, String, Value, &'static str)> {
        let mut all = Vec::new();
        for (collection, name, id, missing) in [
            ("networks", "network", &self.network, "NetworkNotFound"),
            ("subnets", "subnet", &self.subnet, "SubnetNotFound"),
            ("ports", "port", &self.port, "PortNotFound"),
            ("routers", "router", &self.router, "RouterNotFound"),
            (
                "security-groups",
                "security_group",
                &self.group,
                "SecurityGroupNotFound",
            ),
            (
                "floatingips",
                "floatingip",
                &self.floating,
                "FloatingIPNotFound",
            ),
        ] {
            let path = format!("/{collection}/{id}");
            let change = json!({ name: {"description": "taken"} });
            all.push((Method::PUT, path.clone(), change, missing));
            all.push((Method::DELETE, path, Value::Null, missing));
        }
        let rule = format!("/security-group-rules/{}", self.rule);
        all.push((
            Method::DELETE,
            rule,
            Value::Null,
            "SecurityGroupRuleNotFound",
        ));
        for verb in ["add_router_interface", "remove_router_interface"] {
            let path = format!("/routers/{}/{verb}", self.router);
            let body = json!({"subnet_id": self.subnet});
            all.push((Method::PUT, path, body, "RouterNotFound"));
        }
        all
    }

    /// Every write that makes something out of them.
    fn additions(&self) -> Vec<(&'static str, Value, &'static str)> {
        vec![
            (
                "/subnets",
                json!({"subnet": {"network_id": self.network, "cidr": "10.80.0.0/24", "ip_version": 4}}),
                "NetworkNotFound",
            ),
            (
                "/ports",
                json!({"port": {"network_id": self.network}}),
                "NetworkNotFound",
            ),
            (
                "/security-group-rules",
                json!({"security_group_rule": {"security_group_id": self.group, "direction": "ingress", "protocol": "udp"}}),
                "SecurityGroupNotFound",
            ),
            (
                "/floatingips",
                json!({"floatingip": {"floating_network_id": self.outside, "port_id": self.port}}),
                "PortNotFound",
            ),
        ]
    }

    /// Every write that makes something by itself.
    fn makings(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("/networks", json!({"network": {}})),
            ("/routers", json!({"router": {}})),
            (
                "/security-groups",
                json!({"security_group": {"name": "more"}}),
            ),
            (
                "/floatingips",
                json!({"floatingip": {"floating_network_id": self.outside}}),
            ),
        ]
    }
}

/// All that a project has, and what it may have and uses.
async fn everything(client: &Client) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for path in [
        "/networks?sort_key=id",
        "/subnets?sort_key=id",
        "/ports?sort_key=id",
        "/routers?sort_key=id",
        "/security-groups?sort_key=id",
        "/security-group-rules?sort_key=id",
        "/floatingips?sort_key=id",
    ] {
        all.push(client.get(&client.network(path)).await?.expect(200)?);
    }
    let quotas = format!("/quotas/{}/details.json", client.project);
    all.push(client.get(&client.network(&quotas)).await?.expect(200)?);
    Ok(all)
}

async fn ask(client: &Client, method: &Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let body = (!body.is_null()).then(|| body.clone());
    client
        .request(method.clone(), &client.network(path), body)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_and_readers_may_not_changes_nothing() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let admin = &cloud.admin;
    let one = admin.new_project("one").await?;
    let two = admin.new_project("two").await?;
    let reader = reader_of(admin, "one", "looker").await?;
    let things = Things::make(admin, &one).await?;
    let before = everything(&one).await?;
    let makings = things
        .makings()
        .into_iter()
        .map(|(path, body)| (Method::POST, path.to_owned(), body));
    let additions = things
        .additions()
        .into_iter()
        .map(|(path, body, _)| (Method::POST, path.to_owned(), body));
    let changes = things
        .changes()
        .into_iter()
        .map(|(method, path, body, _)| (method, path, body));
    let quotas = format!("/quotas/{}", one.project);
    let limits = [
        (
            Method::PUT,
            quotas.clone(),
            json!({"quota": {"network": 9}}),
        ),
        (Method::DELETE, quotas, Value::Null),
    ];
    let writes: Vec<_> = makings
        .chain(additions)
        .chain(changes)
        .chain(limits)
        .collect();
    for token in bad_tokens(&one.token) {
        let nobody = with_token(&one, &token);
        for (method, path, body) in &writes {
            let answer = ask(&nobody, method, path, body).await?;
            assert_eq!(answer.status, 401, "{method} {path} {}", answer.text);
            assert_eq!(answer.body["error"]["code"], 401, "{}", answer.text);
        }
    }
    for (method, path, body) in &writes {
        let answer = ask(&reader, method, path, body).await?;
        assert_eq!(
            kind(&answer),
            (403, "PolicyNotAuthorized"),
            "{method} {path} {}",
            answer.text
        );
    }
    for (method, path, body, missing) in things.changes() {
        let answer = ask(&two, &method, &path, &body).await?;
        assert_eq!(
            kind(&answer),
            (404, missing),
            "{method} {path} {}",
            answer.text
        );
        if method == Method::DELETE {
            let answer = ask(&two, &Method::GET, &path, &Value::Null).await?;
            assert_eq!(kind(&answer), (404, missing), "{path} {}", answer.text);
        }
    }
    for (path, body, missing) in things.additions() {
        let answer = ask(&two, &Method::POST, path, &body).await?;
        assert_eq!(kind(&answer), (404, missing), "{path} {}", answer.text);
    }
    // Nor by way of something of one's own.
    let own = make(&two, "/routers", "router", json!({})).await?;
    let path = format!("/routers/{}/add_router_interface", id(&own));
    for (body, missing) in [
        (json!({"subnet_id": things.subnet}), "SubnetNotFound"),
        (json!({"port_id": things.port}), "PortNotFound"),
    ] {
        let answer = put(&two, &path, body).await?;
        assert_eq!(kind(&answer), (404, missing), "{}", answer.text);
    }
    let group = make(
        &two,
        "/security-groups",
        "security_group",
        json!({"name": "own"}),
    )
    .await?;
    let rule = json!({"security_group_rule": {"security_group_id": id(&group),
        "direction": "ingress", "remote_group_id": things.group}});
    let answer = two
        .post(&two.network("/security-group-rules"), rule)
        .await?;
    assert_eq!(
        kind(&answer),
        (404, "SecurityGroupNotFound"),
        "{}",
        answer.text
    );
    assert_eq!(everything(&one).await?, before);
    cloud.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_full_or_over_quota_is_refused() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let admin = &cloud.admin;
    let one = admin.new_project("one").await?;
    let things = Things::make(admin, &one).await?;
    used(admin, &one, &things).await?;
    full(&one, &things).await?;
    over_quota(admin, &one, &things).await?;
    cloud.stop().await
}

async fn used(admin: &Client, one: &Client, things: &Things) -> anyhow::Result<()> {
    let before = everything(one).await?;
    let interface = one
        .get(&one.network("/ports?device_owner=network:router_interface"))
        .await?
        .expect(200)?;
    let interface = id(&interface["ports"][0]).to_owned();
    let router = format!("/routers/{}", things.router);
    for (method, path, body, wanted) in [
        (Method::DELETE, router.clone(), Value::Null, "RouterInUse"),
        (
            Method::DELETE,
            format!("/networks/{}", things.network),
            Value::Null,
            "NetworkInUse",
        ),
        (
            Method::DELETE,
            format!("/subnets/{}", things.subnet),
            Value::Null,
            "SubnetInUse",
        ),
        (
            Method::DELETE,
            format!("/security-groups/{}", things.group),
            Value::Null,
            "SecurityGroupInUse",
        ),
        (
            Method::DELETE,
            format!("/ports/{interface}"),
            Value::Null,
            "ServicePortInUse",
        ),
        (
            Method::PUT,
            format!("{router}/remove_router_interface"),
            json!({"subnet_id": things.subnet}),
            "RouterInterfaceInUseByFloatingIP",
        ),
        (
            Method::PUT,
            router,
            json!({"router": {"external_gateway_info": null}}),
            "RouterExternalGatewayInUseByFloatingIp",
        ),
    ] {
        let answer = ask(one, &method, &path, &body).await?;
        assert_eq!(
            kind(&answer),
            (409, wanted),
            "{method} {path} {}",
            answer.text
        );
    }
    let outside = format!("/networks/{}", things.outside);
    let answer = admin.delete(&admin.network(&outside)).await?;
    assert_eq!(kind(&answer), (409, "NetworkInUse"), "{}", answer.text);
    assert_eq!(everything(one).await?, before);
    Ok(())
}

/// Addresses: one floating IP for a port, and no more than there are.
async fn full(one: &Client, things: &Things) -> anyhow::Result<()> {
    let body =
        json!({"floatingip": {"floating_network_id": things.outside, "port_id": things.port}});
    let before = everything(one).await?;
    let answer = one.post(&one.network("/floatingips"), body).await?;
    let second = (409, "FloatingIPPortAlreadyAssociated");
    assert_eq!(kind(&answer), second, "{}", answer.text);
    assert_eq!(everything(one).await?, before);
    let free = json!({"floating_network_id": things.outside});
    let free = make(one, "/floatingips", "floatingip", free).await?;
    let path = format!("/floatingips/{}", id(&free));
    let body = json!({"floatingip": {"port_id": things.port}});
    assert_eq!(kind(&put(one, &path, body).await?), second);
    // That was the last address.
    let before = everything(one).await?;
    let body = json!({"floatingip": {"floating_network_id": things.outside}});
    let answer = one.post(&one.network("/floatingips"), body).await?;
    let none_left = (409, "IpAddressGenerationFailure");
    assert_eq!(kind(&answer), none_left, "{}", answer.text);
    assert_eq!(everything(one).await?, before);
    one.delete(&one.network(&path)).await?.expect(204)?;

    let narrow = make(one, "/networks", "network", json!({"name": "narrow"})).await?;
    let subnet = json!({"network_id": id(&narrow), "cidr": "10.81.0.0/24", "ip_version": 4,
        "allocation_pools": [{"start": "10.81.0.5", "end": "10.81.0.5"}]});
    let subnet = make(one, "/subnets", "subnet", subnet).await?;
    let body = json!({"network_id": id(&narrow)});
    let port = make(one, "/ports", "port", body.clone()).await?;
    let before = everything(one).await?;
    let answer = one
        .post(&one.network("/ports"), json!({"port": body}))
        .await?;
    assert_eq!(kind(&answer), none_left, "{}", answer.text);
    let taken = json!({"port": {"network_id": id(&narrow),
        "fixed_ips": [{"subnet_id": id(&subnet), "ip_address": "10.81.0.5"}]}});
    let answer = one.post(&one.network("/ports"), taken).await?;
    assert_eq!(kind(&answer), (409, "IpAddressInUse"), "{}", answer.text);
    assert_eq!(everything(one).await?, before);
    for path in [
        format!("/ports/{}", id(&port)),
        format!("/networks/{}", id(&narrow)),
    ] {
        one.delete(&one.network(&path)).await?.expect(204)?;
    }
    Ok(())
}

async fn over_quota(admin: &Client, one: &Client, things: &Things) -> anyhow::Result<()> {
    let path = format!("/quotas/{}", one.project);
    let details = one
        .get(&one.network(&format!("{path}/details.json")))
        .await?
        .expect(200)?;
    let used: serde_json::Map<String, Value> = details["quota"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(resource, it)| (resource.clone(), it["used"].clone()))
        .collect();
    assert_eq!(used.len(), 7, "{used:?}");
    put(admin, &path, json!({"quota": used}))
        .await?
        .expect(200)?;
    let before = everything(one).await?;
    let mut bodies = things.makings();
    let additions = things.additions().into_iter();
    bodies.extend(additions.map(|(path, body, _)| (path, body)));
    for (path, body) in bodies {
        if path == "/floatingips" && body["floatingip"]["port_id"].is_string() {
            continue;
        }
        let answer = one.post(&one.network(path), body.clone()).await?;
        assert_eq!(kind(&answer), (409, "OverQuota"), "{path} {}", answer.text);
    }
    // Nor several at once of which only the first would fit.
    let one_more = used["network"].as_u64().unwrap() + 1;
    put(admin, &path, json!({"quota": {"network": one_more}}))
        .await?
        .expect(200)?;
    let bulk = json!({"networks": [{"name": "b1"}, {"name": "b2"}]});
    let answer = one.post(&one.network("/networks"), bulk).await?;
    assert_eq!(kind(&answer), (409, "OverQuota"), "{}", answer.text);
    put(admin, &path, json!({"quota": {"network": used["network"]}}))
        .await?
        .expect(200)?;
    assert_eq!(everything(one).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_in_the_words_of_the_api() -> anyhow::Result<()> {
    let cloud = TestCloud::start().await?;
    let admin = &cloud.admin;
    let one = admin.new_project("one").await?;
    let things = Things::make(admin, &one).await?;
    let before = everything(&one).await?;
    nonsense(&one, &things).await?;
    nowhere(admin, &one).await?;
    assert_eq!(everything(&one).await?, before);
    cloud.stop().await
}

async fn nonsense(one: &Client, things: &Things) -> anyhow::Result<()> {
    let long = "x".repeat(256);
    let collections = [
        ("/networks", "network", Some(&things.network)),
        ("/subnets", "subnet", Some(&things.subnet)),
        ("/ports", "port", Some(&things.port)),
        ("/routers", "router", Some(&things.router)),
        ("/security-groups", "security_group", Some(&things.group)),
        ("/floatingips", "floatingip", Some(&things.floating)),
        ("/security-group-rules", "security_group_rule", None),
    ];
    for (collection, name, thing) in collections {
        let mut wrong = vec![
            json!({"colour": "red"}),
            json!({"description": 7}),
            json!({"description": long}),
            json!({"description": "a\u{0}b"}),
        ];
        if !matches!(name, "floatingip" | "security_group_rule") {
            wrong.push(json!({"name": 7}));
            wrong.push(json!({"name": long}));
            wrong.push(json!({"name": "a\u{7}b"}));
        }
        for mut part in wrong {
            // What is needed is there: it is the rest that is refused.
            if let Some(thing) = thing {
                let path = format!("{collection}/{thing}");
                let answer = put(one, &path, json!({ name: part })).await?;
                refused(&answer, &format!("PUT {path} {part:.80}"));
            }
            let needed = match name {
                "subnet" => {
                    json!({"network_id": things.network, "cidr": "10.80.0.0/24", "ip_version": 4})
                }
                "port" => json!({"network_id": things.network}),
                "floatingip" => json!({"floating_network_id": things.outside}),
                "security_group" => json!({"name": "more"}),
                "security_group_rule" => json!({"security_group_id": things.group,
                    "direction": "ingress", "protocol": "icmp"}),
                _ => json!({}),
            };
            for (key, value) in needed.as_object().unwrap() {
                if part.get(key).is_none() {
                    part[key] = value.clone();
                }
            }
            let body = json!({ name: part });
            let answer = one.post(&one.network(collection), body).await?;
            refused(&answer, &format!("POST {collection} {part:.80}"));
        }
        for body in [
            json!({}),
            json!([]),
            json!({ name: [] }),
            json!({ name: null }),
        ] {
            let answer = one.post(&one.network(collection), body.clone()).await?;
            refused(&answer, &format!("POST {collection} {body}"));
        }
        for (body, status) in bad_bodies(name) {
            let url = one.network(collection);
            let answer = send(one, Method::POST, &url, body.clone()).await;
            let wanted = match status {
                413 => (413, "HTTPRequestEntityTooLarge"),
                _ => (400, "HTTPBadRequest"),
            };
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(
                kind(&answer),
                wanted,
                "{collection} {shown} {:.300}",
                answer.text
            );
        }
    }
    for (path, body) in [
        (
            "/subnets",
            json!({"subnet": {"network_id": things.network, "cidr": "10.80.0.0/33"}}),
        ),
        (
            "/subnets",
            json!({"subnet": {"network_id": things.network, "cidr": 10}}),
        ),
        (
            "/subnets",
            json!({"subnet": {"network_id": things.network, "cidr": "10.80.0.0/24", "enable_dhcp": "perhaps"}}),
        ),
        (
            "/subnets",
            json!({"subnet": {"network_id": things.network, "cidr": "10.80.0.0/24", "gateway_ip": "10.99.0.1"}}),
        ),
        (
            "/floatingips",
            json!({"floatingip": {"floating_network_id": things.network}}),
        ),
        (
            "/floatingips",
            json!({"floatingip": {"floating_network_id": 7}}),
        ),
        (
            "/floatingips",
            json!({"floatingip": {"floating_network_id": things.outside, "fixed_ip_address": "10.79.0.9"}}),
        ),
        (
            "/security-group-rules",
            json!({"security_group_rule": {"security_group_id": things.group, "direction": "sideways"}}),
        ),
        (
            "/security-group-rules",
            json!({"security_group_rule": {"security_group_id": things.group, "direction": "ingress", "protocol": "tcp", "port_range_min": 70_000, "port_range_max": 70_001}}),
        ),
        (
            "/security-group-rules",
            json!({"security_group_rule": {"security_group_id": things.group, "direction": "ingress", "remote_ip_prefix": "everywhere"}}),
        ),
    ] {
        let answer = one.post(&one.network(path), body.clone()).await?;
        refused(&answer, &format!("{path} {body}"));
    }
    Ok(())
}

/// A refusal (400) in the API's own shape.
#[track_caller]
fn refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 400, "{what} {:.300}", answer.text);
    let error = &answer.body["NeutronError"];
    assert!(
        error["message"].is_string() && error["type"].is_string(),
        "{what} {:.300}",
        answer.text
    );
}

/// Ids and markers that are none.
async fn nowhere(admin: &Client, one: &Client) -> anyhow::Result<()> {
    for (collection, missing) in [
        ("networks", "NetworkNotFound"),
        ("subnets", "SubnetNotFound"),
        ("ports", "PortNotFound"),
        ("routers", "RouterNotFound"),
        ("security-groups", "SecurityGroupNotFound"),
        ("security-group-rules", "SecurityGroupRuleNotFound"),
        ("floatingips", "FloatingIPNotFound"),
        ("agents", "AgentNotFound"),
    ] {
        let client = match collection {
            "agents" => admin,
            _ => one,
        };
        let unknown = "77777777-7777-4777-8777-777777777777";
        for id in ["x", "%00", "..%2f..", unknown] {
            let url = client.network(&format!("/{collection}/{id}"));
            for method in [Method::GET, Method::DELETE] {
                if collection == "agents" && method == Method::DELETE {
                    continue;
                }
                let answer = client.request(method.clone(), &url, None).await?;
                assert_eq!(
                    kind(&answer),
                    (404, missing),
                    "{method} {url} {}",
                    answer.text
                );
            }
        }
        for marker in ["x", unknown] {
            let path = format!("/{collection}?limit=2&marker={marker}");
            let answer = client.get(&client.network(&path)).await?;
            assert_eq!(kind(&answer), (404, missing), "{path} {}", answer.text);
        }
    }
    Ok(())
}
