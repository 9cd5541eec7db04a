//! Who may do what, where the default policy of OpenStack's services needs
//! more than a role on the project.
//!
//! `admin` may do everything. A `reader` of the system may look at everything,
//! a `reader` of a domain at what the domain owns.

use yakumo_types::{DomainId, Fault, RequestContext, Role, UserId};

/// The refusal that does not say what exists.
pub fn refused() -> Fault {
    Fault::forbidden("You are not authorized to do this.")
}

/// Whether the caller may look at everything in the cloud.
pub fn is_system_reader(context: &RequestContext) -> bool {
    context.is_admin() || (context.system && context.role() >= Some(Role::Reader))
}

/// Whether the caller may look at everything that `domain` owns.
pub fn is_domain_reader(context: &RequestContext, domain: DomainId) -> bool {
    is_system_reader(context)
        || (context.domain_id == Some(domain) && context.role() >= Some(Role::Reader))
}

/// Only those who may look at everything.
pub fn require_system_reader(context: &RequestContext) -> Result<(), Fault> {
    if is_system_reader(context) {
        Ok(())
    } else {
        Err(refused())
    }
}

/// Only those who may look at what `domain` owns.
pub fn require_domain_reader(context: &RequestContext, domain: DomainId) -> Result<(), Fault> {
    if is_domain_reader(context, domain) {
        Ok(())
    } else {
        Err(refused())
    }
}

/// Only the user itself and administrators.
pub fn require_self_or_admin(context: &RequestContext, user: UserId) -> Result<(), Fault> {
    if context.user_id == user || context.is_admin() {
        Ok(())
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use yakumo_types::RequestId;

    fn context() -> RequestContext {
        RequestContext::host(RequestId::from_uuid(Uuid::nil()))
    }

    #[test]
    fn a_reader_looks_no_further_than_the_scope() {
        let domain = DomainId::from_uuid(Uuid::from_u128(1));
        let other = DomainId::from_uuid(Uuid::from_u128(2));
        let reader = RequestContext {
            domain_id: Some(domain),
            roles: vec!["reader".into()],
            ..context()
        };
        assert!(require_domain_reader(&reader, domain).is_ok());
        assert!(require_domain_reader(&reader, other).is_err());
        assert!(require_system_reader(&reader).is_err());
        let system = RequestContext {
            system: true,
            roles: vec!["reader".into()],
            ..context()
        };
        assert!(require_domain_reader(&system, other).is_ok());
        assert!(require_system_reader(&context()).is_err());
    }
}
