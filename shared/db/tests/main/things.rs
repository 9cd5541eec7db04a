//! A small schema to try things on.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, DatabaseTransaction};
use sea_orm_migration::prelude::MigrationTrait;
use yakumo_db::{Backend, DbError, MigratorTrait, columns};
use yakumo_testing::databases::{TestDatabase, migrated};

/// A thing.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "things")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project_id: String,
    pub name: String,
    pub size: i64,
    pub ratio: f64,
    pub big: bool,
    pub owner_id: Option<String>,
    pub document: String,
    pub data: Vec<u8>,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub mod part {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "parts")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub thing_id: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            yakumo_db::revisions::migration(),
            yakumo_db::idempotency::migration(),
            yakumo_db::migration("m20261121_000002_create_things", |manager| {
                Box::pin(async move {
                    manager
                        .create_table(
                            columns::table("things")
                                .col(columns::id("id").primary_key())
                                .col(columns::id("project_id"))
                                .col(columns::text("name", 255))
                                .col(columns::integer("size"))
                                .col(columns::double("ratio"))
                                .col(columns::boolean("big"))
                                .col(columns::id_null("owner_id"))
                                .col(columns::json("document"))
                                .col(columns::bytes("data"))
                                .col(columns::timestamp("created_at"))
                                .to_owned(),
                        )
                        .await?;
                    manager
                        .create_index(columns::unique_index(
                            "things_by_name",
                            "things",
                            &["project_id", "name"],
                        ))
                        .await?;
                    manager
                        .create_table(
                            columns::table("parts")
                                .col(columns::id("id").primary_key())
                                .col(columns::id("thing_id"))
                                .foreign_key(&mut columns::reference(
                                    "parts_of_thing",
                                    "parts",
                                    "thing_id",
                                    "things",
                                    "id",
                                ))
                                .to_owned(),
                        )
                        .await
                })
            }),
        ]
    }
}

pub async fn database(backend: Backend) -> TestDatabase {
    migrated::<Migrator>(backend).await.unwrap()
}

pub fn thing(id: &str, name: &str) -> Model {
    Model {
        id: id.into(),
        project_id: "p".into(),
        name: name.into(),
        size: 1,
        ratio: 1.5,
        big: false,
        owner_id: None,
        document: "{}".into(),
        data: vec![0, 255, 7],
        created_at: 1,
    }
}

pub async fn insert(txn: &DatabaseTransaction, thing: Model) -> Result<(), DbError> {
    let row = ActiveModel {
        id: Set(thing.id),
        project_id: Set(thing.project_id),
        name: Set(thing.name),
        size: Set(thing.size),
        ratio: Set(thing.ratio),
        big: Set(thing.big),
        owner_id: Set(thing.owner_id),
        document: Set(thing.document),
        data: Set(thing.data),
        created_at: Set(thing.created_at),
    };
    Entity::insert(row).exec_without_returning(txn).await?;
    Ok(())
}

/// Adds one thing in a transaction of its own.
pub async fn add(database: &TestDatabase, thing: Model) -> Result<(), DbError> {
    database
        .db
        .write(move |txn| {
            let thing = thing.clone();
            Box::pin(async move { insert(txn, thing).await })
        })
        .await
}

pub async fn count(database: &TestDatabase) -> u64 {
    Entity::find().count(database.db.read()).await.unwrap()
}
