//! Workflows that the last release began go on under this one: their steps are
//! counted, and their inputs and results are read, as they lie in the database.

use std::path::PathBuf;

use uuid::Uuid;
use yakumo_contracts::compute_host::{Resources, VolumeConnection};
use yakumo_testing::recorded::is_still_read;
use yakumo_types::{AttachmentId, ServerId, VolumeId, WorkflowId};

use super::*;
use crate::workflows::{attach_volume, change_power, delete_server, detach_volume};

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.join(format!("tests/previous/{name}.json"))
}

fn check<T: Serialize + serde::de::DeserializeOwned>(name: &str, sample: &T) {
    is_still_read(&file(name), sample).unwrap();
}

fn id<T: From<Uuid>>(number: u128) -> T {
    T::from(Uuid::from_u128(number))
}

#[test]
fn its_inputs_are_read() {
    let (server_id, action_id): (ServerId, _) = (id(1), "action".to_owned());
    let (volume_id, attachment_id): (VolumeId, AttachmentId) = (id(2), id(3));
    let facts = Facts {
        spec: ServerSpec {
            name: "web".into(),
            hostname: "web".into(),
            project_id: "project".into(),
            user_id: "user".into(),
            flavor: Some(Resources {
                vcpus: 1,
                memory_mib: 2,
                disk_gib: 3,
            }),
            image: Some(image()),
            ports: vec![port()],
            volumes: vec![VolumeConnection::default()],
            config_drive: [("openstack/latest/user_data".to_owned(), vec![1, 2])].into(),
            flavor_name: "m1.tiny".into(),
        },
        image_id: Some("image".into()),
        config_drive: true,
        zone: "nova".into(),
        forced_host: "node-1".into(),
        generation: 7,
        networks: vec![ResolvedNetwork {
            network_id: "network".into(),
            port_id: "port".into(),
            fixed_ip: "10.0.0.2".into(),
            label: "private".into(),
        }],
        security_group_ids: vec!["group".into()],
    };
    check(
        "create_server.input",
        &Input {
            server_id,
            action_id: action_id.clone(),
            facts,
        },
    );
    check(
        "delete_server.input",
        &delete_server::Input {
            server_id,
            action_id: action_id.clone(),
            overtaken: Some(id::<WorkflowId>(4)),
        },
    );
    check(
        "attach_volume.input",
        &attach_volume::Input {
            server_id,
            volume_id,
            attachment_id,
            device: "/dev/vdb".into(),
            action_id: action_id.clone(),
        },
    );
    check(
        "detach_volume.input",
        &detach_volume::Input {
            server_id,
            attachment_id,
            action_id: action_id.clone(),
        },
    );
    check(
        "change_power.input",
        &change_power::Input {
            server_id,
            action_id,
            generation: 7,
            power: "stopped".into(),
            reboot_count: 2,
            before_power: "running".into(),
        },
    );
}

fn image() -> ImageSource {
    ImageSource {
        image_id: "image".into(),
        endpoint: "http://image:9293".into(),
        ticket: "ticket".into(),
        size: 5,
        sha512: "ab".into(),
        disk_format: "raw".into(),
    }
}

fn port() -> NetworkPort {
    NetworkPort {
        port_id: "port".into(),
        tap: "tap".into(),
        mtu: 1450,
        ..NetworkPort::default()
    }
}

#[test]
fn its_steps_results_are_read() {
    check(
        "create_server.choose_hosts",
        &Chosen {
            hosts: vec![RankedHost::default()],
            decision: "{}".into(),
        },
    );
    check(
        "create_server.claim_host",
        &Placed {
            host: "node-1".into(),
            zone: "nova".into(),
            generation: 7,
            decision: Some("{}".into()),
        },
    );
    check("create_server.allocate_ports", &vec![port()]);
    check("create_server.issue_ticket", &Some(image()));
    check(
        "create_server.wait_active",
        &Seen {
            power: "running".into(),
        },
    );
    check("attach_volume.connect_volume", &7_i64);
    check("detach_volume.begin_detach", &7_i64);
}

/// A row says how many steps are done, and not which: steps may be added at the
/// end alone.
#[test]
fn its_steps_are_counted_as_they_were() {
    let nowhere = Weak::new;
    let all: [Box<dyn Workflow>; 5] = [
        Box::new(CreateServer::new(nowhere())),
        Box::new(delete_server::DeleteServer::new(nowhere())),
        Box::new(attach_volume::AttachVolume::new(nowhere())),
        Box::new(detach_volume::DetachVolume::new(nowhere())),
        Box::new(change_power::ChangePower::new(nowhere())),
    ];
    for workflow in all {
        let file = file(&format!("{}.steps", workflow.kind()));
        let now: Vec<String> = workflow.steps().iter().map(|it| (*it).to_owned()).collect();
        is_still_read(&file, &now).unwrap();
        let before: Vec<String> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert!(now.starts_with(&before), "{}", workflow.kind());
    }
}
