//! The end of a process.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::world::{Answer, BOUND, World, ask, head, log_in, wait};

#[test]
fn a_request_that_is_under_way_is_finished_before_the_end() {
    let world = World::small();
    let mut running = world.start(&["all", "--services", "identity"]);
    running.ready();
    let (ops, identity) = (running.ops(), running.rest("identity"));

    let body = log_in();
    let (first, rest) = body.split_at(body.len() / 2);
    let mut slow = TcpStream::connect(&identity).unwrap();
    slow.set_read_timeout(Some(BOUND)).unwrap();
    slow.write_all(head("POST", "/v3/auth/tokens", "", body.len()).as_bytes())
        .unwrap();
    slow.write_all(first.as_bytes()).unwrap();
    // It has been taken in when one that came later is answered.
    assert_eq!(ask(&identity, "GET", "/v3", "").unwrap().status, 200);

    running.signal("TERM");
    // Health says so for as long as the process is there, and nobody new is let in.
    wait("health to say that it drains", || {
        let health = ask(&ops, "GET", "/health", "").unwrap();
        (health.status == 503 && health.json()["status"] == "draining").then_some(())
    });
    wait("the listener to close", || {
        TcpStream::connect(&identity).is_err().then_some(())
    });
    let status = world.run(&["status", &ops]);
    assert!(!status.status.success());
    assert!(status.out.contains("draining"), "{}", status.out);

    slow.write_all(rest.as_bytes()).unwrap();
    let answer = Answer::read(&mut slow).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert!(answer.header("x-subject-token").is_some());
    assert!(running.ended().success());
}

#[test]
fn a_request_that_does_not_end_is_cut_off_in_bound() {
    let world = World::small();
    let mut running = world.start(&["identity", "--set", "drain_seconds=2"]);
    running.ready();
    let identity = running.rest("identity");
    let mut stuck = TcpStream::connect(&identity).unwrap();
    stuck
        .write_all(head("POST", "/v3/auth/tokens", "", 1000).as_bytes())
        .unwrap();
    stuck.write_all(b"{").unwrap();
    assert_eq!(ask(&identity, "GET", "/v3", "").unwrap().status, 200);
    running.signal("TERM");
    let began = Instant::now();
    running.ended();
    assert!(began.elapsed() < Duration::from_secs(15));
    running.line("the cut", |line| {
        line["message"] == "some requests were cut off"
    });
}
