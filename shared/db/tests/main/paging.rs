//! Pages by key.

use sea_orm::EntityTrait;
use sea_orm::sea_query::Value;
use yakumo_db::{Backend, Direction, keyset};

use crate::things::{Column, Entity, Model, add, database, thing};

crate::on_every_database!(
    pages_show_every_row_once_in_every_order,
    a_key_that_comes_again_changes_nothing,
);

async fn pages_show_every_row_once_in_every_order(backend: Backend) {
    use Direction::{Ascending, Descending};
    let database = database(backend).await;
    for number in 0..30_i64 {
        let row = Model {
            // Many of the same, so that the id must decide.
            size: number % 3,
            created_at: number % 5,
            ..thing(&format!("{:02}", (number * 7) % 30), &number.to_string())
        };
        add(&database, row).await.unwrap();
    }
    let everything = Entity::find().all(database.db.read()).await.unwrap();
    for directions in [
        [Ascending, Ascending, Ascending],
        [Descending, Descending, Descending],
        [Descending, Ascending, Descending],
        [Ascending, Descending, Ascending],
    ] {
        let keys = [
            (Column::Size, directions[0]),
            (Column::CreatedAt, directions[1]),
            (Column::Id, directions[2]),
        ];
        let mut wanted = everything.clone();
        wanted.sort_by(|left, right| {
            let turned = |order: std::cmp::Ordering, direction| match direction {
                Ascending => order,
                Descending => order.reverse(),
            };
            turned(left.size.cmp(&right.size), directions[0])
                .then(turned(
                    left.created_at.cmp(&right.created_at),
                    directions[1],
                ))
                .then(turned(left.id.cmp(&right.id), directions[2]))
        });
        for limit in [1, 7, 100] {
            let mut found: Vec<Model> = Vec::new();
            loop {
                let marker: Option<[Value; 3]> = found.last().map(|row| {
                    [
                        row.size.into(),
                        row.created_at.into(),
                        row.id.clone().into(),
                    ]
                });
                let marker = marker.as_ref().map(|values| values.as_slice());
                let page = keyset(Entity::find(), &keys, marker, Some(limit))
                    .all(database.db.read())
                    .await
                    .unwrap();
                if page.is_empty() {
                    break;
                }
                found.extend(page);
            }
            assert_eq!(found, wanted, "{directions:?} by {limit}");
        }
        // A page before a marker: turned round, and turned back.
        let turned: Vec<_> = keys
            .iter()
            .map(|(column, direction)| (*column, direction.reversed()))
            .collect();
        let marker: [Value; 3] = [
            wanted[10].size.into(),
            wanted[10].created_at.into(),
            wanted[10].id.clone().into(),
        ];
        let mut before = keyset(Entity::find(), &turned, Some(&marker), Some(4))
            .all(database.db.read())
            .await
            .unwrap();
        before.reverse();
        assert_eq!(before, wanted[6..10]);
    }
}

async fn a_key_that_comes_again_changes_nothing(backend: Backend) {
    use Direction::{Ascending, Descending};
    let database = database(backend).await;
    for number in 0..10_i64 {
        let row = Model {
            size: number / 2,
            ..thing(&format!("{number:02}"), &number.to_string())
        };
        add(&database, row).await.unwrap();
    }
    let marker = |size: i64, id: &str| [Value::from(size), id.into()];
    let plain = [(Column::Size, Descending), (Column::Id, Ascending)];
    let wanted = keyset(Entity::find(), &plain, Some(&marker(2, "04")), None)
        .all(database.db.read())
        .await
        .unwrap();
    assert_eq!(wanted.len(), 5);
    // So often that no database would take a condition over all of them.
    let mut keys = vec![(Column::Size, Descending)];
    keys.extend(vec![(Column::Id, Ascending); 3_000]);
    keys.extend(vec![(Column::Size, Ascending); 3_000]);
    let mut values = vec![Value::from(2_i64)];
    values.extend(vec![Value::from("04"); 3_000]);
    values.extend(vec![Value::from(2_i64); 3_000]);
    let found = keyset(Entity::find(), &keys, Some(&values), None)
        .all(database.db.read())
        .await
        .unwrap();
    assert_eq!(found, wanted);
}
