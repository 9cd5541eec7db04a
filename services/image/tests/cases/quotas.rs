//! What a project may have, also where requests come at once.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::json;
use yakumo_types::ProjectId;

use crate::world::{World, project};

#[tokio::test]
pub async fn images_that_come_at_once_keep_the_quota() {
    let world = World::configured(|config| config.quota_images = 4).await;
    let world = Arc::new(world);
    let requests = (0..16).map(|_| {
        let world = world.clone();
        tokio::spawn(async move {
            world
                .post("member", "/v2/images", json!({}))
                .await
                .0
                .as_u16()
        })
    });
    let mut made = 0;
    for status in join_all(requests).await {
        match status.unwrap() {
            201 => made += 1,
            other => assert_eq!(other, 413),
        }
    }
    assert_eq!(made, 4);
    let (_, page) = world.get("member", "/v2/images").await;
    assert_eq!(page["images"].as_array().unwrap().len(), 4);
    // Others have a quota of their own.
    world.create("other", "raw").await;
}

#[tokio::test]
pub async fn uploads_that_run_side_by_side_keep_the_quota() {
    let world = World::configured(|config| config.quota_bytes = 1_000).await;
    let mut uploads = Vec::new();
    for _ in 0..6 {
        let id = world.create("member", "raw").await;
        let (send, answer) = world.begin_upload("member", &id);
        send.unbounded_send(Ok(Bytes::from(vec![7; 400]))).unwrap();
        world.wait_for_status(&id, "saving").await;
        uploads.push((id, send, answer));
    }
    // Every one of them found room for itself. Now they end together.
    for (_, send, _) in &uploads {
        send.close_channel();
    }
    let mut stored = 0;
    for (id, _, answer) in uploads {
        match answer.await.unwrap().as_u16() {
            204 => {
                stored += 1;
                assert_eq!(world.status_of(&id).await, "active");
            }
            other => {
                assert_eq!(other, 413);
                assert_eq!(world.status_of(&id).await, "queued");
            }
        }
    }
    assert_eq!(stored, 2);
    world.wait_for_files(2).await;
}

#[tokio::test]
pub async fn bytes_over_the_quota_are_refused_and_nothing_is_taken() {
    let world = World::configured(|config| config.quota_bytes = 1_000).await;
    let first = world.active("member", &[1; 600]).await;
    let second = world.create("member", "raw").await;
    let (status, body) = world.upload("member", &second, vec![2; 401]).await;
    assert_eq!(status, 413, "{body}");
    assert!(body["message"].is_string(), "{body}");
    assert_eq!(world.status_of(&second).await, "queued");
    world.wait_for_files(1).await;
    assert_eq!(world.upload("member", &second, vec![2; 400]).await.0, 204);
    let third = world.create("member", "raw").await;
    assert_eq!(world.upload("member", &third, "x").await.0, 413);
    assert_eq!(
        world.delete("member", &format!("/v2/images/{first}")).await,
        204
    );
    assert_eq!(world.upload("member", &third, "x").await.0, 204);
}

#[tokio::test]
pub async fn members_that_come_at_once_keep_the_bound() {
    const MOST: u128 = 128;
    let world = Arc::new(World::new().await);
    let id = world.create("member", "raw").await;
    let members = Arc::new(format!("/v2/images/{id}/members"));
    let invite = |number: u128| {
        let (world, members) = (world.clone(), members.clone());
        let guest: ProjectId = project(1_000 + number);
        tokio::spawn(async move {
            let body = json!({"member": guest.simple()});
            world.post("member", &members, body).await.0.as_u16()
        })
    };
    for number in 0..MOST - 2 {
        assert_eq!(invite(number).await.unwrap(), 200);
    }
    let mut invited = 0;
    for status in join_all((0..12).map(|number| invite(MOST + number))).await {
        match status.unwrap() {
            200 => invited += 1,
            other => assert_eq!(other, 413),
        }
    }
    assert_eq!(invited, 2);
    let (_, listed) = world.get("member", &members).await;
    assert_eq!(listed["members"].as_array().unwrap().len(), 128);
}
