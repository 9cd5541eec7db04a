//! Security groups and their rules. Every project has a default group, made
//! when it is first needed: all may go out, and its members may come in.

use std::collections::HashMap;

use ipnetwork::IpNetwork;
use yakumo_contracts::network::{
    CreateSecurityGroupRulesRequest, CreateSecurityGroupsRequest, ListRequest,
    ListSecurityGroupRulesReply, ListSecurityGroupsReply, SecurityGroup, SecurityGroupRule,
    UpdateSecurityGroupRequest,
};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, RequestContext, SecurityGroupId, SecurityGroupRuleId, check_name};

use super::repeats::{by_ids, in_order};
use super::{App, check_bulk, check_texts, faults, owner, render, require_owner};
use crate::agent::model::Protocol;
use crate::store::{self, Walls, rule, security_group};

const DEFAULT: &str = "default";

impl App {
    /// Makes groups, all or none; each lets everything out and nothing in.
    pub async fn create_security_groups(
        &self,
        ctx: &RequestContext,
        request: CreateSecurityGroupsRequest,
    ) -> Result<ListSecurityGroupsReply, Fault> {
        check_bulk(request.security_groups.len())?;
        let once = self.once(ctx, "create_security_groups", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_security_groups(ctx, by_ids(&ids)).await?;
            reply.security_groups = in_order(&ids, reply.security_groups, |it| &it.id)?;
            return Ok(reply);
        }
        let mut rows = Vec::new();
        for new in request.security_groups {
            let project = owner(ctx, &new.project_id)?;
            let name = check_name("The name", &new.name, 255)
                .map_err(faults::as_invalid_input)?
                .to_owned();
            check_texts(&name, &new.description)?;
            if name == DEFAULT {
                return Err(faults::conflict(
                    "SecurityGroupDefaultAlreadyExists",
                    "Default security group already exists.",
                ));
            }
            let row = self.new_group(project, name, new.description);
            rows.push((row.id.clone(), row));
        }
        self.make(ctx, once, rows, |app, txn, _ctx, rows| {
            Box::pin(async move {
                let mut security_groups = Vec::new();
                for (_, row) in rows {
                    ensure_default(&app, txn, &row.project_id).await?;
                    app.spend(txn, &row.project_id, "security_group", 1).await?;
                    let rules = app.first_rules(&row, false)?;
                    store::security_groups::insert(txn, row.clone()).await?;
                    store::security_groups::insert_rules(txn, rules.clone()).await?;
                    security_groups.push(render::security_group(row, rules));
                }
                Ok(ListSecurityGroupsReply {
                    security_groups,
                    more: false,
                })
            })
        })
        .await
    }

    fn new_group(
        &self,
        project: String,
        name: String,
        description: String,
    ) -> security_group::Model {
        let now = self.now();
        security_group::Model {
            id: self.env.id::<SecurityGroupId>().to_string(),
            project_id: project,
            name,
            description,
            default_of: None,
            created_at: now,
            updated_at: now,
            revision: 1,
        }
    }

    fn first_rules(
        &self,
        group: &security_group::Model,
        from_members: bool,
    ) -> Result<Vec<rule::Model>, Fault> {
        let mut rules = Vec::new();
        for ethertype in ["IPv4", "IPv6"] {
            let new = |direction: &str, remote: String| SecurityGroupRule {
                security_group_id: group.id.clone(),
                direction: direction.into(),
                ethertype: ethertype.into(),
                remote_group_id: remote,
                ..SecurityGroupRule::default()
            };
            rules.push(self.new_rule(group, new("egress", String::new()))?);
            if from_members {
                rules.push(self.new_rule(group, new("ingress", group.id.clone()))?);
            }
        }
        Ok(rules)
    }

    fn new_rule(
        &self,
        group: &security_group::Model,
        rule: SecurityGroupRule,
    ) -> Result<rule::Model, Fault> {
        let rule = check_rule(rule)?;
        let now = self.now();
        let bound = |value: Option<i32>| value.map(i64::from);
        Ok(rule::Model {
            id: self.env.id::<SecurityGroupRuleId>().to_string(),
            group_id: group.id.clone(),
            project_id: group.project_id.clone(),
            fingerprint: fingerprint(&rule),
            direction: rule.direction,
            ethertype: rule.ethertype,
            protocol: rule.protocol,
            port_min: bound(rule.port_range_min),
            port_max: bound(rule.port_range_max),
            remote_ip_prefix: rule.remote_ip_prefix,
            remote_group_id: rule.remote_group_id,
            description: rule.description,
            created_at: now,
            updated_at: now,
            revision: 1,
        })
    }

    /// The default group of a project, made if it is missing.
    pub(super) async fn default_group(
        &self,
        project: &str,
    ) -> Result<security_group::Model, Fault> {
        if let Some(group) = store::security_groups::default_of(self.db.read(), project).await? {
            return Ok(group);
        }
        let ctx = RequestContext::internal(self.env.id());
        self.change(&ctx, project.to_owned(), |app, txn, _ctx, project| {
            Box::pin(async move { ensure_default(&app, txn, &project).await })
        })
        .await
    }

    /// One page of groups with their rules, in two queries.
    pub async fn list_security_groups(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListSecurityGroupsReply, Fault> {
        let walls = Walls::of(ctx)?;
        if let Some(project) = ctx.project_id {
            self.default_group(&project.to_string()).await?;
        }
        let db = self.db.read();
        let (rows, more) = store::security_groups::list(db, &walls, &request).await?;
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let mut rules: HashMap<String, Vec<rule::Model>> = HashMap::new();
        for rule in store::security_groups::rules_of(db, &ids).await? {
            rules.entry(rule.group_id.clone()).or_default().push(rule);
        }
        Ok(ListSecurityGroupsReply {
            security_groups: rows
                .into_iter()
                .map(|row| {
                    let rules = rules.remove(&row.id).unwrap_or_default();
                    render::security_group(row, rules)
                })
                .collect(),
            more,
        })
    }

    /// Renames or describes a group.
    pub async fn update_security_group(
        &self,
        ctx: &RequestContext,
        request: UpdateSecurityGroupRequest,
    ) -> Result<SecurityGroup, Fault> {
        self.change(ctx, request, |app, txn, ctx, request| {
            Box::pin(async move {
                let mut row = own(txn, &ctx, &request.id).await?;
                if let Some(name) = request.name {
                    let name = check_name("The name", &name, 255)
                        .map_err(faults::as_invalid_input)?
                        .to_owned();
                    if row.default_of.is_some() && name != row.name {
                        return Err(faults::conflict(
                            "SecurityGroupCannotUpdateDefault",
                            "Updating default security group not allowed.",
                        )
                        .into());
                    }
                    if name == DEFAULT && row.default_of.is_none() {
                        return Err(faults::conflict(
                            "SecurityGroupDefaultAlreadyExists",
                            "Default security group already exists.",
                        )
                        .into());
                    }
                    row.name = name;
                }
                row.description = request.description.unwrap_or(row.description);
                check_texts(&row.name, &row.description)?;
                row.updated_at = app.now();
                row.revision += 1;
                store::security_groups::update(txn, row.clone()).await?;
                let rules =
                    store::security_groups::rules_of(txn, std::slice::from_ref(&row.id)).await?;
                Ok(render::security_group(row, rules))
            })
        })
        .await
    }

    /// Removes a group; refused while ports are in it, and for the default one.
    pub async fn delete_security_group(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |app, txn, ctx, id| {
            Box::pin(async move {
                let row = own(txn, &ctx, &id).await?;
                if row.default_of.is_some() && !ctx.is_admin() {
                    return Err(faults::conflict(
                        "SecurityGroupCannotRemoveDefault",
                        "Insufficient rights for removing default security group.",
                    )
                    .into());
                }
                if store::security_groups::count_members(txn, &row.id).await? > 0 {
                    return Err(faults::conflict(
                        "SecurityGroupInUse",
                        format!("Security Group {id} in use."),
                    )
                    .into());
                }
                // Hosts whose rules name the group must forget it.
                let hosts = store::ports::hosts_naming(txn, std::slice::from_ref(&row.id)).await?;
                app.touch_hosts(txn, hosts).await?;
                store::security_groups::delete(txn, &row.id).await
            })
        })
        .await
    }

    /// Makes rules, all or none.
    pub async fn create_security_group_rules(
        &self,
        ctx: &RequestContext,
        request: CreateSecurityGroupRulesRequest,
    ) -> Result<ListSecurityGroupRulesReply, Fault> {
        check_bulk(request.security_group_rules.len())?;
        let once = self.once(ctx, "create_security_group_rules", request.idempotency_key)?;
        if let Some(ids) = once.made(&self.db).await? {
            let mut reply = self.list_security_group_rules(ctx, by_ids(&ids)).await?;
            reply.security_group_rules = in_order(&ids, reply.security_group_rules, |it| &it.id)?;
            return Ok(reply);
        }
        let rules = request.security_group_rules.into_iter();
        let rules = rules.map(|new| (self.env.id::<SecurityGroupRuleId>().to_string(), new));
        self.make(ctx, once, rules.collect(), |app, txn, ctx, rules| {
            Box::pin(async move {
                let mut made = Vec::new();
                for (id, new) in rules {
                    made.push(create_rule(&app, txn, &ctx, id, new).await?);
                }
                let groups: Vec<String> = made.iter().map(|rule| rule.group_id.clone()).collect();
                let hosts = store::ports::hosts_of_groups(txn, &groups).await?;
                app.touch_hosts(txn, hosts).await?;
                Ok(ListSecurityGroupRulesReply {
                    security_group_rules: made.into_iter().map(render::rule).collect(),
                    more: false,
                })
            })
        })
        .await
    }

    /// One page of rules.
    pub async fn list_security_group_rules(
        &self,
        ctx: &RequestContext,
        request: ListRequest,
    ) -> Result<ListSecurityGroupRulesReply, Fault> {
        let walls = Walls::of(ctx)?;
        if let Some(project) = ctx.project_id {
            self.default_group(&project.to_string()).await?;
        }
        let (rows, more) =
            store::security_groups::list_rules(self.db.read(), &walls, &request).await?;
        Ok(ListSecurityGroupRulesReply {
            security_group_rules: rows.into_iter().map(render::rule).collect(),
            more,
        })
    }

    /// Removes a rule; flows that only it allowed end within two seconds.
    pub async fn delete_security_group_rule(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<(), Fault> {
        self.change(ctx, id.to_owned(), |app, txn, ctx, id| {
            Box::pin(async move {
                let row = store::security_groups::find_rule(txn, &Walls::of(&ctx)?, &id)
                    .await?
                    .ok_or_else(|| faults::no_rule(&id))?;
                require_owner(&ctx, &row.project_id)?;
                store::security_groups::lock(txn, &row.group_id).await?;
                store::security_groups::delete_rule(txn, &row.id).await?;
                let hosts = store::ports::hosts_of_groups(txn, &[row.group_id]).await?;
                app.touch_hosts(txn, hosts).await
            })
        })
        .await
    }

    /// Finds the groups that a server asks for, by name or id; the default one
    /// if it asks for none.
    pub(super) async fn resolve_groups(
        &self,
        project: &str,
        wanted: &[String],
    ) -> Result<Vec<security_group::Model>, Fault> {
        if wanted.is_empty() {
            return Ok(vec![self.default_group(project).await?]);
        }
        let mut groups: Vec<security_group::Model> = Vec::new();
        for text in wanted {
            if text == DEFAULT {
                self.default_group(project).await?;
            }
            let mut found =
                store::security_groups::by_name_or_id(self.db.read(), project, text).await?;
            if let Some(exact) = found.iter().position(|group| group.id == *text) {
                found = vec![found.swap_remove(exact)];
            }
            match found.len() {
                0 => return Err(faults::no_security_group(text)),
                1 => groups.extend(
                    found
                        .into_iter()
                        .filter(|group| groups.iter().all(|other| other.id != group.id))
                        .collect::<Vec<_>>(),
                ),
                _ => {
                    return Err(Fault::conflict(format!(
                        "Multiple security groups found matching '{text}'. Use an ID to be more specific."
                    ))
                    .with_type("NoUniqueMatch"));
                }
            }
        }
        Ok(groups)
    }
}

/// The default group of a project, within a transaction.
pub(super) async fn ensure_default(
    app: &App,
    txn: &DatabaseTransaction,
    project: &str,
) -> Result<security_group::Model, DbError> {
    if let Some(group) = store::security_groups::default_of(txn, project).await? {
        return Ok(group);
    }
    let row = security_group::Model {
        default_of: Some(project.to_owned()),
        ..app.new_group(
            project.to_owned(),
            DEFAULT.into(),
            "Default security group".into(),
        )
    };
    match store::security_groups::insert(txn, row.clone()).await {
        // Another request made it at the same moment: run again and find it.
        Err(DbError::Conflict { .. }) => return Err(DbError::Contended),
        other => other?,
    }
    store::security_groups::insert_rules(txn, app.first_rules(&row, true)?).await?;
    Ok(row)
}

async fn own(
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: &str,
) -> Result<security_group::Model, DbError> {
    let row = store::security_groups::find(txn, &Walls::of(ctx)?, id)
        .await?
        .ok_or_else(|| faults::no_security_group(id))?;
    require_owner(ctx, &row.project_id)?;
    Ok(row)
}

async fn create_rule(
    app: &App,
    txn: &DatabaseTransaction,
    ctx: &RequestContext,
    id: String,
    new: SecurityGroupRule,
) -> Result<rule::Model, DbError> {
    let group = own(txn, ctx, &new.security_group_id).await?;
    store::security_groups::lock(txn, &group.id).await?;
    let mut new = new;
    if !new.remote_group_id.is_empty() {
        let remote = store::security_groups::find(txn, &Walls::of(ctx)?, &new.remote_group_id)
            .await?
            .ok_or_else(|| faults::no_security_group(&new.remote_group_id))?;
        new.remote_group_id = remote.id;
    }
    let row = rule::Model {
        id,
        ..app.new_rule(&group, new)?
    };
    if let Some(same) = store::security_groups::saying(txn, &group.id, &row.fingerprint).await? {
        return Err(faults::conflict(
            "SecurityGroupRuleExists",
            format!(
                "Security group rule already exists. Rule id is {}.",
                same.id
            ),
        )
        .into());
    }
    app.spend(txn, &group.project_id, "security_group_rule", 1)
        .await?;
    store::security_groups::insert_rules(txn, vec![row.clone()]).await?;
    Ok(row)
}

/// What a rule says, in one text, whatever words were used.
fn fingerprint(rule: &SecurityGroupRule) -> String {
    let bound = |value: Option<i32>| value.map(|value| value.to_string()).unwrap_or_default();
    let protocol = Protocol::parse(&rule.protocol)
        .and_then(Protocol::number)
        .map(|number| number.to_string())
        .unwrap_or_default();
    format!(
        "{}|{}|{protocol}|{}|{}|{}|{}",
        rule.direction,
        rule.ethertype,
        bound(rule.port_range_min),
        bound(rule.port_range_max),
        rule.remote_ip_prefix,
        rule.remote_group_id
    )
}

/// Checks a rule and writes it in one way.
fn check_rule(mut rule: SecurityGroupRule) -> Result<SecurityGroupRule, Fault> {
    yakumo_types::check_description("The description", &rule.description, 255)
        .map_err(faults::as_invalid_input)?;
    rule.direction = match rule.direction.as_str() {
        "ingress" | "egress" => rule.direction,
        _ => return Err(faults::invalid("The direction is ingress or egress.")),
    };
    rule.ethertype = match rule.ethertype.to_ascii_lowercase().as_str() {
        "" | "ipv4" => "IPv4".into(),
        "ipv6" => "IPv6".into(),
        _ => return Err(faults::invalid("The ethertype is IPv4 or IPv6.")),
    };
    rule.protocol = rule.protocol.to_ascii_lowercase();
    if rule.protocol == "any" {
        rule.protocol = String::new();
    }
    let protocol = Protocol::parse(&rule.protocol).ok_or_else(|| {
        let shown: String = rule.protocol.chars().take(32).collect();
        faults::invalid(format!(
            "Security group rule protocol {shown} not supported."
        ))
        .with_type("SecurityGroupRuleInvalidProtocol")
    })?;
    check_ports(&rule, protocol)?;
    if !rule.remote_ip_prefix.is_empty() && !rule.remote_group_id.is_empty() {
        return Err(
            faults::invalid("Only remote_ip_prefix or remote_group_id may be provided.")
                .with_type("SecurityGroupRemoteGroupAndRemoteIpPrefix"),
        );
    }
    if !rule.remote_ip_prefix.is_empty() {
        let shown: String = rule.remote_ip_prefix.chars().take(64).collect();
        let prefix: IpNetwork = rule
            .remote_ip_prefix
            .parse()
            .map_err(|_| faults::invalid(format!("{shown:?} is not a valid IP prefix.")))?;
        if prefix.is_ipv4() != (rule.ethertype == "IPv4") {
            return Err(faults::invalid(format!(
                "Conflicting value ethertype {} for CIDR {shown}.",
                rule.ethertype
            ))
            .with_type("SecurityGroupRuleParameterConflict"));
        }
        rule.remote_ip_prefix = format!("{}/{}", prefix.network(), prefix.prefix());
    }
    Ok(rule)
}

fn check_ports(rule: &SecurityGroupRule, protocol: Protocol) -> Result<(), Fault> {
    let (min, max) = (rule.port_range_min, rule.port_range_max);
    let invalid = |message: &str| {
        Err(faults::invalid(message.to_owned()).with_type("SecurityGroupInvalidPortRange"))
    };
    let icmp = matches!(protocol, Protocol::Icmp | Protocol::Number(58));
    if icmp {
        if min.is_none() && max.is_some() {
            return Err(faults::invalid(
                "ICMP code (port-range-max) is provided but ICMP type (port-range-min) is missing.",
            )
            .with_type("SecurityGroupMissingIcmpType"));
        }
        if [min, max]
            .into_iter()
            .flatten()
            .any(|value| !(0..=255).contains(&value))
        {
            return Err(faults::invalid("ICMP type and code are 0 to 255.")
                .with_type("SecurityGroupInvalidIcmpValue"));
        }
        return Ok(());
    }
    let has_ports = matches!(
        protocol,
        Protocol::Tcp | Protocol::Udp | Protocol::Number(33 | 132 | 136)
    );
    match (min, max) {
        (None, None) => Ok(()),
        (Some(_), Some(_)) if !has_ports => invalid("Port ranges need a protocol that has ports."),
        (Some(min), Some(max)) if (0..=65_535).contains(&min) && max <= 65_535 && min <= max => {
            Ok(())
        }
        _ => invalid(
            "For TCP/UDP protocols, port_range_min must be <= port_range_max, and both are 0 to 65535.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: &str, min: Option<i32>, max: Option<i32>) -> SecurityGroupRule {
        SecurityGroupRule {
            direction: "ingress".into(),
            ethertype: "ipv4".into(),
            protocol: protocol.into(),
            port_range_min: min,
            port_range_max: max,
            ..SecurityGroupRule::default()
        }
    }

    #[test]
    fn the_same_said_in_other_words_has_the_same_fingerprint() {
        let said = |protocol: &str, prefix: &str| {
            let rule = SecurityGroupRule {
                remote_ip_prefix: prefix.into(),
                ..rule(protocol, Some(22), Some(22))
            };
            fingerprint(&check_rule(rule).unwrap())
        };
        assert_eq!(said("TCP", "10.0.0.7/24"), said("6", "10.0.0.0/24"));
        assert_ne!(said("tcp", "10.0.0.0/24"), said("udp", "10.0.0.0/24"));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for bad in [
            rule("tcp", Some(80), None),
            rule("tcp", Some(81), Some(80)),
            rule("tcp", Some(-1), Some(80)),
            rule("tcp", Some(1), Some(65_536)),
            rule("", Some(22), Some(22)),
            rule("gre", Some(22), Some(22)),
            rule("icmp", None, Some(0)),
            rule("icmp", Some(256), None),
            rule("carrier-pigeon", None, None),
            rule("256", None, None),
            SecurityGroupRule {
                direction: "sideways".into(),
                ..rule("tcp", None, None)
            },
            SecurityGroupRule {
                ethertype: "IPX".into(),
                ..rule("tcp", None, None)
            },
            SecurityGroupRule {
                remote_ip_prefix: "fd00::/8".into(),
                ..rule("tcp", None, None)
            },
            SecurityGroupRule {
                remote_ip_prefix: "10.0.0.0/33".into(),
                ..rule("tcp", None, None)
            },
            SecurityGroupRule {
                remote_ip_prefix: "10.0.0.0/8".into(),
                remote_group_id: "x".into(),
                ..rule("tcp", None, None)
            },
        ] {
            assert!(check_rule(bad.clone()).is_err(), "{bad:?}");
        }
        for good in [
            rule("tcp", None, None),
            rule("icmp", Some(8), None),
            rule("132", Some(1), Some(2)),
            rule("any", None, None),
        ] {
            assert!(check_rule(good.clone()).is_ok(), "{good:?}");
        }
    }
}
