//! Servers as documents, written from borrowed rows.

use std::collections::HashMap;

use sha2::{Digest, Sha224};
use yakumo_types::server_state::ServerState;
use yakumo_types::{DOMAIN_PREFIX, Timestamp};

use super::super::write::Json;
use crate::store::servers::{NamedServer, ShownServer};
use crate::store::volumes::ServerVolume;

/// Who looks, from where, and what was worked out for the servers before.
pub(super) struct Viewer<'a> {
    /// `http://host:port`.
    base: &'a str,
    is_admin: bool,
    /// By project and host: a page has many servers and few of these.
    host_ids: HashMap<(&'a str, &'a str), String>,
}

/// An id without hyphens, as tokens write users and projects.
fn simple(json: &mut Json, id: &str) {
    json.raw("\"");
    for part in id.split('-') {
        json.raw(part);
    }
    json.raw("\"");
}

impl<'a> Viewer<'a> {
    pub fn new(base: &'a str, is_admin: bool) -> Self {
        Self {
            base,
            is_admin,
            host_ids: HashMap::new(),
        }
    }

    fn links(&self, json: &mut Json, id: &str) {
        json.raw("[{\"rel\":\"self\",\"href\":\"")
            .raw(self.base)
            .raw("/v2.1/servers/")
            .raw(id)
            .raw("\"},{\"rel\":\"bookmark\",\"href\":\"")
            .raw(self.base)
            .raw("/servers/")
            .raw(id)
            .raw("\"}]");
    }

    /// The host in a form that tells a project apart which of its servers share
    /// one, and nothing else.
    fn host_id(&mut self, json: &mut Json, row: &'a ShownServer) {
        json.raw("\"");
        if let Some(host) = &row.host {
            let id = self
                .host_ids
                .entry((&row.project_id, host))
                .or_insert_with(|| {
                    let mut hash = Sha224::new();
                    hash.update(row.project_id.as_bytes());
                    hash.update(host.as_bytes());
                    hex::encode(hash.finalize())
                });
            json.raw(id);
        }
        json.raw("\"");
    }

    /// `id`, `name` and links.
    pub fn summary(&self, json: &mut Json, row: &NamedServer) {
        json.raw("{\"id\":\"")
            .raw(&row.id)
            .raw("\",\"name\":")
            .text(&row.name);
        json.raw(",\"links\":");
        self.links(json, &row.id);
        json.raw("}");
    }

    /// Everything.
    pub fn detail(&mut self, json: &mut Json, row: &'a ShownServer, volumes: &[ServerVolume]) {
        let state = row.state();
        json.raw("{\"id\":\"")
            .raw(&row.id)
            .raw("\",\"name\":")
            .text(&row.name);
        json.raw(",\"status\":\"").raw(state.status());
        json.raw("\",\"tenant_id\":");
        simple(json, &row.project_id);
        json.raw(",\"user_id\":");
        simple(json, &row.user_id);
        json.raw(",\"metadata\":").raw(&row.metadata);
        json.raw(",\"hostId\":");
        self.host_id(json, row);
        json.raw(",\"image\":");
        match &row.image_id {
            Some(image) => {
                json.raw("{\"id\":\"").raw(image);
                json.raw("\",\"links\":[{\"rel\":\"bookmark\",\"href\":\"")
                    .raw(self.base)
                    .raw("/images/")
                    .raw(image)
                    .raw("\"}]}");
            }
            None => {
                json.raw("\"\"");
            }
        }
        json.raw(",\"flavor\":{\"id\":").text(&row.flavor_id);
        json.raw(",\"links\":[{\"rel\":\"bookmark\",\"href\":\"")
            .raw(self.base)
            .raw("/flavors/");
        // A flavor's id holds nothing that needs quoting in JSON.
        json.raw(&row.flavor_id).raw("\"}]}");
        json.raw(",\"created\":\"");
        Timestamp::from_micros(row.created_at).push_iso_z(&mut json.out);
        json.raw("\",\"updated\":\"");
        Timestamp::from_micros(row.updated_at).push_iso_z(&mut json.out);
        json.raw("\",\"addresses\":").raw(&row.addresses);
        json.raw(",\"accessIPv4\":\"\",\"accessIPv6\":\"\",\"links\":");
        self.links(json, &row.id);
        json.raw(",\"OS-DCF:diskConfig\":\"MANUAL\"");
        if matches!(state.status(), "ACTIVE" | "BUILD") {
            json.raw(",\"progress\":0");
        }
        json.raw(",\"OS-EXT-AZ:availability_zone\":")
            .text(row.availability_zone.as_deref().unwrap_or(""));
        json.raw(",\"config_drive\":")
            .raw(if row.config_drive { "\"True\"" } else { "\"\"" });
        json.raw(",\"key_name\":")
            .text_or_null(row.key_name.as_deref());
        times(json, row);
        json.raw(",\"security_groups\":").raw(&row.security_groups);
        states(json, row, state);
        json.raw(",\"os-extended-volumes:volumes_attached\":[");
        for (number, volume) in volumes.iter().enumerate() {
            json.raw(if number == 0 {
                "{\"id\":\""
            } else {
                ",{\"id\":\""
            });
            json.raw(&volume.volume_id).raw("\"}");
        }
        json.raw("]");
        if self.is_admin {
            json.raw(",\"OS-EXT-SRV-ATTR:host\":")
                .text_or_null(row.host.as_deref());
            json.raw(",\"OS-EXT-SRV-ATTR:hypervisor_hostname\":")
                .text_or_null(row.host.as_deref());
            json.raw(",\"OS-EXT-SRV-ATTR:instance_name\":\"")
                .raw(DOMAIN_PREFIX)
                .raw(&row.id)
                .raw("\"");
        }
        if matches!(state.status(), "ERROR" | "DELETED")
            && let Some(fault) = &row.fault
        {
            json.raw(",\"fault\":").raw(&self.visible(fault));
        }
        json.raw("}");
    }

    /// The fault; its particulars name hosts, which is for administrators.
    fn visible(&self, fault: &str) -> String {
        if self.is_admin {
            return fault.to_owned();
        }
        match serde_json::from_str::<serde_json::Value>(fault) {
            Ok(serde_json::Value::Object(mut object)) => {
                object.remove("details");
                serde_json::Value::Object(object).to_string()
            }
            _ => "{}".to_owned(),
        }
    }
}

fn times(json: &mut Json, row: &ShownServer) {
    let ended = (row.deleted_at != 0).then_some(row.deleted_at);
    for (name, at) in [
        (",\"OS-SRV-USG:launched_at\":", row.launched_at),
        (",\"OS-SRV-USG:terminated_at\":", ended),
    ] {
        json.raw(name);
        match at {
            Some(at) => {
                json.raw("\"");
                Timestamp::from_micros(at).push_iso_micros(&mut json.out);
                json.raw("\"");
            }
            None => {
                json.raw("null");
            }
        }
    }
}

fn states(json: &mut Json, row: &ShownServer, state: ServerState) {
    json.raw(",\"OS-EXT-STS:vm_state\":\"")
        .raw(state.vm.as_str());
    json.raw("\",\"OS-EXT-STS:task_state\":")
        .text_or_null(state.task.map(|task| task.as_str()));
    json.raw(",\"OS-EXT-STS:power_state\":")
        .number(row.power_state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tests::sample_server;
    use crate::store::servers::Server;

    fn shown(row: &Server, is_admin: bool) -> serde_json::Value {
        let mut json = Json::default();
        let row = ShownServer::from(row.clone());
        Viewer::new("http://cloud:8774", is_admin).detail(&mut json, &row, &[]);
        serde_json::from_str(&json.out).unwrap()
    }

    #[test]
    fn servers_of_a_page_share_a_host_id_if_they_share_project_and_host() {
        let base = ShownServer::from(sample_server());
        let rows = [
            base.clone(),
            base.clone(),
            ShownServer {
                host: Some("node-2".into()),
                ..base.clone()
            },
            ShownServer {
                project_id: base.user_id.clone(),
                ..base.clone()
            },
            ShownServer { host: None, ..base },
        ];
        let mut viewer = Viewer::new("", false);
        let ids: Vec<String> = rows
            .iter()
            .map(|row| {
                let mut json = Json::default();
                viewer.host_id(&mut json, row);
                json.out
            })
            .collect();
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
        assert_ne!(ids[0], ids[3]);
        assert_eq!(ids[4], "\"\"");
    }

    #[test]
    fn a_server_is_shown_as_the_api_writes_it() {
        let mut row = sample_server();
        row.name = "a \"quoted\"\nname".into();
        let document = shown(&row, false);
        assert_eq!(document["name"], "a \"quoted\"\nname");
        assert_eq!(document["status"], "ACTIVE");
        assert_eq!(document["OS-EXT-STS:power_state"], 1);
        assert_eq!(document["created"], "2023-11-14T22:13:20Z");
        assert_eq!(document["tenant_id"], "111111112b4d4e0f8a4b1c2d3e4f5a6b");
        assert_eq!(document["hostId"].as_str().unwrap().len(), 56);
        assert_eq!(
            document["links"][0]["href"],
            format!("http://cloud:8774/v2.1/servers/{}", row.id)
        );
        assert!(document.get("fault").is_none());
        assert!(document.get("OS-EXT-SRV-ATTR:host").is_none());
        let for_admin = shown(&row, true);
        assert_eq!(for_admin["OS-EXT-SRV-ATTR:host"], "node-1");
        assert_eq!(
            for_admin["OS-EXT-SRV-ATTR:instance_name"],
            yakumo_types::domain_name(row.id.parse().unwrap())
        );
    }

    #[test]
    fn a_fault_is_shown_in_error_and_its_particulars_to_administrators() {
        let mut row = sample_server();
        row.vm_state = "error".into();
        row.fault = Some(r#"{"code":500,"message":"no","details":"{}"}"#.into());
        assert_eq!(shown(&row, false)["fault"]["message"], "no");
        assert!(shown(&row, false)["fault"].get("details").is_none());
        assert_eq!(shown(&row, true)["fault"]["details"], "{}");
    }
}
