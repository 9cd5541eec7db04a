//! Key pairs.

use serde_json::json;

use crate::cloud::Cloud;

const PUBLIC: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ me";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_once_and_its_private_half_never_shown_again() {
    let cloud = Cloud::start().await;
    let made = cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "new" } }))
        .await
        .expect(200);
    let private = made["keypair"]["private_key"].as_str().unwrap();
    assert!(private.contains("PRIVATE KEY"));
    let shown = cloud.get("/os-keypairs/new").await.expect(200);
    assert!(shown["keypair"].get("private_key").is_none());
    assert_eq!(
        shown["keypair"]["fingerprint"],
        made["keypair"]["fingerprint"]
    );
    cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "new" } }))
        .await
        .refused(409, "conflictingRequest");
    // Keys are a user's, not a project's.
    cloud
        .get_as("reader", "/os-keypairs/new")
        .await
        .refused(404, "itemNotFound");
    cloud.delete("/os-keypairs/new").await.expect(202);
    cloud
        .delete("/os-keypairs/new")
        .await
        .refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_keys_begins_after_one_that_is_there() {
    let cloud = Cloud::start().await;
    for name in ["a", "c"] {
        let body = json!({ "keypair": { "name": name, "public_key": PUBLIC } });
        cloud.post("/os-keypairs", body).await.expect(200);
    }
    let rest = cloud.get("/os-keypairs?marker=a").await.expect(200);
    assert_eq!(rest["keypairs"].as_array().unwrap().len(), 1);
    assert_eq!(rest["keypairs"][0]["keypair"]["name"], "c");
    for marker in ["b", "%00", "A"] {
        cloud
            .get(&format!("/os-keypairs?marker={marker}"))
            .await
            .refused(400, "badRequest");
    }
    // Somebody else's key is none.
    cloud
        .get_as("stranger", "/os-keypairs?marker=a")
        .await
        .refused(400, "badRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_imported_or_refused() {
    let cloud = Cloud::start().await;
    let imported = cloud
        .post(
            "/os-keypairs",
            json!({ "keypair": { "name": "mine", "public_key": PUBLIC } }),
        )
        .await
        .expect(200);
    assert_eq!(imported["keypair"]["public_key"], PUBLIC);
    assert!(imported["keypair"].get("private_key").is_none());
    for bad in [
        "",
        "ssh-rsa",
        "ssh-rsa AAAA",
        "not a key",
        "ssh-ed25519 \u{0}",
    ] {
        cloud
            .post(
                "/os-keypairs",
                json!({ "keypair": { "name": "bad", "public_key": bad } }),
            )
            .await
            .refused(400, "badRequest");
    }
    for name in ["", "a/b", "<x>"] {
        cloud
            .post("/os-keypairs", json!({ "keypair": { "name": name } }))
            .await
            .refused(400, "badRequest");
    }
    cloud
        .post_as(
            "reader",
            "/os-keypairs",
            json!({ "keypair": { "name": "x" } }),
        )
        .await
        .refused(403, "forbidden");
    let listed = cloud.get("/os-keypairs").await.expect(200);
    assert_eq!(listed["keypairs"].as_array().unwrap().len(), 1);
    assert_eq!(listed["keypairs"][0]["keypair"]["name"], "mine");
}
