//! Hosts that join by a token, and hosts that leave.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use yakumo_contracts::api::{
    AddHostTokenRequest, HostAdminClient, HostFacts, HostReportsClient, RegisterHostRequest,
    RemoveHostRequest,
};
use yakumo_rpc::{Target, broker_user_for_host};
use yakumo_types::{Fault, FaultCode, RequestContext};

use crate::cloud::{Answer, Cloud, tokens, wait_for};
use crate::fake_management::FakeManagement;

const SECRET: &str = "5ec2e7";

fn secret(number: u8) -> String {
    format!("{SECRET}{}", format!("{number:02x}").repeat(29))
}

fn token_id(number: u8) -> String {
    format!("{number:02x}").repeat(8)
}

fn token(number: u8) -> String {
    format!("ykj-{}-{}", token_id(number), secret(number))
}

async fn joinable() -> (Cloud, Arc<FakeManagement>) {
    let management = FakeManagement::serve().await;
    let join = management.join_config();
    let cloud = Cloud::with_config(1, |config| {
        config.join = Some(join);
        config.host_silence_seconds = 600;
    })
    .await;
    (cloud, management)
}

impl Cloud {
    fn host_admin(&self) -> HostAdminClient {
        HostAdminClient::new(self.bus.clone(), Target::service("api"))
    }

    async fn add_token(&self, number: u8, host: &str, seconds: u64) -> Result<(), Fault> {
        let request = AddHostTokenRequest {
            host: host.into(),
            token_id: token_id(number),
            secret_hash: hex::encode(Sha256::digest(secret(number))),
            lifetime_seconds: seconds,
        };
        let context = RequestContext::internal(self.env.id());
        self.host_admin().add_host_token(&context, request).await?;
        Ok(())
    }

    async fn join(&self, token: &str, host: &str, host_id: &str) -> Answer {
        let body = json!({ "token": token, "host": host, "host_id": host_id });
        self.request(
            "POST",
            "//yakumo/v1/join",
            None,
            Some(body.to_string().into()),
        )
        .await
    }

    async fn register(&self, host: &str, host_id: &str) -> Result<(), Fault> {
        let client = HostReportsClient::new(self.bus.as_host(host), Target::service("api"));
        let facts = HostFacts {
            host: host.into(),
            host_id: host_id.into(),
            ..HostFacts::default()
        };
        let request = RegisterHostRequest { facts: Some(facts) };
        let context = RequestContext::host(self.env.id());
        client.register(&context, request).await.map(drop)
    }

    async fn remove_host(&self, host: &str) -> Result<bool, Fault> {
        let context = RequestContext::internal(self.env.id());
        let request = RemoveHostRequest { host: host.into() };
        let reply = self.host_admin().remove_host(&context, request).await?;
        Ok(reply.was_known)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_one_host_in_until_it_has_registered() {
    let (cloud, management) = joinable().await;
    let (own, other) = (
        cloud.env.rng.uuid().to_string(),
        cloud.env.rng.uuid().to_string(),
    );
    cloud.add_token(1, "node-9", 600).await.unwrap();

    // What is no token says the same, whichever part of it is wrong.
    let wrong_secret = format!("ykj-{}-{}", token_id(1), secret(2));
    let mut said = Vec::new();
    for wrong in ["", "ykj-x", &wrong_secret, &token(3)] {
        let refused = cloud.join(wrong, "node-9", &own).await;
        said.push(refused.refused(401, "error"));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
    let message = cloud.join(&token(1), "node-8", &own).await;
    let message = message.refused(403, "forbidden");
    assert!(message.contains("for the host node-9"), "{message}");
    let bad = cloud.join(&token(1), "node 9", &own).await;
    bad.refused(400, "badRequest");
    cloud
        .join(&token(1), "node-9", "no id")
        .await
        .refused(400, "badRequest");
    assert!(management.take().is_empty(), "nobody was let in");

    let welcome = cloud.join(&token(1), "node-9", &own).await;
    assert_eq!(welcome.headers["cache-control"], "no-store");
    let welcome = welcome.expect(200)["host"].clone();
    assert_eq!(welcome["name"], "node-9");
    assert_eq!(welcome["bus"]["ca"], "a certificate");
    assert_eq!(welcome["bus"]["context_public_keys"], json!(["a key"]));
    let password = made_user(&management, "node-9");
    assert_eq!(password.len(), 64);
    assert_eq!(
        welcome["bus"]["url"],
        format!("amqp://host.node-9:{password}@rabbit:5672/%2f")
    );

    // The answer may have got lost: the same host is let in again.
    cloud.join(&token(1), "node-9", &own).await.expect(200);
    assert_ne!(made_user(&management, "node-9"), password);
    let message = cloud.join(&token(1), "node-9", &other).await;
    let message = message.refused(409, "conflictingRequest");
    assert!(message.contains("was used already"), "{message}");

    cloud.register("node-9", &own).await.unwrap();
    let message = cloud.join(&token(1), "node-9", &own).await;
    message.refused(409, "conflictingRequest");
    // Its owner may have forgotten the password: a new token for the same one.
    cloud.add_token(4, "node-9", 600).await.unwrap();
    cloud.join(&token(4), "node-9", &own).await.expect(200);
    // Not for another one, whose token is not lost by that.
    cloud.add_token(5, "node-9", 600).await.unwrap();
    for _ in 0..2 {
        let message = cloud.join(&token(5), "node-9", &other).await;
        let message = message.refused(409, "conflictingRequest");
        assert!(message.contains("must be removed"), "{message}");
    }
}

/// The password that a host's user was made with; its rights are those of a
/// host and nothing else was asked.
fn made_user(management: &FakeManagement, host: &str) -> String {
    let asked = management.take();
    let user = broker_user_for_host(host, "/").unwrap();
    let mut wanted = vec![
        (format!("PUT /api/users/host.{host}"), Value::Null),
        (
            format!("PUT /api/permissions/%2F/host.{host}"),
            json!({
                "configure": user.rights.configure,
                "write": user.rights.write,
                "read": user.rights.read,
            }),
        ),
    ];
    for topic in &user.rights.topics {
        let rights = json!({
            "exchange": topic.exchange, "write": topic.write, "read": topic.read,
        });
        let path = format!("PUT /api/topic-permissions/%2F/host.{host}");
        wanted.push((path, rights));
    }
    let password = asked[0].body["password"].as_str().unwrap().to_owned();
    wanted[0].1 = json!({ "password": password, "tags": "" });
    let asked: Vec<_> = asked.into_iter().map(|it| (it.what, it.body)).collect();
    assert_eq!(asked, wanted);
    password
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_runs_out_and_is_good_until_its_host_was_let_in() {
    let (cloud, management) = joinable().await;
    let own = cloud.env.rng.uuid().to_string();
    cloud.add_token(1, "node-9", 600).await.unwrap();
    for _ in 0..2 {
        management.troubles.store(1, Ordering::SeqCst);
        let away = cloud.join(&token(1), "node-9", &own).await;
        assert_eq!(away.headers["retry-after"], "5");
        let message = away.refused(503, "serviceUnavailable");
        assert!(message.contains("stays good"), "{message}");
    }
    cloud.join(&token(1), "node-9", &own).await.expect(200);

    cloud.add_token(2, "node-8", 1).await.unwrap();
    let over = wait_for(async || cloud.join(&token(2), "node-8", &own).await.status == 403).await;
    assert!(over);
    let message = cloud.join(&token(2), "node-8", &own).await;
    let message = message.refused(403, "forbidden");
    assert!(message.contains("has run out"), "{message}");

    for (host, seconds) in [("node 7", 600), ("node-7", 0), ("node-7", 604_801)] {
        let fault = cloud.add_token(3, host, seconds).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Invalid, "{fault}");
    }
    assert_eq!(
        cloud.add_token(2, "node-7", 600).await.unwrap_err().code,
        FaultCode::Conflict
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_make_tokens_and_remove_hosts() {
    let (cloud, _management) = joinable().await;
    let request = AddHostTokenRequest {
        host: "node-9".into(),
        ..AddHostTokenRequest::default()
    };
    let remove = || RemoveHostRequest {
        host: "node-1".into(),
    };
    let host = HostAdminClient::new(cloud.bus.as_host("node-1"), Target::service("api"));
    let as_host = RequestContext::host(cloud.env.id());
    let member = &tokens()["member"];
    for (client, context) in [(host, &as_host), (cloud.host_admin(), member)] {
        let fault = client.add_host_token(context, request.clone()).await;
        assert_eq!(fault.unwrap_err().code, FaultCode::Forbidden);
        let fault = client.remove_host(context, remove()).await;
        assert_eq!(fault.unwrap_err().code, FaultCode::Forbidden);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_broker_nobody_can_join() {
    let cloud = Cloud::start().await;
    let fault = cloud.add_token(1, "node-9", 600).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    assert!(fault.message.contains("[bus.management]"), "{fault}");
    let own = cloud.env.rng.uuid().to_string();
    let message = cloud.join(&token(1), "node-9", &own).await;
    message.refused(409, "conflictingRequest");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_tokens_nor_passwords_are_logged() {
    let log = Log::default();
    let writer = log.clone();
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish(),
    );
    let (cloud, management) = joinable().await;
    let own = cloud.env.rng.uuid().to_string();
    cloud.add_token(1, "node-9", 600).await.unwrap();
    // Another test may have come by first, without a log.
    let heard = tracing::callsite::rebuild_interest_cache;
    heard();
    cloud.join(&token(2), "node-9", &own).await;
    management.troubles.store(1, Ordering::SeqCst);
    heard();
    cloud.join(&token(1), "node-9", &own).await;
    management.take();
    heard();
    cloud.join(&token(1), "node-9", &own).await.expect(200);
    let password = made_user(&management, "node-9");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a host was let in"), "{log}");
    assert!(log.contains("a host was not let in"), "{log}");
    // What the test itself sends is logged by its own client.
    let own_lines = |line: &&str| !line.contains("hyper") && !line.contains("reqwest");
    for line in log.lines().filter(own_lines) {
        assert!(!line.contains(SECRET), "{line}");
        assert!(!line.contains(&password), "{line}");
        assert!(!line.contains("the broker's own"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_leaves_when_nothing_is_on_it_and_comes_back_as_another_one() {
    let (cloud, management) = joinable().await;
    let id = cloud.running("web").await;
    let disable = json!({ "host": "node-1", "binary": "nova-compute" });
    let beat = async || cloud.hosts[0].register().await.unwrap();

    beat().await;
    let fault = cloud.remove_host("node-1").await.unwrap_err();
    assert!(fault.message.contains("is alive"), "{fault}");
    cloud
        .put_as("admin", "/os-services/disable", disable)
        .await
        .expect(200);
    let fault = cloud.remove_host("node-1").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    assert!(fault.message.contains("still has servers: 1"), "{fault}");
    assert!(fault.message.contains(&id), "{fault}");
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;

    // Another service may refuse, too, and then nothing is changed.
    for trouble in [&cloud.volumes.trouble, &cloud.network.trouble] {
        trouble.fail("forget_host", Fault::conflict("It has volumes."), 1);
        let fault = cloud.remove_host("node-1").await.unwrap_err();
        assert_eq!(fault.message, "It has volumes.");
    }
    assert!(management.take().is_empty());
    cloud.add_token(1, "node-1", 600).await.unwrap();

    // Up, but out of service; and once more, as after a crash half way.
    beat().await;
    management.troubles.store(1, Ordering::SeqCst);
    let fault = cloud.remove_host("node-1").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable);
    management.take();
    assert!(cloud.remove_host("node-1").await.unwrap());
    let asked: Vec<String> = management.take().into_iter().map(|it| it.what).collect();
    assert_eq!(
        asked,
        [
            "DELETE /api/users/host.node-1",
            "DELETE /api/queues/%2F/host.node-1"
        ]
    );
    assert_eq!(*cloud.network.forgotten.lock().unwrap(), ["node-1"]);
    assert_eq!(*cloud.volumes.forgotten.lock().unwrap(), ["node-1"]);
    let told = wait_for(async || {
        let told = cloud.scheduler.told.lock().unwrap();
        told.get("node-1").is_some_and(|change| change.removed)
    })
    .await;
    assert!(told);
    let listed = cloud.get_as("admin", "/os-services").await.expect(200);
    assert_eq!(listed["services"], json!([]));
    // Tokens for it went, too.
    let anew = cloud.env.rng.uuid().to_string();
    let gone = cloud.join(&token(1), "node-1", &anew).await;
    gone.refused(401, "error");
    assert!(!cloud.remove_host("node-1").await.unwrap());
    assert!(!cloud.remove_host("nowhere").await.unwrap());
    let fault = cloud.remove_host("no where").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Invalid);

    cloud.add_token(2, "node-1", 600).await.unwrap();
    cloud.join(&token(2), "node-1", &anew).await.expect(200);
    cloud.register("node-1", &anew).await.unwrap();
}
