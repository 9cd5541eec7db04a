//! What a cloud holds before most tests begin: two projects, an image, a
//! flavor, a network for servers and one for floating IPs.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::{Api, Client, text};
use crate::cloud::TestCloud;

/// Waiting for one thing to happen in a simulated cloud.
pub const BOUND: Duration = Duration::from_secs(60);

/// The password of both users.
pub const PASSWORD: &str = "open sesame, 開けゴマ";

/// See the module.
pub struct World {
    #[allow(missing_docs)]
    pub admin: Client,
    /// A member of project `alpha`.
    pub alice: Client,
    /// A member of project `beta`.
    pub bob: Client,
    /// Public and active; 64 KiB of nothing in particular.
    pub image: String,
    /// 1 vCPU, 64 MiB, 1 GiB.
    pub flavor: String,
    /// Shared, 10.30.0.0/24.
    pub network: String,
    /// External, 172.30.9.0/24, floating IPs from .10 on.
    pub public: String,
}

/// A user in a project, with the role `member`.
pub async fn member(admin: &Client, user: &str, project: &str) -> Result<Client> {
    let body = json!({"project": {"name": project, "domain_id": "default"}});
    let made = admin.post(Api::Identity, "/projects", &body).await?.ok()?;
    let project_id = text(&made, "/project/id")?;
    let body = json!({"user": {"name": user, "domain_id": "default", "password": PASSWORD}});
    let made = admin.post(Api::Identity, "/users", &body).await?.ok()?;
    let user_id = text(&made, "/user/id")?;
    let roles = admin.get(Api::Identity, "/roles?name=member").await?.ok()?;
    let role = text(&roles, "/roles/0/id")?;
    let path = format!("/projects/{project_id}/users/{user_id}/roles/{role}");
    admin
        .send(reqwest::Method::PUT, Api::Identity, &path, &[], None)
        .await?
        .ok()?;
    admin.log_in(user, PASSWORD, Some(project)).await
}

/// An active image with these bytes.
pub async fn image(client: &Client, name: &str, bytes: Vec<u8>, format: &str) -> Result<String> {
    let body = json!({
        "name": name, "disk_format": format, "container_format": "bare", "visibility": "public",
    });
    let made = client.post(Api::Image, "/images", &body).await?.ok()?;
    let id = text(&made, "/id")?;
    client
        .upload(Api::Image, &format!("/images/{id}/file"), bytes)
        .await?
        .ok()?;
    Ok(id)
}

/// A network with one subnet; gives the network's id.
pub async fn network(client: &Client, network: &Value, subnet: &Value) -> Result<String> {
    let made = client
        .post(Api::Network, "/networks", &json!({"network": network}))
        .await?
        .ok()?;
    let id = text(&made, "/network/id")?;
    let mut subnet = subnet.clone();
    subnet["network_id"] = json!(id);
    subnet["ip_version"] = json!(4);
    client
        .post(Api::Network, "/subnets", &json!({"subnet": subnet}))
        .await?
        .ok()?;
    Ok(id)
}

/// A flavor.
pub async fn flavor(admin: &Client, name: &str, vcpus: u32, ram: u32, disk: u32) -> Result<String> {
    let body = json!({"flavor": {"name": name, "vcpus": vcpus, "ram": ram, "disk": disk}});
    let made = admin.post(Api::Compute, "/flavors", &body).await?.ok()?;
    text(&made, "/flavor/id")
}

impl World {
    /// Makes everything.
    pub async fn make(cloud: &TestCloud) -> Result<Self> {
        let admin = cloud.admin().await?;
        let alice = member(&admin, "alice", "alpha").await?;
        let bob = member(&admin, "bob", "beta").await?;
        let image = image(&admin, "nothing", vec![0x5a; 64 * 1024], "raw").await?;
        let flavor = flavor(&admin, "small", 1, 64, 1).await?;
        let public = network(
            &admin,
            &json!({
                "name": "public", "router:external": true,
                "provider:network_type": "flat", "provider:physical_network": "public",
            }),
            &json!({
                "name": "public-subnet", "cidr": "172.30.9.0/24", "gateway_ip": "172.30.9.1",
                "enable_dhcp": false,
                "allocation_pools": [{"start": "172.30.9.10", "end": "172.30.9.250"}],
            }),
        )
        .await?;
        let network = network(
            &admin,
            &json!({"name": "shared", "shared": true}),
            &json!({"name": "shared-subnet", "cidr": "10.30.0.0/24"}),
        )
        .await?;
        Ok(Self {
            admin,
            alice,
            bob,
            image,
            flavor,
            network,
            public,
        })
    }

    /// The document of a new server.
    pub fn server(&self, name: &str) -> Value {
        json!({
            "name": name, "imageRef": self.image, "flavorRef": self.flavor,
            "networks": [{"uuid": self.network}],
        })
    }

    /// Asks for a server; it is not there yet.
    pub async fn boot(&self, client: &Client, name: &str) -> Result<String> {
        let body = json!({"server": self.server(name)});
        let made = client
            .post(Api::Compute, "/servers", &body)
            .await?
            .with_status(202)?;
        text(&made.body, "/server/id")
    }

    /// A server that runs.
    pub async fn running(&self, client: &Client, name: &str) -> Result<String> {
        let id = self.boot(client, name).await?;
        client.server_becomes(&id, "ACTIVE", BOUND).await?;
        Ok(id)
    }

    /// Removes a server and waits until it is gone.
    pub async fn remove(&self, client: &Client, id: &str) -> Result<()> {
        let path = format!("/servers/{id}");
        client.delete(Api::Compute, &path).await?.with_status(204)?;
        client.gone(Api::Compute, &path, BOUND).await
    }
}
