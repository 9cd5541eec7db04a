//! What goes in comes out, and what is refused is refused alike.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use yakumo_db::{Backend, DbError};
use yakumo_types::{Fault, FaultCode};

use crate::things::{self, Column, Entity, add, count, database, part, thing};

crate::on_every_database!(
    a_row_comes_back_as_it_was,
    the_same_name_is_a_conflict_that_names_the_index,
    a_missing_reference_is_not_the_same_as_a_conflict,
    text_is_compared_byte_by_byte,
    text_is_ordered_byte_by_byte,
    a_value_that_is_too_long_is_the_clients_fault,
);

async fn a_row_comes_back_as_it_was(backend: Backend) {
    let database = database(backend).await;
    let row = things::Model {
        size: i64::MAX,
        ratio: 16.0 / 3.0,
        big: true,
        owner_id: Some("owner".into()),
        // Longer than the 64 KiB that a plain TEXT holds in MySQL.
        document: format!("{{\"text\":\"{}\"}}", "八雲🌩".repeat(20_000)),
        data: (0..=255).cycle().take(100_000).collect(),
        created_at: -1,
        ..thing("1", "出雲 🌩 'quoted' \\ back")
    };
    add(&database, row.clone()).await.unwrap();
    let found = Entity::find().all(database.db.read()).await.unwrap();
    assert_eq!(found, vec![row]);
}

async fn the_same_name_is_a_conflict_that_names_the_index(backend: Backend) {
    let database = database(backend).await;
    add(&database, thing("1", "one")).await.unwrap();
    let error = add(&database, thing("2", "one")).await.unwrap_err();
    assert!(error.is_conflict_on("things_by_name"), "{error:?}");
    let error = add(&database, thing("1", "two")).await.unwrap_err();
    assert!(error.is_conflict_on("PRIMARY"), "{error:?}");
    assert_eq!(Fault::from(error).code, FaultCode::Conflict);
    assert_eq!(count(&database).await, 1);
}

async fn a_missing_reference_is_not_the_same_as_a_conflict(backend: Backend) {
    let database = database(backend).await;
    let add_part = || {
        database.db.write(|txn| {
            Box::pin(async move {
                let row = part::ActiveModel {
                    id: sea_orm::ActiveValue::Set("p".into()),
                    thing_id: sea_orm::ActiveValue::Set("1".into()),
                };
                part::Entity::insert(row)
                    .exec_without_returning(txn)
                    .await?;
                Ok(())
            })
        })
    };
    let error = add_part().await.unwrap_err();
    assert!(matches!(error, DbError::ForeignKey { .. }), "{error:?}");
    add(&database, thing("1", "one")).await.unwrap();
    add_part().await.unwrap();
    let error = database
        .db
        .write(|txn| {
            Box::pin(async move {
                Entity::delete_by_id("1").exec(txn).await?;
                Ok(())
            })
        })
        .await
        .unwrap_err();
    assert!(matches!(error, DbError::ForeignKey { .. }), "{error:?}");
    if backend != Backend::Sqlite {
        let DbError::ForeignKey { constraint } = error else {
            unreachable!()
        };
        assert_eq!(constraint.as_deref(), Some("parts_of_thing"));
    }
}

/// All different, and for some collations partly the same.
const NAMES: [&str; 8] = ["a", "A", "a ", "ä", "a\u{308}", "ss", "ß", ""];

async fn text_is_compared_byte_by_byte(backend: Backend) {
    let database = database(backend).await;
    for (number, name) in NAMES.iter().enumerate() {
        add(&database, thing(&number.to_string(), name))
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }
    for name in NAMES {
        let found = Entity::find()
            .filter(Column::Name.eq(name))
            .all(database.db.read())
            .await
            .unwrap();
        assert_eq!(found.len(), 1, "{name:?}: {found:?}");
        assert_eq!(found[0].name, name);
    }
}

async fn text_is_ordered_byte_by_byte(backend: Backend) {
    let database = database(backend).await;
    let mut names = vec![
        "b", "B", "a", "_", "Z", "é", "z", "-", "10", "9", "日", "a b", "a-b",
    ];
    for name in &names {
        add(&database, thing(name, name)).await.unwrap();
    }
    names.sort_unstable();
    for column in [Column::Name, Column::Id] {
        let found: Vec<String> = Entity::find()
            .order_by_asc(column)
            .all(database.db.read())
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.name)
            .collect();
        assert_eq!(found, names, "{column:?}");
    }
}

async fn a_value_that_is_too_long_is_the_clients_fault(backend: Backend) {
    let database = database(backend).await;
    // Characters count, not bytes.
    add(&database, thing("1", &"雲".repeat(255))).await.unwrap();
    let result = add(&database, thing("2", &"雲".repeat(256))).await;
    if backend != Backend::Sqlite {
        let fault = Fault::from(result.unwrap_err());
        assert_eq!(fault.code, FaultCode::Invalid, "{fault:?}");
    }
    if backend == Backend::Postgres {
        let fault = Fault::from(add(&database, thing("3", "nul \0")).await.unwrap_err());
        assert_eq!(fault.code, FaultCode::Invalid, "{fault:?}");
    }
}
