//! Container ACLs, in Swift's notation.
//!
//! * `.r:*` everybody may read objects, `.r:host` those who come from a page
//!   on that host (`.r:.example.com` for all below), `.r:-host` not those.
//! * `.rlistings` who may read may list.
//! * `project:user` with ids, either of which may be `*`.
//! * the name of a role that the caller has in the account's own project.
//!
//! Names of projects and users do not count: two domains may have the same.

use yakumo_types::Fault;

use super::Caller;

/// What an ACL grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// In order: a later one wins. `true` allows.
    referrers: Vec<(bool, String)>,
    listings: bool,
    grants: Vec<String>,
}

impl Acl {
    /// Reads what [`Acl::check_read`] or [`Acl::check_write`] let through.
    pub fn parse(text: &str) -> Self {
        let mut acl = Self::default();
        for part in parts(text) {
            if let Some(host) = referrer(part) {
                match host.strip_prefix('-') {
                    Some(host) => acl.referrers.push((false, host.to_owned())),
                    None => acl.referrers.push((true, host.to_owned())),
                }
            } else if part == ".rlistings" {
                acl.listings = true;
            } else {
                acl.grants.push(part.to_owned());
            }
        }
        acl
    }

    /// Checks a read ACL; returns it as it is kept.
    pub fn check_read(text: &str) -> Result<String, Fault> {
        for part in parts(text) {
            let known = referrer(part).is_some_and(|host| !host.is_empty())
                || part == ".rlistings"
                || !part.starts_with('.');
            if !known {
                return Err(bad(part));
            }
        }
        clean(text)
    }

    /// Checks a write ACL; returns it as it is kept.
    pub fn check_write(text: &str) -> Result<String, Fault> {
        for part in parts(text) {
            if part.starts_with('.') {
                return Err(bad(part));
            }
        }
        clean(text)
    }

    /// Whether the caller may read objects.
    pub fn grants_read(&self, caller: &Caller) -> bool {
        self.grants_user(caller) || self.grants_referrer(caller)
    }

    /// Whether the caller may list objects.
    pub fn grants_listing(&self, caller: &Caller) -> bool {
        self.grants_user(caller) || (self.listings && self.grants_referrer(caller))
    }

    /// Whether the caller may store and remove objects.
    pub fn grants_write(&self, caller: &Caller) -> bool {
        self.grants_user(caller)
    }

    fn grants_user(&self, caller: &Caller) -> bool {
        let Some(ctx) = &caller.context else {
            return false;
        };
        self.grants.iter().any(|grant| match grant.split_once(':') {
            Some((project, user)) => {
                let project_fits =
                    project == "*" || ctx.project_id.is_some_and(|id| project.parse() == Ok(id));
                let user_fits = user == "*" || user.parse() == Ok(ctx.user_id);
                project_fits && user_fits
            }
            None => {
                ctx.project_id == Some(caller.account)
                    && ctx
                        .roles
                        .iter()
                        .any(|role| role.eq_ignore_ascii_case(grant))
            }
        })
    }

    fn grants_referrer(&self, caller: &Caller) -> bool {
        let host = caller
            .referrer
            .as_deref()
            .and_then(|url| url.split_once("://"))
            .map(|(_, rest)| {
                let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
                let host = authority.rsplit('@').next().unwrap_or("");
                host.split(':').next().unwrap_or("").to_ascii_lowercase()
            })
            .unwrap_or_default();
        let mut allowed = false;
        for (allow, pattern) in &self.referrers {
            let fits = pattern == "*"
                || *pattern == host
                || (pattern.starts_with('.') && host.ends_with(pattern.as_str()));
            if fits {
                allowed = *allow;
            }
        }
        allowed
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn referrer(part: &str) -> Option<&str> {
    let (kind, host) = part.split_once(':')?;
    let kind = kind.trim().to_ascii_lowercase();
    [".r", ".ref", ".referer", ".referrer"]
        .contains(&kind.as_str())
        .then(|| host.trim())
}

/// Characters of an ACL.
const LENGTH: usize = 8 * 1024;

fn clean(text: &str) -> Result<String, Fault> {
    let text = parts(text).collect::<Vec<_>>().join(",");
    if text.len() > LENGTH {
        return Err(Fault::invalid(format!(
            "An ACL must not have more than {LENGTH} bytes."
        )));
    }
    Ok(text)
}

fn bad(part: &str) -> Fault {
    Fault::invalid(format!("Unknown or misplaced ACL element {part:?}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use yakumo_types::{ProjectId, RequestContext, RequestId, UserId};

    fn caller(project: Option<u128>, referrer: Option<&str>) -> Caller {
        Caller {
            context: project.map(|number| RequestContext {
                project_id: Some(ProjectId::from_uuid(Uuid::from_u128(number))),
                user_id: UserId::from_uuid(Uuid::from_u128(77)),
                roles: vec!["member".into()],
                ..RequestContext::internal(RequestId::from_uuid(Uuid::nil()))
            }),
            account: ProjectId::from_uuid(Uuid::from_u128(1)),
            referrer: referrer.map(str::to_owned),
        }
    }

    #[test]
    fn everybody_reads_and_lists_only_if_told_so() {
        let nobody = caller(None, None);
        assert!(Acl::parse(".r:*").grants_read(&nobody));
        assert!(!Acl::parse(".r:*").grants_listing(&nobody));
        assert!(Acl::parse(".r:*, .rlistings").grants_listing(&nobody));
        assert!(!Acl::parse(".rlistings").grants_listing(&nobody));
        assert!(!Acl::parse(".r:*").grants_write(&nobody));
        assert!(!Acl::parse("*:*").grants_read(&nobody));
    }

    #[test]
    fn referrers_come_from_hosts() {
        let from = |url| caller(None, Some(url));
        let acl = Acl::parse(".r:.example.com,.r:-bad.example.com");
        assert!(acl.grants_read(&from("https://www.example.com/page")));
        assert!(!acl.grants_read(&from("https://bad.example.com:8080/")));
        assert!(!acl.grants_read(&from("https://example.com.evil.org/")));
        assert!(!acl.grants_read(&from("https://www.example.com@evil.org/")));
        assert!(!acl.grants_read(&caller(None, None)));
    }

    #[test]
    fn users_are_known_by_their_ids() {
        let two = caller(Some(2), None);
        let project = "00000000000000000000000000000002";
        let user = "0000000000000000000000000000004d";
        for (acl, granted) in [
            (format!("{project}:{user}"), true),
            (format!("{project}:*"), true),
            (format!("*:{user}"), true),
            ("*:*".to_owned(), true),
            (format!("{user}:{project}"), false),
            ("member".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(Acl::parse(&acl).grants_write(&two), granted, "{acl}");
        }
        assert!(Acl::parse("member").grants_read(&caller(Some(1), None)));
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        assert_eq!(
            Acl::check_read(" .r:* , .rlistings,,a:b ").unwrap(),
            ".r:*,.rlistings,a:b"
        );
        assert!(Acl::check_read(".unknown").is_err());
        assert!(Acl::check_read(".r:").is_err());
        assert!(Acl::check_write(".r:*").is_err());
        assert!(Acl::check_write("a:b").is_ok());
    }
}
