//! Regions, services and endpoints.

use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use yakumo_db::{DbError, ExpectOne};

use super::entity::{endpoint, region, service};
use super::{Page, paged};

/// A new region.
pub async fn insert_region(db: &impl ConnectionTrait, row: region::Model) -> Result<(), DbError> {
    let row: region::ActiveModel = row.into();
    region::Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Writes every column.
pub async fn update_region(db: &impl ConnectionTrait, row: region::Model) -> Result<(), DbError> {
    let id = row.id.clone();
    let row: region::ActiveModel = row.into();
    region::Entity::update_many()
        .set(row.reset_all())
        .filter(region::Column::Id.eq(id))
        .exec(db)
        .await?
        .or_not_found()
}

/// By id.
pub async fn find_region(
    db: &impl ConnectionTrait,
    id: &str,
) -> Result<Option<region::Model>, DbError> {
    Ok(region::Entity::find_by_id(id.to_owned()).one(db).await?)
}

/// A page, of one parent or all.
pub async fn list_regions(
    db: &impl ConnectionTrait,
    parent: Option<&str>,
    page: &Page,
) -> Result<Vec<region::Model>, DbError> {
    let mut query = region::Entity::find();
    if let Some(parent) = parent {
        query = query.filter(region::Column::ParentRegionId.eq(parent));
    }
    paged(db, query, region::Column::Id, page).await
}

/// Removes it; a foreign-key error while something is in it.
pub async fn delete_region(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    region::Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

/// A new service.
pub async fn insert_service(db: &impl ConnectionTrait, row: service::Model) -> Result<(), DbError> {
    let row: service::ActiveModel = row.into();
    service::Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Writes every column.
pub async fn update_service(db: &impl ConnectionTrait, row: service::Model) -> Result<(), DbError> {
    let id = row.id.clone();
    let row: service::ActiveModel = row.into();
    service::Entity::update_many()
        .set(row.reset_all())
        .filter(service::Column::Id.eq(id))
        .exec(db)
        .await?
        .or_not_found()
}

/// By id.
pub async fn find_service(
    db: &impl ConnectionTrait,
    id: &str,
) -> Result<Option<service::Model>, DbError> {
    Ok(service::Entity::find_by_id(id.to_owned()).one(db).await?)
}

/// A page, of one type and name or all.
pub async fn list_services(
    db: &impl ConnectionTrait,
    kind: Option<&str>,
    name: Option<&str>,
    page: &Page,
) -> Result<Vec<service::Model>, DbError> {
    let mut query = service::Entity::find();
    if let Some(kind) = kind {
        query = query.filter(service::Column::Kind.eq(kind));
    }
    if let Some(name) = name {
        query = query.filter(service::Column::Name.eq(name));
    }
    paged(db, query, service::Column::Id, page).await
}

/// Removes it, with its endpoints.
pub async fn delete_service(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    service::Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}

/// What a listing of endpoints is cut down to.
#[derive(Debug, Clone, Default)]
pub struct EndpointFilter {
    /// `public`, `internal` or `admin`.
    pub interface: Option<String>,
    /// Of one service.
    pub service_id: Option<String>,
    /// In one region.
    pub region_id: Option<String>,
    /// Enabled or not.
    pub enabled: Option<bool>,
}

/// A new endpoint.
pub async fn insert_endpoint(
    db: &impl ConnectionTrait,
    row: endpoint::Model,
) -> Result<(), DbError> {
    let row: endpoint::ActiveModel = row.into();
    endpoint::Entity::insert(row.reset_all())
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// Writes every column.
pub async fn update_endpoint(
    db: &impl ConnectionTrait,
    row: endpoint::Model,
) -> Result<(), DbError> {
    let id = row.id.clone();
    let row: endpoint::ActiveModel = row.into();
    endpoint::Entity::update_many()
        .set(row.reset_all())
        .filter(endpoint::Column::Id.eq(id))
        .exec(db)
        .await?
        .or_not_found()
}

/// By id.
pub async fn find_endpoint(
    db: &impl ConnectionTrait,
    id: &str,
) -> Result<Option<endpoint::Model>, DbError> {
    Ok(endpoint::Entity::find_by_id(id.to_owned()).one(db).await?)
}

/// A page.
pub async fn list_endpoints(
    db: &impl ConnectionTrait,
    filter: &EndpointFilter,
    page: &Page,
) -> Result<Vec<endpoint::Model>, DbError> {
    let mut query = endpoint::Entity::find();
    if let Some(interface) = &filter.interface {
        query = query.filter(endpoint::Column::Interface.eq(interface));
    }
    if let Some(service) = &filter.service_id {
        query = query.filter(endpoint::Column::ServiceId.eq(service));
    }
    if let Some(region) = &filter.region_id {
        query = query.filter(endpoint::Column::RegionId.eq(region.as_str()));
    }
    if let Some(enabled) = filter.enabled {
        query = query.filter(endpoint::Column::Enabled.eq(enabled));
    }
    paged(db, query, endpoint::Column::Id, page).await
}

/// Removes it.
pub async fn delete_endpoint(db: &impl ConnectionTrait, id: &str) -> Result<(), DbError> {
    endpoint::Entity::delete_by_id(id.to_owned())
        .exec(db)
        .await?
        .or_not_found()
}
