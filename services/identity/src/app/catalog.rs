//! The catalog: what there is and where.

use yakumo_auth::policy;
use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{
    EndpointId, Fault, IdempotencyKey, ProjectId, RequestContext, ServiceId, check_description,
    check_name,
};

use super::{App, Listing, description, ids, listing, lookahead, missing, name};
use crate::store::Page;
use crate::store::catalog::{self, EndpointFilter};
use crate::store::entity::{endpoint, region, service};

/// One service of the catalog, as a token shows it.
#[derive(Debug, Clone)]
pub struct CatalogService {
    /// The service.
    pub service: service::Model,
    /// Its endpoints, with URLs that are filled in.
    pub endpoints: Vec<endpoint::Model>,
}

/// A new service.
#[derive(Debug, Clone)]
pub struct NewService {
    /// What kind of API.
    pub kind: String,
    /// For people.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Whether it is in the catalog.
    pub enabled: bool,
}

/// What to change about a service.
#[derive(Debug, Clone, Default)]
pub struct ServiceChange {
    /// What kind of API.
    pub kind: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// May be empty.
    pub description: Option<String>,
    /// Whether it is in the catalog.
    pub enabled: Option<bool>,
}

/// A new endpoint.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// The service.
    pub service_id: String,
    /// `public`, `internal` or `admin`.
    pub interface: String,
    /// The region, if any.
    pub region_id: Option<String>,
    /// Where.
    pub url: String,
    /// Whether it is in the catalog.
    pub enabled: bool,
}

/// What to change about an endpoint.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// The service.
    pub service_id: Option<String>,
    /// `public`, `internal` or `admin`.
    pub interface: Option<String>,
    /// The region; the inner nothing takes it away.
    pub region_id: Option<Option<String>>,
    /// Where.
    pub url: Option<String>,
    /// Whether it is in the catalog.
    pub enabled: Option<bool>,
}

/// What to change about a region.
#[derive(Debug, Clone, Default)]
pub struct RegionChange {
    /// May be empty.
    pub description: Option<String>,
    /// The region around it; the inner nothing takes it away.
    pub parent_region_id: Option<Option<String>>,
}

/// The URL with its placeholders filled in; nothing if it needs a project and
/// there is none.
fn fill_in(url: &str, project: Option<ProjectId>) -> Option<String> {
    let mut filled = url.to_owned();
    for name in ["project_id", "tenant_id"] {
        for hole in [format!("$({name})s"), format!("%({name})s")] {
            if filled.contains(&hole) {
                filled = filled.replace(&hole, &project?.simple());
            }
        }
    }
    Some(filled)
}

fn check_interface(text: &str) -> Result<String, Fault> {
    // Old clients write publicURL.
    let interface = text.strip_suffix("URL").unwrap_or(text);
    if matches!(interface, "public" | "internal" | "admin") {
        Ok(interface.to_owned())
    } else {
        Err(Fault::invalid(
            "Invalid input for interface: it must be public, internal or admin.",
        ))
    }
}

fn check_url(url: &str) -> Result<String, Fault> {
    let bare = url.replace("$(", "").replace("%(", "").replace(")s", "");
    let fine = (bare.starts_with("http://") || bare.starts_with("https://"))
        && bare.len() > 8
        && url.len() <= 1024
        && bare.bytes().all(|byte| byte.is_ascii_graphic());
    if fine {
        Ok(url.to_owned())
    } else {
        Err(Fault::invalid(
            "Invalid input for url: it must be an http or https URL of at most 1024 characters.",
        ))
    }
}

/// A region's description is shorter than the others.
fn region_description(text: &str) -> Result<String, Fault> {
    check_description("description", text, 255)?;
    Ok(text.to_owned())
}

fn in_use(error: DbError, what: &str) -> Fault {
    match error {
        DbError::ForeignKey { .. } => Fault::conflict(format!("The {what} is in use.")),
        error => error.into(),
    }
}

impl App {
    /// The catalog as a token for this project shows it.
    pub async fn catalog(&self, project: Option<ProjectId>) -> Result<Vec<CatalogService>, Fault> {
        let db = self.db.read();
        let services = catalog::list_services(db, None, None, &Page::default()).await?;
        let filter = EndpointFilter {
            enabled: Some(true),
            ..EndpointFilter::default()
        };
        let endpoints = catalog::list_endpoints(db, &filter, &Page::default()).await?;
        let mut out: Vec<CatalogService> = services
            .into_iter()
            .filter(|service| service.enabled)
            .map(|service| CatalogService {
                endpoints: endpoints
                    .iter()
                    .filter(|endpoint| endpoint.service_id == service.id)
                    .filter_map(|endpoint| {
                        Some(endpoint::Model {
                            url: fill_in(&endpoint.url, project)?,
                            ..endpoint.clone()
                        })
                    })
                    .collect(),
                service,
            })
            .collect();
        out.sort_by(|left, right| left.service.kind.cmp(&right.service.kind));
        Ok(out)
    }

    /// The catalog that the caller's token shows.
    pub async fn my_catalog(&self, ctx: &RequestContext) -> Result<Vec<CatalogService>, Fault> {
        self.catalog(ctx.project_id).await
    }

    /// A new region. Without an id it gets one.
    pub async fn create_region(
        &self,
        ctx: &RequestContext,
        id: Option<String>,
        text: &str,
        parent: Option<String>,
        key: Option<&IdempotencyKey>,
    ) -> Result<region::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_region", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.show_region(&id).await.map_err(gone);
        }
        let id = match id {
            Some(id) if !id.is_empty() => {
                check_name("id", &id, 255)?;
                id
            }
            _ => self.env.rng.uuid().simple().to_string(),
        };
        let row = region::Model {
            id,
            description: region_description(text)?,
            parent_region_id: parent,
        };
        self.check_parent(&row).await?;
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    catalog::insert_region(txn, row).await
                })
            })
            .await
            .map_err(|error| super::taken(error, "region", &row.id))?;
        Ok(row)
    }

    async fn check_parent(&self, row: &region::Model) -> Result<(), Fault> {
        let mut above = row.parent_region_id.clone();
        // A chain this long is a circle.
        for _ in 0..64 {
            let Some(id) = above else { return Ok(()) };
            if id == row.id {
                break;
            }
            let parent = catalog::find_region(self.db.read(), &id)
                .await?
                .ok_or_else(|| missing("region", &id))?;
            above = parent.parent_region_id;
        }
        Err(Fault::invalid("A region must not be above itself."))
    }

    /// A region; anybody who is logged in may look.
    pub async fn show_region(&self, id: &str) -> Result<region::Model, Fault> {
        catalog::find_region(self.db.read(), id)
            .await?
            .ok_or_else(|| missing("region", id))
    }

    /// Regions; anybody who is logged in may look.
    pub async fn list_regions(
        &self,
        parent: Option<&str>,
        page: &Page,
    ) -> Result<Listing<region::Model>, Fault> {
        let rows = catalog::list_regions(self.db.read(), parent, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes a region.
    pub async fn update_region(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: RegionChange,
    ) -> Result<region::Model, Fault> {
        ctx.require_admin()?;
        let mut row = self.show_region(id).await?;
        if let Some(text) = change.description {
            row.description = region_description(&text)?;
        }
        if let Some(parent) = change.parent_region_id {
            row.parent_region_id = parent;
        }
        self.check_parent(&row).await?;
        let new = row.clone();
        self.db
            .write(move |txn| {
                let row = new.clone();
                Box::pin(async move { catalog::update_region(txn, row).await })
            })
            .await?;
        Ok(row)
    }

    /// Removes a region that nothing is in.
    pub async fn delete_region(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        self.show_region(id).await?;
        let gone = id.to_owned();
        self.db
            .write(move |txn| {
                let id = gone.clone();
                Box::pin(async move { catalog::delete_region(txn, &id).await })
            })
            .await
            .map_err(|error| in_use(error, "region"))
    }

    /// A new service.
    pub async fn create_service(
        &self,
        ctx: &RequestContext,
        new: NewService,
        key: Option<&IdempotencyKey>,
    ) -> Result<service::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_service", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_service(&id).await.map_err(gone);
        }
        let row = service::Model {
            id: self.env.id::<ServiceId>().to_string(),
            kind: check_name("type", &new.kind, 255)?.to_owned(),
            name: if new.name.is_empty() {
                String::new()
            } else {
                name(&new.name, 255)?
            },
            description: description(&new.description)?,
            enabled: new.enabled,
        };
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    catalog::insert_service(txn, row).await
                })
            })
            .await?;
        Ok(row)
    }

    async fn find_service(&self, id: &str) -> Result<service::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => catalog::find_service(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("service", id))
    }

    /// A service.
    pub async fn show_service(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<service::Model, Fault> {
        policy::require_system_reader(ctx)?;
        self.find_service(id).await
    }

    /// Services.
    pub async fn list_services(
        &self,
        ctx: &RequestContext,
        kind: Option<&str>,
        name: Option<&str>,
        page: &Page,
    ) -> Result<Listing<service::Model>, Fault> {
        policy::require_system_reader(ctx)?;
        let rows = catalog::list_services(self.db.read(), kind, name, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes a service.
    pub async fn update_service(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: ServiceChange,
    ) -> Result<service::Model, Fault> {
        ctx.require_admin()?;
        let mut row = self.find_service(id).await?;
        if let Some(kind) = change.kind {
            row.kind = check_name("type", &kind, 255)?.to_owned();
        }
        if let Some(text) = change.name {
            row.name = name(&text, 255)?;
        }
        if let Some(text) = change.description {
            row.description = description(&text)?;
        }
        row.enabled = change.enabled.unwrap_or(row.enabled);
        let new = row.clone();
        self.db
            .write(move |txn| {
                let row = new.clone();
                Box::pin(async move { catalog::update_service(txn, row).await })
            })
            .await?;
        Ok(row)
    }

    /// Removes a service and its endpoints.
    pub async fn delete_service(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_service(id).await?;
        self.db
            .write(move |txn| {
                let id = row.id.clone();
                Box::pin(async move { catalog::delete_service(txn, &id).await })
            })
            .await?;
        Ok(())
    }

    /// A new endpoint. A region that is not there is made, as Keystone does.
    pub async fn create_endpoint(
        &self,
        ctx: &RequestContext,
        new: NewEndpoint,
        key: Option<&IdempotencyKey>,
    ) -> Result<endpoint::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_endpoint", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_endpoint(&id).await.map_err(gone);
        }
        let service = self.find_service(&new.service_id).await.map_err(|fault| {
            // A reference within a body is the body's fault.
            Fault::invalid(fault.message)
        })?;
        let row = endpoint::Model {
            id: self.env.id::<EndpointId>().to_string(),
            service_id: service.id,
            interface: check_interface(&new.interface)?,
            region_id: new.region_id,
            url: check_url(&new.url)?,
            enabled: new.enabled,
        };
        self.check_region(&row).await?;
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    if let Some(id) = &row.region_id
                        && catalog::find_region(txn, id).await?.is_none()
                    {
                        let region = region::Model {
                            id: id.clone(),
                            description: String::new(),
                            parent_region_id: None,
                        };
                        catalog::insert_region(txn, region).await?;
                    }
                    catalog::insert_endpoint(txn, row).await
                })
            })
            .await?;
        Ok(row)
    }

    async fn check_region(&self, row: &endpoint::Model) -> Result<(), Fault> {
        match &row.region_id {
            Some(id) => check_name("region_id", id, 255).map(|_| ()),
            None => Ok(()),
        }
    }

    async fn find_endpoint(&self, id: &str) -> Result<endpoint::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => catalog::find_endpoint(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("endpoint", id))
    }

    /// An endpoint.
    pub async fn show_endpoint(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<endpoint::Model, Fault> {
        policy::require_system_reader(ctx)?;
        self.find_endpoint(id).await
    }

    /// Endpoints.
    pub async fn list_endpoints(
        &self,
        ctx: &RequestContext,
        mut filter: EndpointFilter,
        page: &Page,
    ) -> Result<Listing<endpoint::Model>, Fault> {
        policy::require_system_reader(ctx)?;
        if let Some(id) = &filter.service_id {
            filter.service_id = Some(ids::stored(id).unwrap_or_default());
        }
        let rows = catalog::list_endpoints(self.db.read(), &filter, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes an endpoint.
    pub async fn update_endpoint(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: EndpointChange,
    ) -> Result<endpoint::Model, Fault> {
        ctx.require_admin()?;
        let mut row = self.find_endpoint(id).await?;
        if let Some(service) = change.service_id {
            row.service_id = self.find_service(&service).await?.id;
        }
        if let Some(interface) = change.interface {
            row.interface = check_interface(&interface)?;
        }
        if let Some(url) = change.url {
            row.url = check_url(&url)?;
        }
        if let Some(region) = change.region_id {
            row.region_id = region;
            if let Some(region) = &row.region_id {
                self.show_region(region).await?;
            }
        }
        row.enabled = change.enabled.unwrap_or(row.enabled);
        let new = row.clone();
        self.db
            .write(move |txn| {
                let row = new.clone();
                Box::pin(async move { catalog::update_endpoint(txn, row).await })
            })
            .await?;
        Ok(row)
    }

    /// Removes an endpoint.
    pub async fn delete_endpoint(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_endpoint(id).await?;
        self.db
            .write(move |txn| {
                let id = row.id.clone();
                Box::pin(async move { catalog::delete_endpoint(txn, &id).await })
            })
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_where_there_is_a_project() {
        let project: ProjectId = "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b".parse().unwrap();
        assert_eq!(
            fill_in("http://c/v1/AUTH_$(project_id)s", Some(project)).unwrap(),
            "http://c/v1/AUTH_6f1e9f0c2b4d4e0f8a4b1c2d3e4f5a6b"
        );
        assert_eq!(fill_in("http://c/%(tenant_id)s", None), None);
        assert_eq!(fill_in("http://c/v3", None).unwrap(), "http://c/v3");
    }

    #[test]
    fn urls_and_interfaces_are_checked() {
        assert!(check_url("http://127.0.0.1:8776/v3/$(project_id)s").is_ok());
        let hole = "$(project_id)s";
        let longest = format!("http://{}/{hole}", "a".repeat(1024 - 8 - hole.len()));
        assert!(check_url(&longest).is_ok());
        for bad in [
            "",
            // What is stored is the URL with its holes.
            format!("{longest}{hole}").as_str(),
            "ftp://a",
            "http://",
            "http://a b",
            "javascript:alert(1)",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        assert_eq!(check_interface("publicURL").unwrap(), "public");
        assert!(check_interface("secret").is_err());
    }
}
