use reqwest::Method;
use serde_json::json;

use crate::world::{World, project};

#[tokio::test]
pub async fn an_image_is_shared_by_invitation_and_acceptance() {
    let world = World::new().await;
    let id = world.active("member", b"shared").await;
    let path = format!("/v2/images/{id}");
    let members = format!("{path}/members");
    let guest = project(2).simple();
    let invite = json!({"member": guest});
    assert_eq!(world.get("other", &path).await.0, 404);

    let (status, member) = world.post("member", &members, invite.clone()).await;
    assert_eq!(
        (status.as_u16(), &member["status"]),
        (200, &json!("pending"))
    );
    assert_eq!(world.post("member", &members, invite).await.0, 409);
    assert_eq!(world.get("other", &path).await.0, 200);
    let listed = async |query: &str| {
        let (_, page) = world.get("other", &format!("/v2/images{query}")).await;
        page["images"].as_array().unwrap().len()
    };
    assert_eq!(listed("").await, 0);
    assert_eq!(listed("?member_status=pending").await, 1);

    let one = format!("{members}/{guest}");
    let answer = async |token: &str, status: &str| {
        let request = world
            .request(token, Method::PUT, &one)
            .json(&json!({"status": status}));
        request.send().await.unwrap().status()
    };
    assert_eq!(answer("member", "accepted").await, 403);
    assert_eq!(answer("other", "perhaps").await, 400);
    assert_eq!(answer("other", "accepted").await, 200);
    assert_eq!(listed("").await, 1);
    assert_eq!(listed("?visibility=shared").await, 1);

    let (_, all) = world.get("other", &members).await;
    assert_eq!(all["members"].as_array().unwrap().len(), 1);
    assert_eq!(world.get("other", &one).await.0, 200);
    assert_eq!(world.delete("other", &one).await, 403);
    assert_eq!(world.delete("other", &path).await, 403);

    assert_eq!(world.delete("member", &one).await, 204);
    assert_eq!(world.delete("member", &one).await, 404);
    assert_eq!(world.get("other", &path).await.0, 404);
}

#[tokio::test]
pub async fn private_images_have_no_members() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let private = json!([{"op": "replace", "path": "/visibility", "value": "private"}]);
    let members = format!("/v2/images/{id}/members");
    let invite = json!({"member": project(2).simple()});
    assert_eq!(world.post("member", &members, invite.clone()).await.0, 200);
    assert_eq!(world.patch("member", &id, private).await.0, 200);
    assert_eq!(world.post("member", &members, invite).await.0, 403);
    // An old invitation does not open a private image.
    assert_eq!(world.get("other", &format!("/v2/images/{id}")).await.0, 404);
}
