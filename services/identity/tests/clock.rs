//! A clock that is put back under a running service.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use yakumo_testing::clock::WallClock;

use super::support::*;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_clock_that_is_put_back_locks_nobody_out_and_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let db = connect(&folder).await;
    let (clock, env) = WallClock::env();
    let config = config();
    let lifetime = Duration::from_secs(config.token_lifetime_seconds);
    let world = world_by(env, db, folder, config).await;
    let verifier = world.verifier().await;
    let (user, _, before) = world.person("ann", "member").await;
    let admin = world.admin().await;
    let project = json!({"project": {"name": "once"}});
    let make = async || {
        let key = [("Idempotency-Key", "8e03978e-40d5-43dd-bc93-6894a57f9324")];
        let (path, token) = ("/v3/projects", Some(admin.as_str()));
        world
            .send_with(Method::POST, path, token, Some(&project), &key)
            .await
    };
    let made = make().await;
    assert_eq!(made.status, 201, "{}", made.body);

    // Far before everything that there is, its keys among it.
    clock.put_back(HOUR * 48);
    verifier.verify(&before).await.unwrap();
    let after = world.token("ann", "ann", "ann").await;
    verifier.verify(&after).await.unwrap();
    // What was made once is not made again.
    assert_eq!(make().await.body, made.body);

    // What is taken back is taken back, whatever the clock says.
    let change = json!({"user": {"password": "another one"}});
    let changed = world
        .patch(&format!("/v3/users/{user}"), &admin, change)
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    for old in [&before, &after] {
        let shown = world
            .send_with(
                Method::GET,
                "/v3/auth/tokens",
                Some(&admin),
                None,
                &[("x-subject-token", old)],
            )
            .await;
        assert_eq!(shown.status, 404, "{}", shown.body);
    }
    let newest = world.token("ann", "another one", "ann").await;
    verifier.verify(&newest).await.unwrap();

    // Back in the present, a token of the past is an old one.
    clock.put_back(Duration::ZERO);
    assert!(verifier.verify(&newest).await.is_err());
    let present = world.token("ann", "another one", "ann").await;
    verifier.verify(&present).await.unwrap();
    clock.put_forward(lifetime + HOUR);
    assert!(verifier.verify(&present).await.is_err());
    world.token("ann", "another one", "ann").await;
    assert!(world.process.drain(Duration::from_secs(20)).await);
}
