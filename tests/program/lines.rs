//! Log lines that name the request that they belong to, in every service.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::{Answer, Running, World, ask, ask_as, log_in, wait};

/// Asks as the admin and expects success.
fn told(token: &str, address: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = ask_as(token, address, method, path, &body).unwrap();
    assert!(
        (200..300).contains(&answer.status),
        "{method} {path}: {} {}",
        answer.status,
        answer.body
    );
    answer
}

/// The address of each API, from the lines in which they say so.
fn apis(running: &mut Running) -> (String, Vec<String>) {
    let image = running.rest("image");
    let api = running
        .lines()
        .into_iter()
        .filter(|line| line["message"] == "listening" && line["service"] == "api")
        .map(|line| line["address"].as_str().unwrap().to_owned())
        .collect();
    (image, api)
}

#[test]
fn every_line_of_a_boot_names_its_request_and_its_trace_in_every_service() {
    let world = World::small();
    let level = "telemetry.log.level=info,yakumo=debug";
    let mut running = world.start(&["all", "--set", level]);
    running.ready();
    let identity = running.rest("identity");
    let token = ask(&identity, "POST", "/v3/auth/tokens", &log_in()).unwrap();
    let token = token.header("x-subject-token").unwrap().to_owned();
    let (image, api) = apis(&mut running);
    // The compute API is the one that knows flavors.
    let is = |path: &str| {
        let found = api
            .iter()
            .find(|address| ask_as(&token, address, "GET", path, "").unwrap().status == 200);
        found
            .unwrap_or_else(|| panic!("nobody serves {path}"))
            .clone()
    };
    let (compute, network) = (is("/v2.1/flavors"), is("/v2.0/networks"));

    let flavor = json!({"flavor": {"name": "tiny", "vcpus": 1, "ram": 64, "disk": 1}});
    let flavor = told(&token, &compute, "POST", "/v2.1/flavors", &flavor).json();
    let made = json!({"name": "tiny", "disk_format": "raw", "container_format": "bare"});
    let made = told(&token, &image, "POST", "/v2/images", &made).json();
    let data = upload(&token, &image, made["id"].as_str().unwrap());
    assert_eq!(data, 204);
    let net = json!({"network": {"name": "flat", "shared": true}});
    let net = told(&token, &network, "POST", "/v2.0/networks", &net).json();
    let subnet = json!({"subnet": {
        "network_id": net["network"]["id"], "ip_version": 4, "cidr": "10.20.0.0/24",
    }});
    told(&token, &network, "POST", "/v2.0/subnets", &subnet);

    let server = json!({"server": {
        "name": "one",
        "imageRef": made["id"],
        "flavorRef": flavor["flavor"]["id"],
        "networks": [{"uuid": net["network"]["id"]}],
    }});
    let accepted = told(&token, &compute, "POST", "/v2.1/servers", &server);
    let request = accepted
        .header("x-openstack-request-id")
        .unwrap()
        .to_owned();
    let id = accepted.json()["server"]["id"].as_str().unwrap().to_owned();
    wait("the server to be active", || {
        let path = format!("/v2.1/servers/{id}");
        let server = told(&token, &compute, "GET", &path, &Value::Null).json();
        let status = server["server"]["status"].as_str().unwrap().to_owned();
        assert_ne!(status, "ERROR", "{server}");
        (status == "ACTIVE").then_some(())
    });

    let spans = |line: &Value| line["spans"].as_array().cloned().unwrap_or_default();
    let lines = running.lines();
    let of_request: Vec<&Value> = lines
        .iter()
        .filter(|line| {
            spans(line)
                .iter()
                .any(|span| span["request_id"] == request.as_str())
        })
        .collect();
    let trace = of_request
        .iter()
        .find(|line| line["message"] == "answered")
        .and_then(|line| {
            spans(line)
                .iter()
                .find_map(|span| span["trace_id"].as_str().map(str::to_owned))
        })
        .expect("the answer's line with its trace");
    assert_eq!(trace.len(), 32, "{trace}");
    let mut seen = BTreeSet::new();
    for line in &of_request {
        for span in spans(line) {
            if span["request_id"] == request.as_str() {
                assert_eq!(span["trace_id"], trace.as_str(), "{line}");
                seen.insert(span["name"].as_str().unwrap().to_owned());
            }
        }
    }
    for wanted in ["request", "rpc.serve", "workflow step", "act"] {
        assert!(seen.contains(wanted), "{wanted} is not in {seen:?}");
    }
    // Whoever had a hand in it, the host's two agents among them.
    let contracts: BTreeSet<&str> = of_request
        .iter()
        .filter(|line| line["message"] == "handled")
        .filter_map(|line| line["service"].as_str()?.split('.').next())
        .collect();
    for wanted in [
        "scheduler",
        "image",
        "network",
        "network_host",
        "compute_host",
    ] {
        assert!(
            contracts.contains(wanted),
            "{wanted} is not in {contracts:?}"
        );
    }
}

/// Sends an image's data; gives the status.
fn upload(token: &str, address: &str, id: &str) -> u16 {
    use std::io::Write;
    let data = [0_u8; 4096];
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head = format!(
        "PUT /v2/images/{id}/file HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-auth-token: {token}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        data.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&data).unwrap();
    Answer::read(&mut stream).unwrap().status
}
