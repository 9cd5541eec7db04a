use serde_json::{Value, json};

use crate::world::World;

fn names(page: &Value) -> Vec<&str> {
    page["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["name"].as_str().unwrap_or("-"))
        .collect()
}

async fn five(world: &World) {
    for number in 0..5 {
        let body = json!({
            "name": format!("image-{number}"),
            "disk_format": if number % 2 == 0 { "raw" } else { "qcow2" },
            "container_format": "bare",
            "tags": ["all", format!("t{number}")],
            "os_type": if number < 2 { "bsd" } else { "linux" },
        });
        assert_eq!(world.post("member", "/v2/images", body).await.0, 201);
    }
}

#[tokio::test]
pub async fn pages_follow_each_other_without_gaps() {
    let world = World::new().await;
    five(&world).await;
    let mut path = "/v2/images?limit=2&sort=name:asc".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, page) = world.get("member", &path).await;
        assert_eq!(status, 200, "{page}");
        assert_eq!(page["first"], "/v2/images?limit=2&sort=name%3Aasc");
        seen.extend(names(&page).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(
        seen,
        ["image-0", "image-1", "image-2", "image-3", "image-4"]
    );
    let (_, newest) = world.get("member", "/v2/images?limit=1").await;
    assert_eq!(names(&newest), ["image-4"]);
    let (_, none) = world.get("member", "/v2/images?limit=0").await;
    assert_eq!(names(&none).len(), 0);
}

#[tokio::test]
pub async fn filters_leave_what_fits() {
    let world = World::new().await;
    five(&world).await;
    world.create("other", "raw").await;
    for (query, expected) in [
        ("name=image-3", &["image-3"][..]),
        ("name=in:image-1,image-4", &["image-1", "image-4"]),
        ("disk_format=qcow2", &["image-1", "image-3"]),
        ("tag=t2", &["image-2"]),
        ("tag=all&tag=t2", &["image-2"]),
        ("os_type=bsd", &["image-0", "image-1"]),
        ("os_type=bsd&tag=t1", &["image-1"]),
        ("status=active", &[]),
        ("status=deleted", &[]),
        ("owner=00000000000000000000000000000002", &[]),
        ("owner=nobody", &[]),
        ("protected=true", &[]),
        ("os_hidden=true", &[]),
        ("size_min=1", &[]),
        ("created_at=lt:2020-01-01T00:00:00Z", &[]),
        ("visibility=private", &[]),
        (
            "created_at=gt:2020-01-01T00:00:00Z&limit=2",
            &["image-0", "image-1"],
        ),
    ] {
        let (status, page) = world
            .get("member", &format!("/v2/images?sort=name:asc&{query}"))
            .await;
        assert_eq!(status, 200, "{query} {page}");
        assert_eq!(names(&page), expected, "{query}");
    }
}

#[tokio::test]
pub async fn markers_must_be_images_that_the_caller_sees() {
    let world = World::new().await;
    let foreign = world.create("other", "raw").await;
    for marker in [
        "x",
        "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b",
        foreign.as_str(),
    ] {
        let (status, body) = world
            .get("member", &format!("/v2/images?marker={marker}"))
            .await;
        assert_eq!(status, 400, "{marker} {body}");
    }
    for query in [
        "limit=x",
        "limit=-1",
        "sort_key=shape",
        "sort_dir=up",
        "status=lost",
        "name=%ff",
        "visibility=x",
    ] {
        let (status, _) = world.get("member", &format!("/v2/images?{query}")).await;
        assert_eq!(status, 400, "{query}");
    }
}

#[tokio::test]
pub async fn sizes_are_sorted_as_numbers() {
    let world = World::new().await;
    for data in ["1234567890", "12", "123"] {
        world.active("member", data.as_bytes()).await;
    }
    world.create("member", "raw").await;
    let (_, page) = world.get("member", "/v2/images?sort=size:asc").await;
    let sizes: Vec<Option<u64>> = page["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["size"].as_u64())
        .collect();
    assert_eq!(sizes, [None, Some(2), Some(3), Some(10)]);
    let (_, page) = world
        .get("member", "/v2/images?size_min=3&size_max=9")
        .await;
    assert_eq!(page["images"].as_array().unwrap().len(), 1);
}

#[tokio::test]
pub async fn what_a_listing_is_asked_is_bounded() {
    let world = World::new().await;
    let id = world.active("member", b"x").await;
    let ask = async |query: String| world.get("member", &format!("/v2/images?{query}")).await;
    // What comes again and again says nothing new.
    let again = |part: &str| vec![part; 1_200].join("&");
    for query in [
        again("tag=a"),
        again("created_at=gt:2020-01-01T00:00:00Z"),
        again("updated_at=neq:2020-01-01T00:00:00Z"),
        again("colour=red"),
        again("id=x"),
        again("status=active"),
        format!("marker={id}&sort={}", vec!["name"; 16].join(",")),
    ] {
        let (status, page) = ask(query.clone()).await;
        assert_eq!(status, 200, "{query:.60} {page}");
    }
    let many = |part: &dyn Fn(u32) -> String, count: u32| {
        let parts: Vec<String> = (0..count).map(part).collect();
        parts.join("&")
    };
    for (query, bound) in [
        (&(|n| format!("tag=t{n}")) as &dyn Fn(u32) -> String, 16),
        (&|n| format!("created_at=gt:2020-01-01T00:00:{n:02}Z"), 16),
        (&|n| format!("updated_at=gt:2020-01-01T00:00:{n:02}Z"), 16),
        (&|n| format!("colour=red{n}"), 16),
        (&|n| format!("id=x{n}"), 2_000),
    ] {
        assert_eq!(ask(many(query, bound)).await.0, 200);
    }
    for query in [
        many(&|n| format!("tag=t{n}"), 1_200),
        many(
            &|n| format!("created_at=gt:2020-01-01T{:02}:{:02}:00Z", n / 60, n % 60),
            1_200,
        ),
        many(
            &|n| format!("id={}", uuid::Uuid::from_u128(n.into())),
            1_200,
        ),
        format!("marker={id}&sort={}", vec!["name"; 5_000].join(",")),
        format!("marker={id}&{}", vec!["sort_key=id"; 3_000].join("&")),
    ] {
        let (status, body) = ask(query.clone()).await;
        assert_eq!(status, 400, "{query:.60}");
        assert!(body["message"].is_string(), "{body}");
    }
}
