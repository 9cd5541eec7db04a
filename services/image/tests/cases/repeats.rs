//! `Idempotency-Key`: the same request twice makes one image.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, project};

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

async fn post(world: &World, token: &str, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let request = world
        .request(token, Method::POST, path)
        .header("Idempotency-Key", key)
        .json(body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

async fn count(world: &World) -> usize {
    let (_, page) = world.get("admin", "/v2/images").await;
    page["images"].as_array().unwrap().len()
}

#[tokio::test]
pub async fn an_image_is_made_once() {
    let world = World::configured(|config| config.quota_images = 1).await;
    let create = async |token: &str, key: &str, name: &str| {
        let body = json!({"name": name, "disk_format": "raw", "container_format": "bare"});
        post(&world, token, "/v2/images", key, &body).await
    };
    let (status, refused) = create("reader", KEY, "a").await;
    assert_eq!(status, 403, "{refused}");
    let (status, first) = create("member", KEY, "a").await;
    assert_eq!(status, 201, "{first}");
    let id = first["id"].as_str().unwrap();

    // It is told as it is now, although the project may have no more of them.
    let (status, body) = world.upload("member", id, b"data".to_vec()).await;
    assert_eq!(status, 204, "{body}");
    let (status, again) = create("member", KEY, "a").await;
    assert_eq!(status, 201, "{again}");
    assert_eq!(
        (&again["id"], &again["status"]),
        (&first["id"], &json!("active"))
    );
    assert_eq!(create("member", "new", "a").await.0, 413);

    let (status, other) = create("member", KEY, "b").await;
    assert_eq!(status, 422, "{other}");
    assert!(
        other["message"]
            .as_str()
            .unwrap()
            .contains("Idempotency-Key")
    );
    let (status, foreign) = create("other", KEY, "a").await;
    assert_eq!(status, 201, "{foreign}");
    assert_ne!(foreign["id"], first["id"]);
    for bad in ["", "two words"] {
        assert_eq!(create("member", bad, "a").await.0, 400);
    }

    // What was refused for the quota did not use its key.
    assert_eq!(
        world.delete("member", &format!("/v2/images/{id}")).await,
        204
    );
    let (status, gone) = create("member", KEY, "a").await;
    assert_eq!(status, 409, "{gone}");
    assert_eq!(count(&world).await, 1);
    assert_eq!(create("member", "new", "a").await.0, 201);
    assert_eq!(count(&world).await, 2);
}

#[tokio::test]
pub async fn a_project_is_invited_once() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let path = format!("/v2/images/{id}/members");
    let invite = async |number: u128| {
        let body = json!({"member": project(number).simple()});
        post(&world, "member", &path, KEY, &body).await
    };
    let (status, first) = invite(2).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(invite(2).await, (200, first));
    assert_eq!(invite(3).await.0, 422);
    let one = format!("{path}/{}", project(2).simple());
    assert_eq!(world.delete("member", &one).await, 204);
    assert_eq!(invite(2).await.0, 409);
    let (_, members) = world.get("member", &path).await;
    assert_eq!(members["members"], json!([]));
}
