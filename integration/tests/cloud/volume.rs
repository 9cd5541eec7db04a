//! The volume API over REST: what it refuses, in its own words, with nothing
//! changed.

use reqwest::Method;
use serde_json::{Value, json};
use yakumo_integration::in_process::{Answer, Client, TestCloud, Wanted};
use yakumo_service::system_env;

use crate::callers::{bad_bodies, bad_tokens, reader_of, revoke, send, with_token};

const UNKNOWN: &str = "77777777-7777-4777-8777-777777777777";

/// A refusal in the API's own shape.
#[track_caller]
fn refused(answer: &Answer, status: u16, what: &str) {
    let name = match status {
        400 => "badRequest",
        403 => "forbidden",
        404 => "itemNotFound",
        409 => "conflictingRequest",
        413 => "overLimit",
        _ => "computeFault",
    };
    assert_eq!(answer.status, status, "{what} {}", answer.text);
    assert_eq!(answer.body[name]["code"], status, "{what} {}", answer.text);
    assert!(
        answer.body[name]["message"].is_string(),
        "{what} {}",
        answer.text
    );
}

/// Makes a volume of 1 GiB and waits until it is there.
async fn make(client: &Client, name: &str) -> anyhow::Result<String> {
    let body = json!({ "volume": { "name": name, "size": 1, "metadata": { "a": "b" } } });
    let made = client
        .post(&client.volume("/volumes"), body)
        .await?
        .expect(202)?;
    let id = made["volume"]["id"].as_str().unwrap().to_owned();
    reaches(client, &id, "available").await?;
    Ok(id)
}

async fn reaches(client: &Client, id: &str, status: &str) -> anyhow::Result<()> {
    let mut last = Value::Null;
    for _ in 0..3000 {
        last = client
            .get(&client.volume(&format!("/volumes/{id}")))
            .await?
            .expect(200)?;
        if last["volume"]["status"] == status {
            return Ok(());
        }
        let env = system_env();
        env.clock.sleep(std::time::Duration::from_millis(10)).await;
    }
    anyhow::bail!("never {status}: {last:#}");
}

/// All that a project has and may.
async fn everything(client: &Client) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for path in [
        "/volumes/detail?sort=id:asc".to_owned(),
        "/limits".into(),
        format!("/os-quota-sets/{}?usage=true", client.project),
    ] {
        all.push(client.get(&client.volume(&path)).await?.expect(200)?);
    }
    Ok(all)
}

/// Every write of the API, with a body that would be taken.
fn writes(id: &str, project: &str) -> Vec<(Method, String, Value)> {
    let metadata = json!({ "metadata": { "a": "taken" } });
    vec![
        (
            Method::POST,
            "/volumes".into(),
            json!({ "volume": { "size": 1 } }),
        ),
        (
            Method::PUT,
            format!("/volumes/{id}"),
            json!({ "volume": { "name": "taken" } }),
        ),
        (Method::DELETE, format!("/volumes/{id}"), Value::Null),
        (
            Method::POST,
            format!("/volumes/{id}/metadata"),
            metadata.clone(),
        ),
        (Method::PUT, format!("/volumes/{id}/metadata"), metadata),
        (
            Method::PUT,
            format!("/volumes/{id}/metadata/a"),
            json!({ "meta": { "a": "taken" } }),
        ),
        (
            Method::DELETE,
            format!("/volumes/{id}/metadata/a"),
            Value::Null,
        ),
        (
            Method::PUT,
            format!("/os-quota-sets/{project}"),
            json!({ "quota_set": { "volumes": 100 } }),
        ),
        (
            Method::DELETE,
            format!("/os-quota-sets/{project}"),
            Value::Null,
        ),
    ]
}

async fn ask(client: &Client, write: &(Method, String, Value)) -> anyhow::Result<Answer> {
    let (method, path, body) = write;
    let body = (!body.is_null()).then(|| body.clone());
    client
        .request(method.clone(), &client.volume(path), body)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_api_refuses_in_its_own_words_and_changes_nothing() -> anyhow::Result<()> {
    // One host: volumes are reached on their own.
    let cloud = TestCloud::start_as(Wanted {
        hosts: 1,
        ..Wanted::default()
    })
    .await?;
    let admin = &cloud.admin;
    let one = admin.new_project("one").await?;
    let two = admin.new_project("two").await?;
    let reader = reader_of(admin, "one", "looker").await?;
    let id = make(&one, "mine").await?;
    walls(&one, &two, &reader, &id).await?;
    bad_input(&one, &id).await?;
    over_quota(admin, &one).await?;
    in_use(&cloud, &one, &two, &id).await?;
    revoke(&two, &two.volume("/volumes")).await?;
    revoke(&reader, &reader.compute("/servers")).await?;
    let before = everything(&one).await?;
    for client in [&two, &reader] {
        for write in writes(&id, &one.project) {
            let answer = ask(client, &write).await?;
            assert_eq!(answer.status, 401, "{write:?} {}", answer.text);
        }
        assert_eq!(client.get(&client.network("/ports")).await?.status, 401);
    }
    assert_eq!(everything(&one).await?, before);
    cloud.stop().await
}

async fn walls(one: &Client, two: &Client, reader: &Client, id: &str) -> anyhow::Result<()> {
    let before = everything(one).await?;
    let path = format!("/volumes/{id}");
    for token in bad_tokens(&one.token) {
        let nobody = with_token(one, &token);
        for write in writes(id, &one.project) {
            let answer = ask(&nobody, &write).await?;
            assert_eq!(answer.status, 401, "{write:?} {token} {}", answer.text);
            assert_eq!(answer.body["error"]["code"], 401, "{}", answer.text);
        }
        for url in [
            one.volume(&path),
            one.compute("/servers"),
            one.network("/networks"),
        ] {
            assert_eq!(nobody.get(&url).await?.status, 401, "{url} {token}");
        }
    }
    for write in writes(id, &one.project) {
        refused(&ask(reader, &write).await?, 403, &format!("{write:?}"));
        let status = match write.1.as_str() {
            "/volumes" => continue,
            quotas if quotas.starts_with("/os-quota-sets") => 403,
            _ => 404,
        };
        refused(&ask(two, &write).await?, status, &format!("{write:?}"));
    }
    reader.get(&one.volume(&path)).await?.expect(200)?;
    for path in [path.clone(), format!("{path}/metadata")] {
        refused(&two.get(&two.volume(&path)).await?, 404, &path);
    }
    let listed = two.get(&two.volume("/volumes")).await?.expect(200)?;
    assert_eq!(listed["volumes"], json!([]));
    let everybodys = two.volume("/volumes?all_tenants=1");
    assert_eq!(
        two.get(&everybodys).await?.expect(200)?["volumes"],
        json!([])
    );
    // The project in the path must be the token's.
    for write in writes(id, &one.project) {
        let (method, path, body) = write;
        let path = format!("/{}{path}", one.project);
        let answer = ask(two, &(method, path.clone(), body)).await?;
        refused(&answer, 400, &path);
    }
    refused(
        &two.get(&two.volume("/os-services")).await?,
        403,
        "services",
    );
    assert_eq!(everything(one).await?, before);
    Ok(())
}

async fn bad_input(one: &Client, id: &str) -> anyhow::Result<()> {
    let before = everything(one).await?;
    let full: serde_json::Map<_, _> = (0..128)
        .map(|n| (format!("{n:0>255}"), json!("雲".repeat(255))))
        .collect();
    for volume in [
        json!(null),
        json!({}),
        json!([]),
        json!({ "size": 0 }),
        json!({ "size": -1 }),
        json!({ "size": "many" }),
        json!({ "size": 1.5 }),
        json!({ "size": 1_u64 << 40 }),
        json!({ "size": 1, "name": 7 }),
        json!({ "size": 1, "name": "x".repeat(256) }),
        json!({ "size": 1, "name": "a\u{0}b" }),
        json!({ "size": 1, "description": "x".repeat(256) }),
        json!({ "size": 1, "description": "a\u{7}b" }),
        json!({ "size": 1, "colour": "red" }),
        json!({ "size": 1, "status": 1 }),
        json!({ "size": 1, "user_id": {} }),
        json!({ "size": 1, "multiattach": "yes" }),
        json!({ "size": 1, "multiattach": true }),
        json!({ "size": 1, "imageRef": UNKNOWN }),
        json!({ "size": 1, "snapshot_id": UNKNOWN }),
        json!({ "size": 1, "availability_zone": "mars" }),
        json!({ "size": 1, "metadata": { "a": 1 } }),
        json!({ "size": 1, "metadata": { "": "b" } }),
        json!({ "size": 1, "metadata": { "a": "x".repeat(256) } }),
        json!({ "size": 1, "metadata": full }),
    ] {
        let shown = format!("{volume:.200}");
        let body = json!({ "volume": volume });
        refused(&one.post(&one.volume("/volumes"), body).await?, 400, &shown);
    }
    for hints in [json!({ "same_host": UNKNOWN }), json!([]), json!("x")] {
        let body = json!({ "volume": { "size": 1 }, "OS-SCH-HNT:scheduler_hints": hints });
        let answer = one.post(&one.volume("/volumes"), body).await?;
        refused(&answer, 400, "hints");
    }
    let unknown_type = json!({ "volume": { "size": 1, "volume_type": "gold" } });
    let answer = one.post(&one.volume("/volumes"), unknown_type).await?;
    refused(&answer, 404, "type");
    for (body, status) in bad_bodies("volume") {
        for (method, path) in [
            (Method::POST, "/volumes".to_owned()),
            (Method::PUT, format!("/volumes/{id}")),
            (Method::POST, format!("/volumes/{id}/metadata")),
        ] {
            let answer = send(one, method, &one.volume(&path), body.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            refused(&answer, status, &format!("{path} {shown}"));
        }
    }
    for change in [
        json!({ "name": 7 }),
        json!({ "name": "x".repeat(256) }),
        json!({ "description": "a\u{0}b" }),
        json!({ "size": 2 }),
        json!({ "metadata": [] }),
    ] {
        let write = (
            Method::PUT,
            format!("/volumes/{id}"),
            json!({ "volume": change }),
        );
        refused(&ask(one, &write).await?, 400, &format!("{write:?}"));
    }
    for wrong in ["x", "%00", "%ff", "..%2f..", UNKNOWN] {
        for write in writes(wrong, &one.project) {
            if write.1.contains(wrong) {
                refused(&ask(one, &write).await?, 404, &format!("{write:?}"));
            }
        }
        for path in [format!("/volumes/{wrong}"), format!("/types/{wrong}")] {
            refused(&one.get(&one.volume(&path)).await?, 404, &path);
        }
    }
    for query in [
        "marker=x",
        "marker=77777777-7777-4777-8777-777777777777",
        "limit=x",
        "limit=-1",
        "sort_key=colour",
        "sort=name:up",
        "all_tenants=perhaps",
        "name=%ff",
    ] {
        for listing in ["/volumes", "/volumes/detail"] {
            let answer = one.get(&one.volume(&format!("{listing}?{query}"))).await?;
            refused(&answer, 400, query);
        }
    }
    for (action, status) in [(json!({}), 400), (json!({ "fly": null }), 400)] {
        let url = one.volume(&format!("/volumes/{id}/action"));
        refused(&one.post(&url, action).await?, status, "action");
    }
    assert_eq!(everything(one).await?, before);
    Ok(())
}

async fn over_quota(admin: &Client, one: &Client) -> anyhow::Result<()> {
    let path = format!("/os-quota-sets/{}", one.project);
    for (limits, size) in [
        (json!({ "volumes": 1, "gigabytes": 100 }), 1),
        (json!({ "volumes": 10, "gigabytes": 3 }), 3),
    ] {
        let body = json!({ "quota_set": limits });
        admin
            .request(Method::PUT, &admin.volume(&path), Some(body))
            .await?
            .expect(200)?;
        let before = everything(one).await?;
        let body = json!({ "volume": { "size": size } });
        let answer = one.post(&one.volume("/volumes"), body).await?;
        refused(&answer, 413, "over quota");
        assert_eq!(everything(one).await?, before);
    }
    for bad in [
        json!({ "quota_set": { "volumes": -2 } }),
        json!({ "quota_set": { "volumes": "x" } }),
        json!({ "quota_set": { "wishes": 3 } }),
        json!({ "quota_set": {} }),
        json!({}),
    ] {
        let answer = admin
            .request(Method::PUT, &admin.volume(&path), Some(bad.clone()))
            .await?;
        refused(&answer, 400, &bad.to_string());
    }
    admin.delete(&admin.volume(&path)).await?.expect(200)?;
    Ok(())
}

/// A volume of a server stays while the server has it; a volume of another
/// project is none.
async fn in_use(cloud: &TestCloud, one: &Client, two: &Client, id: &str) -> anyhow::Result<()> {
    let foreign = make(two, "theirs").await?;
    let body = json!({ "server": {
        "name": "holder", "imageRef": cloud.image, "flavorRef": cloud.flavor,
        "networks": [{ "uuid": cloud.network }],
    }});
    let made = one
        .post(&one.compute("/servers"), body)
        .await?
        .expect(202)?;
    let server = made["server"]["id"].as_str().unwrap().to_owned();
    one.wait_for_status(&server, "ACTIVE").await?;
    let attachments = one.compute(&format!("/servers/{server}/os-volume_attachments"));
    let attach = |volume: &str| json!({ "volumeAttachment": { "volumeId": volume } });
    for volume in [foreign.as_str(), UNKNOWN] {
        refused(
            &one.post(&attachments, attach(volume)).await?,
            404,
            "attach a volume of another project",
        );
    }
    refused(
        &two.post(&attachments, attach(&foreign)).await?,
        404,
        "attach to a server of another project",
    );
    one.post(&attachments, attach(id)).await?.expect(200)?;
    reaches(one, id, "in-use").await?;
    let path = format!("/volumes/{id}");
    let answer = one.delete(&one.volume(&path)).await?;
    refused(&answer, 400, "delete what is in use");
    reaches(one, id, "in-use").await?;
    let again = one.post(&attachments, attach(id)).await?;
    refused(&again, 400, "attach what is attached");
    let listed = one.get(&attachments).await?.expect(200)?;
    assert_eq!(
        listed["volumeAttachments"].as_array().map(Vec::len),
        Some(1)
    );
    let detach = format!("{attachments}/{id}");
    refused(&two.delete(&detach).await?, 404, "detach another's");
    one.delete(&detach).await?.expect(202)?;
    reaches(one, id, "available").await?;
    one.remove_server(&server).await?;
    one.delete(&one.volume(&path)).await?.expect(202)?;
    for _ in 0..3000 {
        if one.get(&one.volume(&path)).await?.status == 404 {
            return Ok(());
        }
        let env = system_env();
        env.clock.sleep(std::time::Duration::from_millis(10)).await;
    }
    anyhow::bail!("the volume is never gone");
}
