//! Joining and removing hosts, as far as no broker is needed for it. The whole
//! way over a real broker is in `integration/`.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::world::{Said, World};

const TOKEN: &str = "ykj-0123456789abcdef-5ec2e7";

fn join(world: &World, url: &str, more: &[&str]) -> Said {
    let words = ["host", "join", "--url", url, "--token", TOKEN];
    let words: Vec<&str> = words.iter().chain(more).copied().collect();
    world.run(&words)
}

/// Refused, with this in what was said, and without the token.
#[track_caller]
fn refused(said: &Said, why: &str) {
    assert!(!said.status.success(), "{}", said.out);
    assert!(said.err.contains(why), "{}", said.err);
    assert!(!said.err.contains("5ec2e7"), "{}", said.err);
    assert!(!said.out.contains("5ec2e7"), "{}", said.out);
}

/// A cloud's front door that gives this answer to everybody.
fn front_door(
    status: &'static str,
    body: &'static str,
) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while !text.ends_with(b"}") {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the request ended early");
            text.extend_from_slice(&buffer[..count]);
        }
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(text).unwrap()
    });
    (url, asked)
}

#[test]
fn a_cloud_in_one_process_has_no_bus_to_join() {
    let world = World::with("data_dir = \"FOLDER\"\n");
    for words in [
        &["host", "token", "node-1"][..],
        &["host", "remove", "node-1"],
    ] {
        let said = world.run(words);
        assert!(!said.status.success());
        assert!(
            said.err.contains("in one process is one machine"),
            "{}",
            said.err
        );
    }
    for name in ["a b", "a/b", ""] {
        let said = world.run(&["host", "token", name]);
        assert!(!said.status.success());
        assert!(said.err.contains("is no name for a host"), "{}", said.err);
    }
    let said = world.run(&["host", "token", "node-1", "--expires-in", "soon"]);
    assert!(!said.status.success());
}

#[test]
fn somebody_elses_configuration_is_not_made_a_hosts() {
    // Nothing listens there: it is refused before anybody is asked.
    let url = "http://127.0.0.1:9";
    let base = "data_dir = \"FOLDER\"\n";
    for (config, why) in [
        (
            "[host]\nname = \"node-2\"\n",
            "of another host: host.name is \"node-2\"",
        ),
        (
            "[compute]\nhost = \"node-2\"\n",
            "of another host: compute.host",
        ),
        ("[bus]\ncontext_key = \"k\"\n", "of a control service"),
        (
            "[bus]\nurl = \"amqp://guest:guest@mq\"\n",
            "not this host's own",
        ),
    ] {
        let world = World::with(&format!("{base}{config}"));
        let before = std::fs::read(world.file()).unwrap();
        refused(&join(&world, url, &["--name", "node-1"]), why);
        assert_eq!(std::fs::read(world.file()).unwrap(), before);
    }
}

#[test]
fn what_the_cloud_refuses_is_said_and_changes_nothing() {
    let world = World::with("data_dir = \"FOLDER\"\n[compute]\ndriver = \"simulated\"\n");
    let before = std::fs::read(world.file()).unwrap();
    let body = r#"{"conflictingRequest": {"code": 409, "message": "The token was used already."}}"#;
    let (url, asked) = front_door("409 Conflict", body);
    let said = join(&world, &url, &["--name", "node-1"]);
    refused(&said, "the cloud says: The token was used already. (409)");
    assert_eq!(std::fs::read(world.file()).unwrap(), before);
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /yakumo/v1/join "), "{asked}");
    assert!(
        asked.contains(TOKEN) && asked.contains("\"host\":\"node-1\""),
        "{asked}"
    );
}

#[test]
fn a_host_of_another_cloud_keeps_its_configuration() {
    let world = World::with(
        "data_dir = \"FOLDER\"\n[bus]\ncontext_public_keys = [\"another\"]\n\
         [compute]\ndriver = \"simulated\"\n",
    );
    let before = std::fs::read(world.file()).unwrap();
    let body = r#"{"host": {"name": "node-1", "bus": {"url": "amqp://host.node-1:secret@mq:9/%2f",
        "ca": null, "context_public_keys": ["a key"]}}}"#;
    let (url, _) = front_door("200 OK", body);
    let said = join(&world, &url, &["--name", "node-1"]);
    refused(&said, "of a host of another cloud");
    assert!(!said.err.contains("secret"), "{}", said.err);
    assert_eq!(std::fs::read(world.file()).unwrap(), before);
}

#[test]
fn restored_and_old_rows_are_told_by_table() {
    let world = World::with("data_dir = \"FOLDER\"\n");
    assert!(world.run(&["db", "migrate"]).status.success());
    for _ in 0..2 {
        let said = world.run(&["db", "restored"]);
        assert!(said.status.success(), "{}", said.err);
        for what in ["servers told anew", "hosts told anew", "signing keys"] {
            assert!(said.out.contains(what), "{}", said.out);
        }
    }
    let said = world.run(&["db", "purge", "--older-than", "1"]);
    assert!(said.status.success(), "{}", said.err);
    for table in [
        "server_action",
        "host_token",
        "volumes",
        "revocations",
        "workflow_fences",
    ] {
        assert!(said.out.contains(table), "{}", said.out);
    }
    for bad in ["0", "-1", "x"] {
        let said = world.run(&["db", "purge", "--older-than", bad]);
        assert!(!said.status.success(), "{bad}");
    }
}
