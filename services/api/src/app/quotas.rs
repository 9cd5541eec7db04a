//! Limits. What a project uses is counted when something is taken, in the
//! transaction that takes it; there is no number that could go wrong.

use std::collections::BTreeMap;

use yakumo_db::{Backend, DbError};
use yakumo_types::{Fault, ProjectId, RequestContext};

use super::App;
use crate::config::QuotaConfig;
use crate::store::servers::Usage;
use crate::store::{DatabaseTransaction, quotas, servers};

/// Limits that are enforced here.
pub const ENFORCED: &[&str] = &["instances", "cores", "ram", "metadata_items", "key_pairs"];

/// Limits that compute's API has always listed, with what this cloud answers.
/// They limit things that the API took elsewhere, or that are not offered.
pub const FIXED: &[(&str, i64)] = &[
    ("fixed_ips", -1),
    ("floating_ips", -1),
    ("injected_file_content_bytes", 0),
    ("injected_file_path_bytes", 0),
    ("injected_files", 0),
    ("security_group_rules", -1),
    ("security_groups", -1),
    ("server_group_members", 0),
    ("server_groups", 0),
];

/// A project's limits by resource.
pub type Limits = BTreeMap<String, i64>;

fn defaults(config: &QuotaConfig) -> Limits {
    [
        ("instances", config.instances),
        ("cores", config.cores),
        ("ram", config.ram),
        ("metadata_items", config.metadata_items),
        ("key_pairs", config.key_pairs),
    ]
    .into_iter()
    .map(|(name, limit)| (name.to_owned(), limit))
    .collect()
}

/// The defaults with a project's own limits over them.
pub(crate) fn effective(config: &QuotaConfig, own: Limits) -> Limits {
    let mut limits = defaults(config);
    for (name, limit) in own {
        if let Some(known) = limits.get_mut(&name) {
            *known = limit;
        }
    }
    limits
}

/// Whether any limit is in the way of ever more servers.
pub(crate) fn limits_servers(limits: &Limits) -> bool {
    ["instances", "cores", "ram"]
        .iter()
        .any(|name| limits.get(*name).is_some_and(|limit| *limit >= 0))
}

/// Makes the inserting transactions of one project wait for each other, so
/// that two that count at the same time cannot both take the last one.
pub(crate) async fn lock_project(
    txn: &DatabaseTransaction,
    project: ProjectId,
) -> Result<(), DbError> {
    // SQLite's writer runs one transaction at a time.
    if Backend::of(txn) == Backend::Sqlite {
        return Ok(());
    }
    yakumo_db::revisions::next(txn, &format!("quota:{project}")).await?;
    Ok(())
}

/// How many more servers of a size the limits allow, or which limit is in the
/// way of even `least`.
pub(crate) fn servers_allowed(
    limits: &Limits,
    used: Usage,
    vcpus: i64,
    memory_mib: i64,
    least: i64,
    most: i64,
) -> Result<i64, Fault> {
    let limit = |name: &str| limits.get(name).copied().unwrap_or(-1);
    let mut allowed = most;
    let mut over = Vec::new();
    for (name, limit, used, each) in [
        ("instances", limit("instances"), used.servers, 1),
        ("cores", limit("cores"), used.vcpus, vcpus),
        ("ram", limit("ram"), used.memory_mib, memory_mib),
    ] {
        if limit < 0 || each == 0 {
            continue;
        }
        let room = (limit - used).max(0) / each;
        if room < least {
            over.push((name, limit, used, each));
        }
        allowed = allowed.min(room);
    }
    if over.is_empty() {
        return Ok(allowed);
    }
    type Over<'a> = (&'a str, i64, i64, i64);
    let list = |pick: fn(&Over<'_>) -> String| over.iter().map(pick).collect::<Vec<_>>().join(", ");
    let names = list(|(name, ..)| (*name).to_owned());
    let wanted: Vec<_> = over
        .iter()
        .map(|(.., each)| each.saturating_mul(least).to_string())
        .collect();
    Err(Fault::over_quota(format!(
        "Quota exceeded for {}: Requested {}, but already used {} of {} {}",
        names,
        wanted.join(", "),
        list(|(_, _, used, _)| used.to_string()),
        list(|(_, limit, ..)| limit.to_string()),
        names,
    )))
}

impl App {
    /// The limits of a project.
    pub async fn quota_show(
        &self,
        ctx: &RequestContext,
        project: ProjectId,
    ) -> Result<Limits, Fault> {
        may_look(ctx, project)?;
        let own = quotas::quota_list(self.db.read(), &project.to_string()).await?;
        Ok(effective(&self.config.quota, own))
    }

    /// The limits of a project that has none of its own.
    pub fn quota_defaults(&self, ctx: &RequestContext) -> Result<Limits, Fault> {
        ctx.require(yakumo_types::Role::Reader)?;
        Ok(defaults(&self.config.quota))
    }

    /// What a project uses.
    pub async fn quota_usage(
        &self,
        ctx: &RequestContext,
        project: ProjectId,
    ) -> Result<Usage, Fault> {
        may_look(ctx, project)?;
        Ok(servers::usage(self.db.read(), &project.to_string()).await?)
    }

    /// Sets limits of a project; those that are not named stay. Without
    /// `force`, a limit below what is used is refused.
    pub async fn quota_update(
        &self,
        ctx: &RequestContext,
        project: ProjectId,
        wanted: Limits,
        force: bool,
    ) -> Result<Limits, Fault> {
        ctx.require_admin()?;
        for (name, limit) in &wanted {
            if !(-1..=0x7FFF_FFFF).contains(limit) {
                return Err(Fault::invalid(format!(
                    "The limit of {name} must be -1 or more."
                )));
            }
        }
        let used = servers::usage(self.db.read(), &project.to_string()).await?;
        if !force {
            for (name, used) in [
                ("instances", used.servers),
                ("cores", used.vcpus),
                ("ram", used.memory_mib),
            ] {
                if let Some(limit) = wanted.get(name)
                    && *limit >= 0
                    && *limit < used
                {
                    return Err(Fault::invalid(format!(
                        "Quota limit {limit} for {name} must be greater than or equal to already used and reserved {used}."
                    )));
                }
            }
        }
        let id = project.to_string();
        self.db
            .write(move |txn| {
                let (id, wanted) = (id.clone(), wanted.clone());
                Box::pin(async move { quotas::quota_set(txn, &id, wanted).await })
            })
            .await?;
        self.quota_show(ctx, project).await
    }

    /// Back to the defaults.
    pub async fn quota_reset(&self, ctx: &RequestContext, project: ProjectId) -> Result<(), Fault> {
        ctx.require_admin()?;
        let id = project.to_string();
        self.db
            .write(move |txn| {
                let id = id.clone();
                Box::pin(async move { quotas::quota_delete(txn, &id).await })
            })
            .await?;
        Ok(())
    }
}

fn may_look(ctx: &RequestContext, project: ProjectId) -> Result<(), Fault> {
    ctx.require(yakumo_types::Role::Reader)?;
    if ctx.may_see(project) {
        return Ok(());
    }
    Err(Fault::forbidden(
        "You are not authorized to see the quota of another project.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_decides_and_names_itself() {
        let limits = defaults(&QuotaConfig::default());
        let used = Usage {
            servers: 2,
            vcpus: 16,
            memory_mib: 1024,
        };
        assert_eq!(servers_allowed(&limits, used, 1, 512, 1, 10).unwrap(), 4);
        assert_eq!(servers_allowed(&limits, used, 2, 512, 1, 10).unwrap(), 2);
        let fault = servers_allowed(&limits, used, 8, 512, 1, 1).unwrap_err();
        assert_eq!(
            fault.message,
            "Quota exceeded for cores: Requested 8, but already used 16 of 20 cores"
        );
        let unlimited = effective(
            &QuotaConfig::default(),
            [("cores".to_owned(), -1)].into_iter().collect(),
        );
        assert_eq!(servers_allowed(&unlimited, used, 8, 512, 1, 3).unwrap(), 3);
    }

    #[test]
    fn servers_are_counted_as_soon_as_one_limit_of_theirs_is_set() {
        let none = ["instances", "cores", "ram"].map(|name| (name.to_owned(), -1));
        let unlimited = effective(&QuotaConfig::default(), none.into());
        assert!(unlimited["key_pairs"] >= 0);
        assert!(!limits_servers(&unlimited));
        for name in ["instances", "cores", "ram"] {
            let mut one = unlimited.clone();
            one.insert(name.to_owned(), 0);
            assert!(limits_servers(&one), "{name}");
        }
    }
}
