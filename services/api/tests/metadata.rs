//! The metadata service over HTTP: signed, or nothing.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use yakumo_service::Secret;

use crate::cloud::{Cloud, project};

fn sign(secret: &str, server: &str, project: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{server}\n{project}").as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_signed_is_answered() {
    let cloud = Cloud::with_config(1, |config| {
        config.metadata_secret = Some(Secret::new("shared"));
    })
    .await;
    let id = cloud.running("web").await;
    let base = format!("http://{}", cloud.started.metadata.unwrap());
    let own = project(1).to_string();
    let foreign = project(2).to_string();
    let ask = async |path: &str, project: &str, signature: &str| {
        let answer = reqwest::Client::new()
            .get(format!("{base}{path}"))
            .header("X-Instance-ID", &id)
            .header("X-Tenant-ID", project)
            .header("X-Instance-ID-Signature", signature)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let good = sign("shared", &id, &own);
    let (status, body) = ask("/2009-04-04/meta-data/hostname", &own, &good).await;
    assert_eq!((status, body.as_str()), (200, "web"));
    let (status, body) = ask("/", &own, &good).await;
    assert!(status == 200 && body.ends_with("latest"), "{status} {body}");
    let (status, body) = ask("/openstack/latest/meta_data.json", &own, &good).await;
    assert!(status == 200 && body.contains(&id), "{status} {body}");
    for (path, project, signature, wanted) in [
        (
            "/latest/meta-data/nothing",
            own.as_str(),
            good.as_str(),
            404,
        ),
        ("/latest/meta-data", &own, &sign("guess", &id, &own), 403),
        ("/latest/meta-data", &own, "zz", 403),
        ("/latest/meta-data", &foreign, &good, 403),
        // Signed rightly for a project that the server is not of.
        (
            "/latest/meta-data",
            &foreign,
            &sign("shared", &id, &foreign),
            404,
        ),
    ] {
        assert_eq!(ask(path, project, signature).await.0, wanted, "{path}");
    }
    let bare = reqwest::get(format!("{base}/latest/meta-data"))
        .await
        .unwrap();
    assert_eq!(bare.status().as_u16(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_everybody_knows_is_refused() {
    let database = yakumo_testing::databases::fresh(yakumo_db::Backend::Sqlite)
        .await
        .unwrap();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let config = yakumo_api::Config {
        database: database.config.clone(),
        compute_listen: any_port,
        network_listen: any_port,
        volume_listen: any_port,
        metadata_listen: any_port,
        metadata_secret: Some(Secret::default()),
        ..yakumo_api::Config::default()
    };
    let process = yakumo_service::Process::new("api", yakumo_service::system_env());
    let error = Cloud::start_alone(&process, config).await.unwrap_err();
    assert!(error.to_string().contains("metadata_secret"), "{error:#}");
    process.shutdown.cancel();
}
