//! The network service's tables as rows.

/// A network.
pub mod network {
    use sea_orm::entity::prelude::*;

    /// One row of `networks`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "networks")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The owner.
        pub project_id: String,
        /// May be empty.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// Whether it is meant to work.
        pub admin_state_up: bool,
        /// Whether every project may use it.
        pub shared: bool,
        /// Whether floating IPs come from it.
        pub external: bool,
        /// MTU.
        pub mtu: i64,
        /// `flat` or `local`.
        pub network_type: String,
        /// Where a flat one is.
        pub physical_network: String,
        /// What its ports start with.
        pub port_security: bool,
        /// Whether it is the external one that is taken unasked.
        pub is_default: bool,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A subnet.
pub mod subnet {
    use sea_orm::entity::prelude::*;

    /// One row of `subnets`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "subnets")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its network.
        pub network_id: String,
        /// The owner.
        pub project_id: String,
        /// May be empty.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// Address and prefix.
        pub cidr: String,
        /// Its lowest address as a number.
        pub first: i64,
        /// Its highest address as a number.
        pub last: i64,
        /// Empty for none.
        pub gateway_ip: String,
        /// The address of bridges: the gateway, or one of its own.
        pub serve_address: String,
        /// Whether addresses are given out by DHCP.
        pub enable_dhcp: bool,
        /// JSON list.
        pub dns_nameservers: String,
        /// JSON list.
        pub host_routes: String,
        /// JSON list of pairs of numbers.
        pub allocation_pools: String,
        /// Where the search for an address that was never used goes on.
        pub next_number: i64,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A port.
pub mod port {
    use sea_orm::entity::prelude::*;

    /// One row of `ports`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "ports")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its network.
        pub network_id: String,
        /// The owner; empty for ports of the system.
        pub project_id: String,
        /// May be empty.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// Unique, and never used again.
        pub mac: String,
        /// Whether anything may pass.
        pub admin_state_up: bool,
        /// `ACTIVE` or `DOWN`.
        pub status: String,
        /// The server or router that has it.
        pub device_id: String,
        /// `compute:nova`, `network:router_interface`, ….
        pub device_owner: String,
        /// Whether addresses and rules are enforced.
        pub port_security: bool,
        /// The host that it is bound to.
        pub host: String,
        /// `normal`.
        pub vnic_type: String,
        /// What DHCP calls its guest.
        pub hostname: String,
        /// Whether it goes with its server.
        pub made_for_server: bool,
        /// Its place among the ports of its server.
        pub ordinal: i64,
        /// When it was deleted; 0 while it lives.
        pub released_at: i64,
        /// The revision of its host that no longer has it; 0 while it is not
        /// being let go.
        pub release_revision: i64,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A MAC that was used once.
pub mod mac {
    use sea_orm::entity::prelude::*;

    /// One row of `macs`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "macs")]
    pub struct Model {
        /// The MAC.
        #[sea_orm(primary_key, auto_increment = false)]
        pub mac: String,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// An address of a subnet that is or was in use.
pub mod address {
    use sea_orm::entity::prelude::*;

    /// One row of `addresses`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "addresses")]
    pub struct Model {
        /// Its subnet.
        #[sea_orm(primary_key, auto_increment = false)]
        pub subnet_id: String,
        /// The address as a number.
        #[sea_orm(primary_key, auto_increment = false)]
        pub number: i64,
        /// The network of the subnet.
        pub network_id: String,
        /// The address.
        pub address: String,
        /// The port or floating IP that has it; empty when free.
        pub owner: String,
        /// Its place among the addresses of its owner.
        pub ordinal: i64,
        /// When it became free.
        pub freed_at: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A security group.
pub mod security_group {
    use sea_orm::entity::prelude::*;

    /// One row of `security_groups`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "security_groups")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The owner.
        pub project_id: String,
        /// Its name.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// The project whose default group it is.
        pub default_of: Option<String>,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A rule of a security group.
pub mod rule {
    use sea_orm::entity::prelude::*;

    /// One row of `security_group_rules`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "security_group_rules")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its group.
        pub group_id: String,
        /// The owner.
        pub project_id: String,
        /// `ingress` or `egress`.
        pub direction: String,
        /// `IPv4` or `IPv6`.
        pub ethertype: String,
        /// Empty for any.
        pub protocol: String,
        /// Lowest port or ICMP type.
        pub port_min: Option<i64>,
        /// Highest port or ICMP code.
        pub port_max: Option<i64>,
        /// Empty for any.
        pub remote_ip_prefix: String,
        /// Empty for any.
        pub remote_group_id: String,
        /// May be empty.
        pub description: String,
        /// What it says, in one text: two rules of a group never say the same.
        pub fingerprint: String,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A port being in a group.
pub mod membership {
    use sea_orm::entity::prelude::*;

    /// One row of `port_security_groups`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "port_security_groups")]
    pub struct Model {
        /// The port.
        #[sea_orm(primary_key, auto_increment = false)]
        pub port_id: String,
        /// The group.
        #[sea_orm(primary_key, auto_increment = false)]
        pub group_id: String,
        /// The port's host, to find the hosts of a group by.
        pub host: String,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A floating IP.
pub mod floating_ip {
    use sea_orm::entity::prelude::*;

    /// One row of `floating_ips`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "floating_ips")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The owner.
        pub project_id: String,
        /// May be empty.
        pub description: String,
        /// The external network.
        pub network_id: String,
        /// The address.
        pub address: String,
        /// The port; empty for none.
        pub port_id: String,
        /// The address behind it; empty for none.
        pub fixed_address: String,
        /// Port and fixed address: one floating IP each.
        pub target: Option<String>,
        /// The router on the way; empty for none.
        pub router_id: String,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A router.
pub mod router {
    use sea_orm::entity::prelude::*;

    /// One row of `routers`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "routers")]
    pub struct Model {
        /// Its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The owner.
        pub project_id: String,
        /// May be empty.
        pub name: String,
        /// May be empty.
        pub description: String,
        /// Whether it is meant to work.
        pub admin_state_up: bool,
        /// The external network; empty for none.
        pub gateway_network_id: String,
        /// The port that holds its address there; empty for none.
        pub gateway_port_id: String,
        /// Whether what leaves is translated.
        pub enable_snat: bool,
        /// Microseconds since the epoch.
        pub created_at: i64,
        /// Microseconds since the epoch.
        pub updated_at: i64,
        /// Counts changes.
        pub revision: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A subnet being on a router; it can be on one only.
pub mod router_interface {
    use sea_orm::entity::prelude::*;

    /// One row of `router_interfaces`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "router_interfaces")]
    pub struct Model {
        /// The subnet.
        #[sea_orm(primary_key, auto_increment = false)]
        pub subnet_id: String,
        /// The router.
        pub router_id: String,
        /// The subnet's network.
        pub network_id: String,
        /// The port that stands for it.
        pub port_id: String,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A limit that an administrator set for a project.
pub mod quota {
    use sea_orm::entity::prelude::*;

    /// One row of `quotas`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "quotas")]
    pub struct Model {
        /// The project.
        #[sea_orm(primary_key, auto_increment = false)]
        pub project_id: String,
        /// What is limited.
        #[sea_orm(primary_key, auto_increment = false)]
        pub resource: String,
        /// -1 for no limit.
        pub value: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What transactions that count a project's things wait for.
pub mod quota_lock {
    use sea_orm::entity::prelude::*;

    /// One row of `quota_locks`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "quota_locks")]
    pub struct Model {
        /// The project.
        #[sea_orm(primary_key, auto_increment = false)]
        pub project_id: String,
        /// Counts them.
        pub value: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A host with a network agent.
pub mod host {
    use sea_orm::entity::prelude::*;

    /// One row of `hosts`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "hosts")]
    pub struct Model {
        /// Its name.
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        /// Its own id; empty before it was heard.
        pub host_id: String,
        /// `real` or `simulated`.
        pub driver: String,
        /// Its zone.
        pub availability_zone: String,
        /// Raised with every change of what it should have.
        pub revision: i64,
        /// The last change that [`super::host_change`] does not tell: whoever
        /// has an older revision needs everything.
        pub full_revision: i64,
        /// What it said it has made real.
        pub applied_revision: i64,
        /// Whether its agent takes changes of groups by themselves.
        pub follows_groups: bool,
        /// When its agent started.
        pub started_at: i64,
        /// When it was heard last.
        pub heard_at: i64,
        /// When it was heard first.
        pub created_at: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A port that changed something of what a host should have.
pub mod host_change {
    use sea_orm::entity::prelude::*;

    /// One row of `host_changes`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "host_changes")]
    pub struct Model {
        /// The host.
        #[sea_orm(primary_key, auto_increment = false)]
        pub host: String,
        /// The host's revision since that change.
        #[sea_orm(primary_key, auto_increment = false)]
        pub revision: i64,
        /// The port; it may be elsewhere, or gone.
        #[sea_orm(primary_key, auto_increment = false)]
        pub port_id: String,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A port that joined or left a group, or became another one in it, of which no
/// host was told yet.
pub mod group_change {
    use sea_orm::entity::prelude::*;

    /// One row of `group_changes`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "group_changes")]
    pub struct Model {
        /// Its own id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The group.
        pub group_id: String,
        /// The port; it may be gone.
        pub port_id: String,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// How often the members of a group have changed, in batches.
pub mod group_revision {
    use sea_orm::entity::prelude::*;

    /// One row of `group_revisions`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "group_revisions")]
    pub struct Model {
        /// The group.
        #[sea_orm(primary_key, auto_increment = false)]
        pub group_id: String,
        /// The newest batch.
        pub revision: i64,
        /// The newest batch that hosts were told of.
        pub told_revision: i64,
        /// When the newest batch was made.
        pub changed_at: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What is kept for each server with ports.
pub mod server {
    use sea_orm::entity::prelude::*;

    /// One row of `servers`.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "servers")]
    pub struct Model {
        /// The server's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// Its project.
        pub project_id: String,
        /// The order of the newest message: twice its workflow's epoch, and one
        /// more if it released the ports.
        pub epoch: i64,
        /// Counts changes of what listings show.
        pub revision: i64,
        /// When a workflow was last here.
        pub touched_at: i64,
    }

    /// None: what belongs together is fetched for a whole page at once.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
