//! Services that run, as their operator sees them.

use crate::world::{World, ask, log_in};

#[test]
fn some_of_the_services_run_and_say_how_they_are() {
    let world = World::small();
    let mut running = world.start(&["all", "--services", "identity,image"]);
    running.ready();
    let ops = running.ops();

    let health = ask(&ops, "GET", "/health", "").unwrap();
    assert_eq!(health.status, 200);
    let report = health.json();
    assert_eq!(report["status"], "up", "{report}");
    for (component, there) in [
        ("bus", true),
        ("database identity", true),
        ("database image", true),
        ("database api", false),
    ] {
        assert_eq!(
            report["components"].get(component).is_some(),
            there,
            "{report}"
        );
    }
    assert_eq!(
        ask(&running.rest("identity"), "GET", "/v3", "")
            .unwrap()
            .status,
        200
    );
    let metrics = ask(&ops, "GET", "/metrics", "").unwrap();
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.body.contains("yakumo_http_requests_total"),
        "{}",
        metrics.body
    );

    let status = world.run(&["status", &ops]);
    assert!(status.status.success(), "{}", status.out);
    assert!(status.out.contains("database identity"), "{}", status.out);
    // One that is not there is told apart, and not hidden by one that is.
    let status = world.run(&["status", &ops, "127.0.0.1:1"]);
    assert!(!status.status.success());
    assert!(status.out.contains("unreachable"), "{}", status.out);
    // Something else that answers is not a process of ours.
    let other = world.run(&["status", &running.rest("identity")]);
    assert!(!other.status.success(), "{}", other.out);
}

#[test]
fn what_is_logged_changes_while_it_runs() {
    let world = World::small();
    let mut running = world.start(&["identity"]);
    running.ready();
    let (ops, identity) = (running.ops(), running.rest("identity"));
    let level = |level: &str| ask(&ops, "PUT", "/log-level", level).unwrap().status;
    let log_in = |mark: &str| {
        let path = format!("/v3/auth/tokens?mark={mark}");
        assert_eq!(
            ask(&identity, "POST", &path, &log_in()).unwrap().status,
            201
        );
    };
    let answered = |line: &serde_json::Value| line["message"] == "answered";
    assert_eq!(level("warn"), 204);
    let before = running.lines().into_iter().filter(answered).count();
    log_in("quiet");
    assert_eq!(level("loud=please"), 400);
    assert_eq!(level("info"), 204);
    // Nothing was logged of the first one, or it would stand before this line.
    running.line("the change", |line| line["filter"] == "info");
    assert_eq!(running.lines().into_iter().filter(answered).count(), before);
    log_in("loud");
    running.line("an answer", answered);
}
