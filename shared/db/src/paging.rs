//! Pages by key, not by offset: the cost of a page does not grow with its
//! place in the list, and nothing is seen twice while rows come and go.

use sea_orm::sea_query::{Expr, ExprTrait as _, Order, SimpleExpr, Value};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, IdenStatic, QueryFilter, QueryOrder, QuerySelect, Select,
};

/// The direction in which one column is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Small ones first.
    Ascending,
    /// Large ones first.
    Descending,
}

impl Direction {
    /// The other one; a page before a marker is read backwards, and its rows
    /// are turned round afterwards.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Ascending => Self::Descending,
            Self::Descending => Self::Ascending,
        }
    }
}

/// Orders by `keys` and starts after the row whose values of these columns are
/// `marker`; at most `limit` rows.
///
/// The columns must not be NULL, and the last one must be unique (the id), so
/// that the order is total. `marker` has one value per key. Add an index over
/// the filter's columns followed by the keys. A column that comes again cannot
/// change the order and is left out, so that the condition never grows beyond
/// what the table has columns for.
pub fn keyset<E>(
    select: Select<E>,
    keys: &[(E::Column, Direction)],
    marker: Option<&[Value]>,
    limit: Option<u64>,
) -> Select<E>
where
    E: EntityTrait,
{
    let mut select = select;
    let mut kept: Vec<(E::Column, Direction)> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        if kept.iter().any(|other| other.0.as_str() == key.0.as_str()) {
            continue;
        }
        kept.push(*key);
        values.extend(marker.and_then(|marker| marker.get(index)).cloned());
    }
    if marker.is_some() {
        select = select.filter(after(&kept, &values));
    }
    for (column, direction) in &kept {
        let order = match direction {
            Direction::Ascending => Order::Asc,
            Direction::Descending => Order::Desc,
        };
        select = select.order_by(*column, order);
    }
    select.limit(limit)
}

/// `a > x OR (a = x AND (b > y OR (b = y AND c > z)))`, preceded by the plain
/// bound `a >= x`, which is what an index can use.
fn after<C: ColumnTrait>(keys: &[(C, Direction)], values: &[Value]) -> Condition {
    let column = |column: &C| Expr::col(column.as_column_ref());
    let beyond = |(key, direction): &(C, Direction), value: &Value| -> SimpleExpr {
        match direction {
            Direction::Ascending => column(key).gt(value.clone()),
            Direction::Descending => column(key).lt(value.clone()),
        }
    };
    let mut rest: Option<SimpleExpr> = None;
    for (key, value) in keys.iter().zip(values).rev() {
        let strictly = beyond(key, value);
        rest = Some(match rest {
            None => strictly,
            Some(rest) => strictly.or(column(&key.0).eq(value.clone()).and(rest)),
        });
    }
    let mut condition = Condition::all();
    if let (true, Some((key, direction)), Some(value)) =
        (keys.len() > 1, keys.first(), values.first())
    {
        condition = condition.add(match direction {
            Direction::Ascending => column(key).gte(value.clone()),
            Direction::Descending => column(key).lte(value.clone()),
        });
    }
    match rest {
        Some(rest) => condition.add(rest),
        None => condition,
    }
}
