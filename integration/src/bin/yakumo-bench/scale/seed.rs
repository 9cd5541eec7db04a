//! Servers that are there before anything is measured: the rows of one that was
//! booted, written again under other names, and the records of their hosts.
//! Booting a hundred thousand would take hours, and make the same rows.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use yakumo_compute::store::Record;
use yakumo_db::{Db, DbConfig};
use yakumo_integration::cloud::TestCloud;
use yakumo_testing::databases;

/// Servers of a project other than the large one.
const SMALL: usize = 100;
/// Rows that one statement makes.
const CHUNK: usize = 10_000;
/// The first of their addresses; what is booted gets others.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 0);

/// What is to be there.
pub struct Seed {
    /// Hosts, called `sim-0001` and so on.
    pub hosts: usize,
    /// Servers in all.
    pub servers: usize,
    /// Those of them in the project of the template.
    pub large: usize,
    /// Hosts that these are spread over.
    pub large_hosts: usize,
    /// The server that is written again, which runs on the first host.
    pub template: String,
}

impl Seed {
    /// The host of a server, counted from zero.
    fn host(&self, server: usize) -> usize {
        if server < self.large {
            server % self.large_hosts * (self.hosts / self.large_hosts)
        } else {
            server % self.hosts
        }
    }

    fn host_name(&self, server: usize) -> String {
        format!("sim-{:04}", self.host(server) + 1)
    }

    /// The same in SQL, for the server `k`.
    fn host_in_sql(&self) -> String {
        let number = format!(
            "(CASE WHEN k < {large} THEN k % {spread} * {apart} ELSE k % {hosts} END + 1)::text",
            large = self.large,
            spread = self.large_hosts,
            apart = self.hosts / self.large_hosts,
            hosts = self.hosts,
        );
        format!("'sim-' || lpad({number}, greatest(4, length({number})), '0')")
    }

    /// The project of the server `k` in SQL, with that of the template.
    fn project_in_sql(&self, own: &str) -> String {
        let number = format!("k / {SMALL}");
        format!(
            "CASE WHEN k < {} THEN {own} ELSE {} END",
            self.large,
            id_in_sql(2, &number)
        )
    }

    /// Makes all of it. The host process must not run.
    pub async fn plant(&self, cloud: &TestCloud) -> Result<()> {
        let api = Tables::open(cloud, "api").await?;
        let network = Tables::open(cloud, "network.manager").await?;
        for from in (0..self.servers).step_by(CHUNK) {
            let to = (from + CHUNK).min(self.servers) - 1;
            self.plant_servers(&api, from, to).await?;
            self.plant_ports(&network, from, to).await?;
        }
        for tables in [api, network] {
            tables.run("ANALYZE".into()).await?;
            tables.0.close().await;
        }
        self.plant_records(&cloud.folder().join("host/compute/simulated"))
    }

    async fn plant_servers(&self, api: &Tables, from: usize, to: usize) -> Result<()> {
        let (template, host) = (&self.template, self.host_in_sql());
        let project = self.project_in_sql("t.project_id");
        let (server, address, mac) = (id_in_sql(0, "k"), address_in_sql(), mac_in_sql());
        api.run(format!(
            "INSERT INTO server SELECT (jsonb_populate_record(t, jsonb_build_object(
                'id', {server}, 'project_id', {project}, 'name', 'seed-' || k,
                'hostname', 'seed-' || k, 'host', {host}, 'created_at', t.created_at + k,
                'addresses', regexp_replace(regexp_replace(t.addresses,
                    '\"addr\": ?\"[0-9.]+\"', '\"addr\":\"' || {address} || '\"'),
                    'fa:16:3e:[0-9a-f:]+', {mac})))).*
             FROM server t, generate_series({from}, {to}) k WHERE t.id = '{template}'"
        ))
        .await?;
        api.run(format!(
            "INSERT INTO server_build SELECT (jsonb_populate_record(t, jsonb_build_object(
                'server_id', {server}))).*
             FROM server_build t, generate_series({from}, {to}) k
             WHERE t.server_id = '{template}'"
        ))
        .await?;
        api.run(format!(
            "INSERT INTO server_action SELECT (jsonb_populate_record(t, jsonb_build_object(
                'id', {action}, 'server_id', {server}, 'project_id', {project}))).*
             FROM server_action t, generate_series({from}, {to}) k
             WHERE t.server_id = '{template}' AND t.action = 'create'",
            action = id_in_sql(4, "k")
        ))
        .await
    }

    async fn plant_ports(&self, network: &Tables, from: usize, to: usize) -> Result<()> {
        let (template, host) = (&self.template, self.host_in_sql());
        let project = self.project_in_sql("t.project_id");
        let (server, port) = (id_in_sql(0, "k"), id_in_sql(1, "k"));
        let series = format!("generate_series({from}, {to}) k");
        let group = id_in_sql(3, &format!("k / {SMALL}"));
        let default = format!(
            "(SELECT id FROM security_groups WHERE default_of =
              (SELECT project_id FROM ports WHERE device_id = '{template}'))"
        );
        // Each small project has a default group that lets its members in.
        let small = format!("{series} WHERE k >= {} AND k % {SMALL} = 0", self.large);
        let owner = id_in_sql(2, &format!("k / {SMALL}"));
        network
            .run(format!(
                "INSERT INTO security_groups SELECT (jsonb_populate_record(t, jsonb_build_object(
                    'id', {group}, 'project_id', {owner}, 'default_of', {owner}))).*
                 FROM security_groups t, {small} AND t.id = {default}"
            ))
            .await?;
        network
            .run(format!(
                "INSERT INTO security_group_rules SELECT (jsonb_populate_record(t,
                    jsonb_build_object('id', gen_random_uuid(), 'group_id', {group},
                    'project_id', {owner}, 'remote_group_id',
                    CASE WHEN t.remote_group_id = '' THEN '' ELSE {group} END))).*
                 FROM security_group_rules t, {small} AND t.group_id = {default}"
            ))
            .await?;
        network
            .run(format!(
                "INSERT INTO ports SELECT (jsonb_populate_record(t, jsonb_build_object(
                    'id', {port}, 'project_id', {project}, 'device_id', {server},
                    'mac', {mac}, 'host', {host}, 'hostname', 'seed-' || k))).*
                 FROM ports t, {series} WHERE t.device_id = '{template}'",
                mac = mac_in_sql()
            ))
            .await?;
        network
            .run(format!(
                "INSERT INTO macs SELECT {} FROM {series}",
                mac_in_sql()
            ))
            .await?;
        network
            .run(format!(
                "INSERT INTO addresses SELECT (jsonb_populate_record(t, jsonb_build_object(
                    'number', {first} + k, 'address', {address}, 'owner', {port}))).*
                 FROM addresses t, {series}
                 WHERE t.owner = (SELECT id FROM ports WHERE device_id = '{template}')",
                first = u32::from(FIRST),
                address = address_in_sql()
            ))
            .await?;
        network
            .run(format!(
                "INSERT INTO port_security_groups (port_id, group_id, host)
                 SELECT {port}, CASE WHEN k < {large} THEN {default} ELSE {group} END, {host}
                 FROM {series}",
                large = self.large
            ))
            .await?;
        network
            .run(format!(
                "INSERT INTO servers SELECT (jsonb_populate_record(t, jsonb_build_object(
                    'id', {server}, 'project_id', {project}))).*
                 FROM servers t, {series} WHERE t.id = '{template}'"
            ))
            .await
    }

    fn plant_records(&self, root: &Path) -> Result<()> {
        let servers = |host: &str| -> PathBuf { root.join(host).join("servers") };
        let own = servers("sim-0001").join(format!("{}.json", self.template));
        let template: Record = serde_json::from_slice(
            &std::fs::read(&own).with_context(|| format!("reading {}", own.display()))?,
        )?;
        for server in 0..self.servers {
            let mut record = template.clone();
            let id = id(0, server);
            record.server_id = id.parse()?;
            let Some(desired) = record.desired.as_mut() else {
                bail!("the template has no desired state");
            };
            desired.server_id.clone_from(&id);
            if let Some(spec) = desired.spec.as_mut() {
                spec.name = format!("seed-{server}");
                spec.hostname.clone_from(&spec.name);
                for port in &mut spec.ports {
                    port.port_id = self::id(1, server);
                }
            }
            let folder = servers(&self.host_name(server));
            std::fs::write(
                folder.join(format!("{id}.json")),
                serde_json::to_vec(&record)?,
            )?;
        }
        Ok(())
    }
}

/// The id of a planted server.
pub fn server_id(number: usize) -> String {
    id(0, number)
}

/// An id of the given kind of thing.
fn id(kind: u8, number: usize) -> String {
    format!("{number:08x}-000{kind}-4000-8000-{number:012x}")
}

/// The same in SQL.
fn id_in_sql(kind: u8, number: &str) -> String {
    format!(
        "lpad(to_hex({number}), 8, '0') || '-000{kind}-4000-8000-' || lpad(to_hex({number}), 12, '0')"
    )
}

fn address_in_sql() -> String {
    format!("host('{FIRST}'::inet + k)")
}

fn mac_in_sql() -> String {
    let byte = |shift: u8| format!("lpad(to_hex((k >> {shift}) & 255), 2, '0')");
    format!(
        "'fa:16:3f:' || {} || ':' || {} || ':' || {}",
        byte(16),
        byte(8),
        byte(0)
    )
}

/// The database of one service.
struct Tables(Db);

impl Tables {
    async fn open(cloud: &TestCloud, section: &str) -> Result<Self> {
        let urls = cloud.databases();
        let (_, url) = urls
            .iter()
            .find(|(name, _)| *name == section)
            .with_context(|| format!("no database of {section}"))?;
        let mut config = DbConfig::with_url(url.clone());
        config.max_connections = 1;
        Ok(Self(Db::connect(&config).await?))
    }

    async fn run(&self, sql: String) -> Result<()> {
        let shown = sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        let ran = databases::execute(&self.0, &sql).await;
        ran.with_context(|| format!("{shown} …"))
    }
}
