//! The volume API's messages: why a volume is in error, told to those who may
//! see the volume.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::cloud::{Cloud, project};

const ONE: &str = "66666666-6666-4666-8666-000000000001";
const TWO: &str = "66666666-6666-4666-8666-000000000002";
const THREE: &str = "66666666-6666-4666-8666-000000000003";
const FOUR: &str = "66666666-6666-4666-8666-000000000004";
const FOREIGN: &str = "66666666-6666-4666-8666-000000000005";
const WELL: &str = "66666666-6666-4666-8666-000000000006";
const UNKNOWN: &str = "77777777-7777-4777-8777-777777777777";

struct Said {
    status: u16,
    /// The microversion that the answer is written in.
    version: String,
    body: Value,
}

impl Said {
    fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{} {}", self.status, self.body);
        Ok(self.body)
    }

    /// A refusal in the API's own shape; what it says.
    fn refused(self, status: u16, name: &str) -> Result<String> {
        let body = self.expect(status)?;
        ensure!(body[name]["code"] == status, "{body}");
        let message = body[name]["message"].as_str();
        Ok(message.context("no message")?.to_owned())
    }
}

/// Asks the volume API, at a microversion if one is named.
async fn ask(
    cloud: &Cloud,
    method: &str,
    token: &str,
    path: &str,
    version: Option<&str>,
) -> Result<Said> {
    let base = format!("http://{}", cloud.started.volume);
    // A link leads back by itself.
    let url = match path.strip_prefix(&base) {
        Some(rest) => format!("{base}{rest}"),
        None => format!("{base}/v3{path}"),
    };
    let mut request = reqwest::Client::new()
        .request(method.parse()?, url)
        .header("X-Auth-Token", token);
    if let Some(version) = version {
        request = request.header("OpenStack-API-Version", version);
    }
    let answer = request.send().await?;
    let version = answer.headers().get("openstack-api-version");
    Ok(Said {
        status: answer.status().as_u16(),
        version: version
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        body: answer.json().await.unwrap_or_default(),
    })
}

async fn get(cloud: &Cloud, token: &str, path: &str) -> Result<Said> {
    ask(cloud, "GET", token, path, Some("volume 3.3")).await
}

/// The ids of a list's page, and the link to the next one.
async fn ids(cloud: &Cloud, token: &str, path: &str) -> Result<(Vec<String>, Option<String>)> {
    let body = get(cloud, token, path).await?.expect(200)?;
    let listed = body["messages"].as_array().context("no list")?;
    let ids = listed
        .iter()
        .map(|it| Ok(it["id"].as_str().context("no id")?.to_owned()))
        .collect::<Result<Vec<String>>>()?;
    let next = body["messages_links"][0]["href"].as_str();
    Ok((ids, next.map(str::to_owned)))
}

/// A cloud with volumes of the first project in error, newest last, one of the
/// second project, and one that is well.
async fn world() -> Cloud {
    let cloud = Cloud::start().await;
    let (own, other) = (project(1).to_string(), project(2).to_string());
    cloud.volumes.add_failed(TWO, &own, "error", 10);
    cloud.volumes.add_failed(ONE, &own, "error_deleting", 20);
    cloud.volumes.add_failed(FOUR, &own, "error", 30);
    cloud.volumes.add_failed(THREE, &own, "error_deleting", 40);
    cloud.volumes.add_failed(FOREIGN, &other, "error", 50);
    cloud.volumes.add(WELL, &own);
    cloud
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_says_why_a_volume_is_in_error_until_it_is_not() -> Result<()> {
    let cloud = world().await;
    let base = format!("http://{}", cloud.started.volume);
    let own = project(1).simple();
    let expected = json!({
        "id": TWO,
        "event_id": "VOLUME_VOLUME_ERROR",
        "message_level": "ERROR",
        "resource_type": "VOLUME",
        "resource_uuid": TWO,
        "user_message": format!("No room for {TWO}."),
        "request_id": null,
        "created_at": "1970-01-01T00:00:10.000001",
        "guaranteed_until": null,
        "links": [
            { "rel": "self", "href": format!("{base}/v3/{own}/messages/{TWO}") },
            { "rel": "bookmark", "href": format!("{base}/{own}/messages/{TWO}") },
        ],
    });
    for path in ["/messages".to_owned(), format!("/{own}/messages")] {
        let listed = get(&cloud, "member", &path).await?.expect(200)?;
        let listed = listed["messages"].as_array().context("no list")?;
        ensure!(listed.len() == 4, "{listed:?}");
        ensure!(listed.contains(&expected), "{listed:?}");
        let path = format!("{path}/{TWO}");
        let shown = get(&cloud, "member", &path).await?.expect(200)?;
        ensure!(shown["message"] == expected, "{shown}");
        // Where the command line client looks for it.
        ensure!(shown["messages"] == expected, "{shown}");
    }
    let path = format!("/messages/{ONE}");
    let shown = get(&cloud, "member", &path).await?.expect(200)?;
    let event = &shown["message"]["event_id"];
    ensure!(event == "VOLUME_VOLUME_ERROR_DELETING", "{shown}");

    cloud.volumes.set_status(ONE, "deleting");
    get(&cloud, "member", &path)
        .await?
        .refused(404, "itemNotFound")?;
    let (left, _) = ids(&cloud, "member", "/messages").await?;
    ensure!(left == [THREE, FOUR, TWO], "{left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_told_within_the_walls_of_a_project() -> Result<()> {
    let cloud = world().await;
    let (own, other) = (project(1).simple(), project(2).simple());
    let mine = [ONE, TWO, THREE, FOUR].map(str::to_owned).to_vec();
    let theirs = vec![FOREIGN.to_owned()];
    let all = [mine.clone(), theirs.clone()].concat();
    for (token, query, wanted) in [
        ("member", String::new(), &mine),
        ("reader", String::new(), &mine),
        ("stranger", String::new(), &theirs),
        ("member", "&all_tenants=1".into(), &mine),
        ("member", format!("&project_id={own}"), &mine),
        ("member", format!("&project_id={other}"), &Vec::new()),
        ("member", "&project_id=x".into(), &Vec::new()),
        ("stranger", format!("&resource_uuid={ONE}"), &Vec::new()),
        ("admin", String::new(), &all),
        ("admin", format!("&project_id={other}"), &theirs),
    ] {
        let (found, _) = ids(&cloud, token, &format!("/messages?sort=id:asc{query}")).await?;
        ensure!(found == *wanted, "{token} {query} {found:?}");
    }

    for (token, id, status) in [
        ("member", ONE, 200),
        ("reader", ONE, 200),
        ("admin", ONE, 200),
        ("admin", FOREIGN, 200),
        ("stranger", FOREIGN, 200),
    ] {
        let path = format!("/messages/{id}");
        get(&cloud, token, &path).await?.expect(status)?;
    }
    for (token, id) in [
        ("member", FOREIGN),
        ("reader", FOREIGN),
        ("stranger", ONE),
        // A volume that is not in error has no message.
        ("member", WELL),
        ("member", UNKNOWN),
        ("member", "x"),
        ("member", "%00"),
    ] {
        let path = format!("/messages/{id}");
        let said = get(&cloud, token, &path).await?;
        let said = said.refused(404, "itemNotFound")?;
        let id = id.replace("%00", "\0");
        ensure!(
            said == format!("Message {id} could not be found."),
            "{said}"
        );
    }
    for path in ["/messages".to_owned(), format!("/messages/{ONE}")] {
        get(&cloud, "nobody", &path)
            .await?
            .refused(403, "forbidden")?;
        let elsewhere = format!("/{other}{path}");
        get(&cloud, "member", &elsewhere)
            .await?
            .refused(400, "badRequest")?;
        // A reason goes with its volume, and not before it.
        for token in ["member", "admin"] {
            let said = ask(&cloud, "DELETE", token, &path, Some("volume 3.3")).await?;
            said.refused(405, "badMethod")?;
        }
    }
    ensure!(cloud.volumes.get(ONE).status == "error_deleting");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_messages_are_filtered_and_refuse_what_makes_no_sense() -> Result<()> {
    let cloud = world().await;
    let four = || vec![THREE, FOUR, ONE, TWO];
    for (query, wanted) in [
        ("", four()),
        ("?message_level=ERROR&resource_type=VOLUME", four()),
        ("?message_level=INFO", vec![]),
        ("?resource_type=VOLUME_SNAPSHOT", vec![]),
        ("?request_id=req-1", vec![]),
        ("?event_id=VOLUME_VOLUME_ERROR", vec![FOUR, TWO]),
        ("?event_id=VOLUME_VOLUME_ERROR_DELETING", vec![THREE, ONE]),
        ("?event_id=VOLUME_VOLUME_001_002", vec![]),
        (format!("?resource_uuid={FOUR}").as_str(), vec![FOUR]),
        (format!("?resource_uuid={WELL}").as_str(), vec![]),
        ("?resource_uuid=x", vec![]),
        ("?limit=0", vec![]),
        ("?sort=id:desc", vec![FOUR, THREE, TWO, ONE]),
        ("?sort_key=id&sort_dir=asc", vec![ONE, TWO, THREE, FOUR]),
    ] {
        let (found, next) = ids(&cloud, "member", &format!("/messages{query}")).await?;
        ensure!(found == wanted, "{query} {found:?}");
        ensure!(next.is_none(), "{query} {next:?}");
    }
    for query in [
        "limit=x",
        "limit=-1",
        "marker=x",
        format!("marker={UNKNOWN}").as_str(),
        format!("marker={FOREIGN}").as_str(),
        "sort=colour",
        "sort=id:up",
        "sort=id,user_message",
        "sort_key=created_at",
        "project_id=%ff",
    ] {
        let said = get(&cloud, "member", &format!("/messages?{query}")).await?;
        said.refused(400, "badRequest").context(query.to_owned())?;
    }
    get(&cloud, "admin", "/messages?project_id=x")
        .await?
        .refused(400, "badRequest")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_messages_have_each_of_them_once_and_in_order() -> Result<()> {
    let cloud = world().await;
    for (holds, limit, sort, wanted) in [
        (0, 1, "", [THREE, FOUR, ONE, TWO]),
        (0, 3, "", [THREE, FOUR, ONE, TWO]),
        (0, 2, "&sort=id:asc", [ONE, TWO, THREE, FOUR]),
        // Replies that end early: what comes behind their end waits.
        (1, 1000, "", [THREE, FOUR, ONE, TWO]),
        (1, 2, "&sort=id:desc", [FOUR, THREE, TWO, ONE]),
    ] {
        cloud.volumes.reply_holds.store(holds, Ordering::SeqCst);
        let mut seen = Vec::new();
        let mut path = Some(format!("/messages?limit={limit}{sort}"));
        while let Some(asked) = path {
            ensure!(seen.len() <= wanted.len(), "{seen:?}");
            let (found, next) = ids(&cloud, "member", &asked).await?;
            ensure!(
                !found.is_empty() && found.len() <= limit,
                "{asked} {found:?}"
            );
            seen.extend(found);
            path = next;
        }
        ensure!(seen == wanted, "{holds} {limit} {sort} {seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn microversions_reach_from_3_0_to_3_3() -> Result<()> {
    let cloud = world().await;
    let shown = ask(&cloud, "GET", "member", "", None).await?.expect(200)?;
    let own = &shown["versions"][0];
    ensure!(
        own["min_version"] == "3.0" && own["version"] == "3.3",
        "{own}"
    );
    for (wanted, status, version) in [
        (None, 200, "volume 3.0"),
        (Some("volume 3.0"), 200, "volume 3.0"),
        (Some("volume 3.3"), 200, "volume 3.3"),
        (Some("volume latest"), 200, "volume 3.3"),
        (Some("compute 2.96"), 200, "volume 3.0"),
        (Some("volume 3.4"), 406, "volume 3.0"),
        (Some("volume two"), 400, "volume 3.0"),
    ] {
        let said = ask(&cloud, "GET", "member", "/messages", wanted).await?;
        ensure!(said.status == status, "{wanted:?} {}", said.body);
        ensure!(said.version == version, "{wanted:?} {}", said.version);
    }

    // The one filter that they read in different ways.
    for (version, asked, wanted) in [
        ("volume 3.1", "false", Some(5)),
        ("volume 3.1", "perhaps", Some(0)),
        ("volume 3.2", "0", Some(5)),
        ("volume 3.2", "True", Some(0)),
        ("volume 3.2", "perhaps", None),
    ] {
        for listing in ["/volumes", "/volumes/detail"] {
            let path = format!("{listing}?bootable={asked}");
            let said = ask(&cloud, "GET", "member", &path, Some(version)).await?;
            let Some(wanted) = wanted else {
                said.refused(400, "badRequest")?;
                continue;
            };
            let found = said.expect(200)?;
            let found = found["volumes"].as_array().map(Vec::len);
            ensure!(found == Some(wanted), "{version} {path} {found:?}");
        }
    }
    Ok(())
}
