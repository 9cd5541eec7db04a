//! What a server may know of itself: EC2's tree and OpenStack's documents.
//!
//! One renderer serves guests that ask over the link-local address, network
//! nodes that forward over HTTP, and the config drive.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use yakumo_contracts::compute_host::ServerSpec;
use yakumo_types::{Env, Fault, PortId, ProjectId, ServerId};

use super::{App, texts};
use crate::store::servers::{self as store, Life, Scope, Server, ServerBuild};

/// Versions of EC2's tree that are listed; all of them are the same tree.
const EC2_VERSIONS: &[&str] = &[
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
];

/// Versions of OpenStack's documents that are listed.
const OPENSTACK_VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
];

/// An answer for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// What is told about a server.
#[derive(Debug, Clone)]
pub struct Facts {
    pub server: Server,
    pub build: ServerBuild,
    pub zone: String,
}

enum Node {
    Text(String),
    Bytes(Vec<u8>),
    Folder(Vec<(String, Node)>),
    /// Lists other names than its entries have: `0=my-key`.
    Named(Vec<(String, String, Node)>),
}

impl Facts {
    fn hostname(&self) -> String {
        self.server.hostname.clone()
    }

    fn spec(&self) -> ServerSpec {
        self.build
            .spec
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    fn user_data(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.build.user_data.as_deref()?).ok()
    }

    /// The first fixed and the first floating IPv4 address.
    fn addresses(&self) -> (Option<String>, Option<String>) {
        let all: BTreeMap<String, Vec<Value>> =
            serde_json::from_str(&self.server.addresses).unwrap_or_default();
        let first = |kind: &str| {
            all.values().flatten().find_map(|address| {
                let of_kind = address.get("OS-EXT-IPS:type").and_then(Value::as_str) == Some(kind);
                let v4 = address.get("version").and_then(Value::as_u64) == Some(4);
                (of_kind && v4)
                    .then(|| address.get("addr").and_then(Value::as_str))
                    .flatten()
                    .map(ToOwned::to_owned)
            })
        };
        let fixed = first("fixed").or_else(|| {
            let spec = self.spec();
            let address = spec.ports.first()?.addresses.first()?.clone();
            Some(address.split('/').next()?.to_owned())
        });
        (fixed, first("floating"))
    }

    fn key(&self) -> Option<(&str, &str)> {
        Some((
            self.server.key_name.as_deref()?,
            self.build.key_public.as_deref()?,
        ))
    }
}

/// The answer to `path`, or nothing where there is none.
pub fn render(facts: &Facts, path: &str, env: &Env) -> Option<Document> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => {
            let mut names: Vec<&str> = EC2_VERSIONS.to_vec();
            names.push("latest");
            Some(text(&names.join("\n")))
        }
        ["openstack"] => {
            let mut names: Vec<&str> = OPENSTACK_VERSIONS.to_vec();
            names.push("latest");
            Some(text(&names.join("\n")))
        }
        ["openstack", version, rest @ ..] => {
            known_version(version, OPENSTACK_VERSIONS.first()?)?;
            openstack(facts, rest, env)
        }
        [version, rest @ ..] => {
            if *version != "1.0" {
                known_version(version, "2007-01-19")?;
            }
            walk(&ec2(facts), rest)
        }
    }
}

/// `latest`, or a date that is not before the first version: a date between
/// two versions, or after all, means the nearest older one.
fn known_version(version: &str, first: &str) -> Option<()> {
    if version == "latest" {
        return Some(());
    }
    let date = version.len() == 10
        && version.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    (date && version >= first).then_some(())
}

fn text(body: &str) -> Document {
    Document {
        content_type: "text/plain; charset=UTF-8",
        body: body.as_bytes().to_vec(),
    }
}

fn document(body: &Value) -> Document {
    Document {
        content_type: "application/json",
        body: body.to_string().into_bytes(),
    }
}

fn bytes(body: Vec<u8>) -> Document {
    Document {
        content_type: "application/octet-stream",
        body,
    }
}

fn walk(node: &Node, path: &[&str]) -> Option<Document> {
    match (node, path) {
        (Node::Text(body), []) => Some(text(body)),
        (Node::Bytes(body), []) => Some(bytes(body.clone())),
        (Node::Folder(entries), []) => {
            let names: Vec<String> = entries
                .iter()
                .map(|(name, node)| match node {
                    Node::Folder(_) | Node::Named(_) => format!("{name}/"),
                    Node::Text(_) | Node::Bytes(_) => name.clone(),
                })
                .collect();
            Some(text(&names.join("\n")))
        }
        (Node::Named(entries), []) => {
            let names: Vec<&str> = entries.iter().map(|(_, shown, _)| shown.as_str()).collect();
            Some(text(&names.join("\n")))
        }
        (Node::Folder(entries), [name, rest @ ..]) => {
            let (_, node) = entries.iter().find(|(known, _)| known == name)?;
            walk(node, rest)
        }
        (Node::Named(entries), [name, rest @ ..]) => {
            let (_, _, node) = entries.iter().find(|(known, ..)| known == name)?;
            walk(node, rest)
        }
        (Node::Text(_) | Node::Bytes(_), [_, ..]) => None,
    }
}

/// The short id of EC2's kind that stands for a UUID.
pub fn ec2_id(prefix: &str, id: &str) -> String {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{prefix}-{digits}")
}

fn ec2(facts: &Facts) -> Node {
    let leaf = |text: &str| Node::Text(text.to_owned());
    let entry = |name: &str, node: Node| (name.to_owned(), node);
    let server = &facts.server;
    let (fixed, floating) = facts.addresses();
    let hostname = facts.hostname();
    let groups: Vec<String> = serde_json::from_str::<Vec<Value>>(&server.security_groups)
        .unwrap_or_default()
        .iter()
        .filter_map(|group| group.get("name")?.as_str().map(ToOwned::to_owned))
        .collect();
    let mut data = vec![
        entry(
            "ami-id",
            Node::Text(ec2_id("ami", server.image_id.as_deref().unwrap_or(""))),
        ),
        entry(
            "ami-launch-index",
            Node::Text(server.launch_index.to_string()),
        ),
        entry(
            "block-device-mapping",
            Node::Folder(vec![
                entry("ami", leaf("vda")),
                entry("root", leaf("/dev/vda")),
            ]),
        ),
        entry("hostname", leaf(&hostname)),
        entry("instance-action", leaf("none")),
        entry("instance-id", Node::Text(ec2_id("i", &server.id))),
        entry("instance-type", leaf(&server.flavor_name)),
        entry("local-hostname", leaf(&hostname)),
        entry("local-ipv4", Node::Text(fixed.unwrap_or_default())),
        entry(
            "placement",
            Node::Folder(vec![entry("availability-zone", leaf(&facts.zone))]),
        ),
        entry("public-hostname", leaf(&hostname)),
        entry("public-ipv4", Node::Text(floating.unwrap_or_default())),
    ];
    if let Some((name, public)) = facts.key() {
        data.push(entry(
            "public-keys",
            Node::Named(vec![(
                "0".to_owned(),
                format!("0={name}"),
                Node::Folder(vec![entry(
                    "openssh-key",
                    Node::Text(format!("{public}\n")),
                )]),
            )]),
        ));
    }
    data.push(entry("reservation-id", leaf(&server.reservation_id)));
    data.push(entry("security-groups", Node::Text(groups.join("\n"))));
    let identity = json!({
        "instanceId": ec2_id("i", &server.id),
        "accountId": server.project_id,
        "instanceType": server.flavor_name,
        "availabilityZone": facts.zone,
    });
    let mut root = vec![
        entry("meta-data", Node::Folder(data)),
        entry(
            "dynamic",
            Node::Folder(vec![entry(
                "instance-identity",
                Node::Folder(vec![entry("document", Node::Text(identity.to_string()))]),
            )]),
        ),
    ];
    if let Some(user_data) = facts.user_data() {
        root.push(entry("user-data", Node::Bytes(user_data)));
    }
    Node::Folder(root)
}

fn openstack(facts: &Facts, path: &[&str], env: &Env) -> Option<Document> {
    match path {
        [] => {
            let mut names = vec!["meta_data.json"];
            if facts.user_data().is_some() {
                names.push("user_data");
            }
            names.extend([
                "password",
                "vendor_data.json",
                "network_data.json",
                "vendor_data2.json",
            ]);
            Some(text(&names.join("\n")))
        }
        ["meta_data.json"] => Some(document(&meta_data(facts, env))),
        ["network_data.json"] => Some(document(&network_data(facts))),
        ["user_data"] => facts.user_data().map(bytes),
        ["vendor_data.json" | "vendor_data2.json"] => Some(document(&json!({}))),
        ["password"] => Some(text("")),
        _ => None,
    }
}

fn meta_data(facts: &Facts, env: &Env) -> Value {
    let server = &facts.server;
    let mut seed = vec![0; 512];
    env.rng.fill(&mut seed);
    let mut data = json!({
        "uuid": server.id,
        "name": server.name,
        "hostname": facts.hostname(),
        "launch_index": server.launch_index,
        "availability_zone": facts.zone,
        "project_id": server.project_id,
        "meta": texts(&server.metadata),
        "devices": [],
        "dedicated_cpus": [],
        "random_seed": STANDARD.encode(seed),
    });
    if let (Some((name, public)), Some(object)) = (facts.key(), data.as_object_mut()) {
        object.insert("public_keys".into(), json!({ name: public }));
        object.insert(
            "keys".into(),
            json!([{ "name": name, "type": "ssh", "data": public }]),
        );
    }
    data
}

fn network_data(facts: &Facts) -> Value {
    let spec = facts.spec();
    let mut links = Vec::new();
    let mut networks = Vec::new();
    let mut services: Vec<Value> = Vec::new();
    for (number, port) in spec.ports.iter().enumerate() {
        links.push(json!({
            "id": port.tap,
            "vif_id": port.port_id,
            "type": "bridge",
            "mtu": port.mtu,
            "ethernet_mac_address": port.mac_address,
        }));
        networks.push(json!({
            "id": format!("network{number}"),
            "type": "ipv4_dhcp",
            "link": port.tap,
            "network_id": port.network_id,
        }));
        for address in &port.dns {
            let service = json!({ "type": "dns", "address": address });
            if !services.contains(&service) {
                services.push(service);
            }
        }
    }
    json!({ "links": links, "networks": networks, "services": services })
}

/// The files of a config drive, by path.
pub fn config_drive(facts: &Facts, env: &Env) -> std::collections::HashMap<String, Vec<u8>> {
    let mut files = std::collections::HashMap::new();
    for version in ["latest", "2018-08-27"] {
        for name in [
            "meta_data.json",
            "network_data.json",
            "vendor_data.json",
            "user_data",
        ] {
            if let Some(document) = openstack(facts, &[name], env) {
                files.insert(format!("openstack/{version}/{name}"), document.body);
            }
        }
    }
    let mut ec2_data = serde_json::Map::new();
    if let Node::Folder(entries) = ec2(facts) {
        for (name, node) in &entries {
            if name == "meta-data" {
                ec2_data = as_json(node).as_object().cloned().unwrap_or_default();
            }
        }
    }
    for version in ["latest", "2009-04-04"] {
        files.insert(
            format!("ec2/{version}/meta-data.json"),
            Value::Object(ec2_data.clone()).to_string().into_bytes(),
        );
        if let Some(user_data) = facts.user_data() {
            files.insert(format!("ec2/{version}/user-data"), user_data);
        }
    }
    files
}

fn as_json(node: &Node) -> Value {
    match node {
        Node::Text(text) => json!(text),
        Node::Bytes(bytes) => json!(String::from_utf8_lossy(bytes)),
        Node::Folder(entries) => entries
            .iter()
            .map(|(name, node)| (name.clone(), as_json(node)))
            .collect(),
        Node::Named(entries) => entries
            .iter()
            .map(|(name, _, node)| (name.clone(), as_json(node)))
            .collect(),
    }
}

impl App {
    /// Answers a guest's request that came through its host: `host` must be
    /// the server's own. A server that is not there, elsewhere, of another
    /// project or without that port gets nothing.
    pub async fn metadata_for_host(
        &self,
        host: &str,
        server: ServerId,
        project: ProjectId,
        port: PortId,
        path: &str,
    ) -> Result<Option<Document>, Fault> {
        let Some(facts) = self.metadata_facts(server, project).await? else {
            return Ok(None);
        };
        let has_port = facts
            .spec()
            .ports
            .iter()
            .any(|known| known.port_id.parse() == Ok(port));
        if facts.server.host.as_deref() != Some(host) || !has_port {
            return Ok(None);
        }
        Ok(render(&facts, path, &self.env))
    }

    /// Answers a request that a trusted network node signed.
    pub async fn metadata_signed(
        &self,
        server: ServerId,
        project: ProjectId,
        path: &str,
    ) -> Result<Option<Document>, Fault> {
        let facts = self.metadata_facts(server, project).await?;
        Ok(facts.and_then(|facts| render(&facts, path, &self.env)))
    }

    async fn metadata_facts(
        &self,
        server: ServerId,
        project: ProjectId,
    ) -> Result<Option<Facts>, Fault> {
        let db = self.db.read();
        let Some(row) =
            store::server_fetch(db, Scope::Project(project), server, Life::Living).await?
        else {
            return Ok(None);
        };
        let build = store::server_build_fetch(db, server).await?;
        Ok(Some(self.facts(row, build)))
    }

    pub(crate) fn facts(&self, server: Server, build: ServerBuild) -> Facts {
        let zone = server
            .availability_zone
            .clone()
            .unwrap_or_else(|| self.config.default_availability_zone.clone());
        Facts {
            server,
            build,
            zone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::{sample_build, sample_server};

    fn facts() -> Facts {
        let mut server = sample_server();
        server.name = "web".into();
        server.hostname = "web".into();
        server.key_name = Some("mine".into());
        server.addresses = r#"{"flat":[{"addr":"10.0.0.5","version":4,"OS-EXT-IPS:type":"fixed"},{"addr":"172.24.4.9","version":4,"OS-EXT-IPS:type":"floating"}]}"#.into();
        server.security_groups = r#"[{"name":"default"}]"#.into();
        server.metadata = r#"{"a":"b"}"#.into();
        let mut build = sample_build();
        build.user_data = Some(STANDARD.encode("#!/bin/sh\n"));
        build.key_public = Some("ssh-ed25519 AAAA me".into());
        Facts {
            server,
            build,
            zone: "nova".into(),
        }
    }

    fn get(path: &str) -> Option<String> {
        render(&facts(), path, &yakumo_service::system_env())
            .map(|document| String::from_utf8(document.body).unwrap())
    }

    #[test]
    fn the_tree_answers_with_and_without_slashes_and_in_every_version() {
        for version in ["2009-04-04", "latest", "1.0", "2021-03-23", "2008-03-03"] {
            for slash in ["", "/"] {
                let data = get(&format!("/{version}/meta-data{slash}")).unwrap();
                assert!(data.contains("instance-id\n"), "{data}");
                assert!(data.contains("public-keys/\n"), "{data}");
            }
        }
        assert!(get("/2001-01-01/meta-data").is_none());
        assert!(get("/nonsense/meta-data").is_none());
        assert_eq!(get("/latest/").unwrap(), "meta-data/\ndynamic/\nuser-data");
        assert!(get("/").unwrap().ends_with("latest"));
    }

    #[test]
    fn leaves_say_what_they_should() {
        let cases = [
            ("meta-data/local-ipv4", "10.0.0.5"),
            ("meta-data/public-ipv4", "172.24.4.9"),
            ("meta-data/hostname", "web"),
            ("meta-data/public-keys/", "0=mine"),
            ("meta-data/public-keys/0", "openssh-key"),
            (
                "meta-data/public-keys/0/openssh-key",
                "ssh-ed25519 AAAA me\n",
            ),
            ("meta-data/placement/availability-zone", "nova"),
            ("meta-data/security-groups", "default"),
            ("user-data", "#!/bin/sh\n"),
            ("dynamic/instance-identity", "document"),
        ];
        for (path, wanted) in cases {
            assert_eq!(
                get(&format!("/2009-04-04/{path}")).unwrap(),
                wanted,
                "{path}"
            );
        }
        for path in [
            "meta-data/ami-manifest-path",
            "meta-data/hostname/x",
            "secret",
        ] {
            assert!(get(&format!("/latest/{path}")).is_none(), "{path}");
        }
    }

    #[test]
    fn openstacks_documents_hold_keys_and_metadata() {
        let data: Value =
            serde_json::from_str(&get("/openstack/latest/meta_data.json").unwrap()).unwrap();
        assert_eq!(data["public_keys"]["mine"], "ssh-ed25519 AAAA me");
        assert_eq!(data["meta"]["a"], "b");
        assert_eq!(
            get("/openstack/2018-08-27/user_data").unwrap(),
            "#!/bin/sh\n"
        );
        assert_eq!(get("/openstack/latest/vendor_data2.json").unwrap(), "{}");
        assert!(get("/openstack/2011-01-01/meta_data.json").is_none());
        let drive = config_drive(&facts(), &yakumo_service::system_env());
        assert!(drive.contains_key("openstack/latest/meta_data.json"));
        assert_eq!(drive["openstack/latest/user_data"], b"#!/bin/sh\n");
    }
}
