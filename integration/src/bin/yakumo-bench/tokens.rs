//! Tokens: made and validated over HTTP, and verified within a process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use yakumo_auth::{SigningKey, TokenClaims, TokenVerifier, VerificationSource, VerifierConfig};
use yakumo_contracts::identity::{VerificationKey, VerificationState, VerificationStateRequest};
use yakumo_integration::client::{Api, Client};
use yakumo_integration::config::ADMIN_PASSWORD;
use yakumo_service::{Process, system_env};
use yakumo_types::{DomainId, Fault, UserId};

use crate::report::{Report, count, millis, percentile};
use crate::setup;
use crate::usage::Cpu;

const REPETITIONS: usize = 3;
const CONCURRENCY: usize = 16;

struct Known(VerificationState);

#[async_trait]
impl VerificationSource for Known {
    async fn verification_state(
        &self,
        _: VerificationStateRequest,
    ) -> Result<VerificationState, Fault> {
        Ok(self.0.clone())
    }
}

/// The loop that every service has: no network, no database.
async fn within(report: &mut Report) -> Result<()> {
    let env = system_env();
    let process = Process::new("bench", env.clone());
    let key = SigningKey::generate(&env)?;
    let source = Known(VerificationState {
        log_id: "log".into(),
        revision: 1,
        keys: vec![VerificationKey {
            id: key.id().into(),
            public_key: key.verifying_key().as_bytes().to_vec(),
        }],
        ..VerificationState::default()
    });
    let verifier = TokenVerifier::start_with(&process, Arc::new(source), VerifierConfig::default());
    verifier.refresh().await?;
    let now = env.clock.now().as_secs();
    let claims = |number: usize| TokenClaims {
        iss: "yakumo".into(),
        sub: UserId::from_uuid(env.rng.uuid()),
        jti: format!("token-{number}"),
        iat: now,
        exp: now + 3600,
        rev: 1,
        user_name: "alice".into(),
        user_domain_id: DomainId::from_uuid(env.rng.uuid()),
        methods: vec!["password".into()],
        parent: None,
        project: None,
        domain_id: None,
        system: true,
        roles: vec!["member".into(), "reader".into()],
    };
    for repetition in 0..REPETITIONS {
        let tokens = (0..5_000)
            .map(|number| key.sign(&claims(repetition * 5_000 + number)))
            .collect::<Result<Vec<_>, _>>()?;
        for name in ["seen for the first time", "known"] {
            let begun = Instant::now();
            for token in &tokens {
                verifier.verify(token).await?;
            }
            report.add(
                &format!("token verified in a service, {name}, one thread"),
                "1/s",
                "> 20,000",
                count(tokens.len()) / begun.elapsed().as_secs_f64(),
            );
        }
    }
    process.drain(Duration::from_secs(1)).await;
    Ok(())
}

/// A connection of one's own to the identity API, and the request that a
/// service sends to have a token validated. As light as can be: the client
/// shares the machine with what is measured.
struct Validator {
    sender: http1::SendRequest<Empty<Bytes>>,
    request: hyper::Request<Empty<Bytes>>,
}

impl Validator {
    async fn connect(url: &str, token: &str) -> Result<Self> {
        let request = hyper::Request::get(url)
            .header("X-Auth-Token", token)
            .header("X-Subject-Token", token)
            .body(Empty::new())?;
        let host = request.uri().authority().context("no host")?.to_string();
        let stream = tokio::net::TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut validator = Self { sender, request };
        validator
            .request
            .headers_mut()
            .insert(hyper::header::HOST, host.parse()?);
        Ok(validator)
    }

    async fn validate(&mut self) -> Result<()> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(self.request.clone()).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(!body.is_empty(), "an empty answer");
        Ok(())
    }
}

pub async fn run(report: &mut Report) -> Result<()> {
    within(report).await?;
    let cloud = setup::embedded().await?;
    let admin = cloud.admin().await?;
    let token = admin.token.clone().context("no token")?;
    let url = admin.url(Api::Identity, "/auth/tokens");
    let anonymous = Client::anonymous(&cloud.ports)?;
    for _ in 0..REPETITIONS {
        for (what, aim, number) in [
            ("token validated over HTTP", "> 20,000", 60_000),
            ("token issued by password", "", 300),
        ] {
            let next = AtomicUsize::new(0);
            let cpu = Cpu::now()?;
            let begun = Instant::now();
            let worker = async || -> Result<Vec<Duration>> {
                let mut validator = Validator::connect(&url, &token).await?;
                let mut took = Vec::new();
                while next.fetch_add(1, Ordering::Relaxed) < number {
                    let asked = Instant::now();
                    if what == "token issued by password" {
                        anonymous
                            .log_in("admin", ADMIN_PASSWORD, Some("admin"))
                            .await?;
                    } else {
                        validator.validate().await?;
                    }
                    took.push(asked.elapsed());
                }
                Ok(took)
            };
            let all = futures::future::try_join_all((0..CONCURRENCY).map(|_| worker())).await?;
            let mut took: Vec<_> = all.into_iter().flatten().collect();
            let total = count(took.len());
            report.add(what, "1/s", aim, total / begun.elapsed().as_secs_f64());
            report.add(
                &format!("{what}, p50"),
                "ms",
                "",
                millis(percentile(&mut took, 0.5)),
            );
            report.add(
                &format!("{what}, CPU"),
                "ms",
                "",
                cpu.since()?.cloud * 1e3 / total,
            );
        }
    }
    cloud.done().await
}
