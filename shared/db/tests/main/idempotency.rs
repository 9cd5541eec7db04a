//! A key is kept with what it made, once, whoever else has the same idea.

use futures::future::join_all;
use yakumo_db::idempotency::{self, KEPT, Once};
use yakumo_db::{Backend, DbError};
use yakumo_types::{
    Fault, FaultCode, IdempotencyKey, ProjectId, RequestContext, RequestId, Timestamp, UserId,
};

use crate::things::{count, database, insert, thing};

crate::on_every_database!(
    a_key_tells_what_it_made,
    a_request_that_fails_leaves_its_key_unused,
    of_many_with_one_key_one_makes_something,
    a_key_is_one_users_in_one_project_for_one_operation,
    keys_are_forgotten_after_a_day,
);

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn context(user: u128, project: u128) -> RequestContext {
    RequestContext {
        user_id: UserId::from_uuid(uuid(user)),
        project_id: Some(ProjectId::from_uuid(uuid(project))),
        ..RequestContext::host(RequestId::from_uuid(uuid(1)))
    }
}

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

fn key(key: &str, digest: &str) -> IdempotencyKey {
    IdempotencyKey {
        key: key.into(),
        digest: digest.into(),
    }
}

fn once(key: &IdempotencyKey) -> Once {
    Once::new(&context(1, 2), "make_thing", Some(key), NOW)
}

/// Makes a thing under a key, and refuses in the end if it is called `refused`.
async fn make(
    database: &yakumo_testing::databases::TestDatabase,
    once: &Once,
    id: &str,
) -> Result<(), DbError> {
    let (once, id) = (once.clone(), id.to_owned());
    database
        .db
        .write(move |txn| {
            let (once, id) = (once.clone(), id.clone());
            Box::pin(async move {
                once.keep(txn, std::slice::from_ref(&id)).await?;
                insert(txn, thing(&id, &id)).await?;
                if id == "refused" {
                    return Err(Fault::over_quota("no more things").into());
                }
                Ok(())
            })
        })
        .await
}

async fn a_key_tells_what_it_made(backend: Backend) {
    let database = database(backend).await;
    let request = once(&key("a", "body"));
    assert_eq!(request.made(&database.db).await.unwrap(), None);
    make(&database, &request, "1").await.unwrap();
    let made = request.made(&database.db).await.unwrap();
    assert_eq!(made, Some(vec!["1".to_owned()]));
    let other = once(&key("a", "another body"));
    let fault = Fault::from(other.made(&database.db).await.unwrap_err());
    assert_eq!(fault.code, FaultCode::Unprocessable);

    // Without a key nothing is kept, and nothing is known.
    let keyless = Once::new(&context(1, 2), "make_thing", None, NOW);
    make(&database, &keyless, "2").await.unwrap();
    make(&database, &keyless, "3").await.unwrap();
    assert_eq!(keyless.made(&database.db).await.unwrap(), None);
}

async fn a_request_that_fails_leaves_its_key_unused(backend: Backend) {
    let database = database(backend).await;
    let request = once(&key("a", "body"));
    make(&database, &request, "refused").await.unwrap_err();
    assert_eq!(request.made(&database.db).await.unwrap(), None);
    let other = once(&key("a", "another body"));
    make(&database, &other, "1").await.unwrap();
    assert_eq!(count(&database).await, 1);
}

async fn of_many_with_one_key_one_makes_something(backend: Backend) {
    let database = database(backend).await;
    let request = once(&key("a", "body"));
    let ids: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    let outcomes = join_all(ids.iter().map(|id| make(&database, &request, id))).await;
    let made = request.made_one(&database.db).await.unwrap().unwrap();
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Ok(()) => assert_eq!(*id, made),
            Err(error) => {
                let fault = Fault::from(error);
                assert_eq!(fault.code, FaultCode::Conflict, "{fault}");
                assert_eq!(fault.retry_after, Some(1));
            }
        }
    }
    assert_eq!(count(&database).await, 1);
}

async fn a_key_is_one_users_in_one_project_for_one_operation(backend: Backend) {
    let database = database(backend).await;
    let key = key("a", "body");
    let of =
        |user, project, operation| Once::new(&context(user, project), operation, Some(&key), NOW);
    let domain = RequestContext {
        project_id: None,
        domain_id: Some(yakumo_types::DomainId::from_uuid(uuid(2))),
        ..context(1, 2)
    };
    let all = [
        of(1, 2, "make_thing"),
        of(1, 3, "make_thing"),
        of(2, 2, "make_thing"),
        of(1, 2, "make_other"),
        Once::new(&domain, "make_thing", Some(&key), NOW),
    ];
    for (number, request) in all.iter().enumerate() {
        make(&database, request, &number.to_string()).await.unwrap();
    }
    for (number, request) in all.iter().enumerate() {
        let made = request.made_one(&database.db).await.unwrap();
        assert_eq!(made, Some(number.to_string()));
    }
}

async fn keys_are_forgotten_after_a_day(backend: Backend) {
    let database = database(backend).await;
    let request = once(&key("a", "body"));
    make(&database, &request, "1").await.unwrap();
    let day = NOW.plus(KEPT);
    assert_eq!(idempotency::forget(&database.db, day).await.unwrap(), 0);
    assert!(request.made(&database.db).await.unwrap().is_some());
    let later = Timestamp::from_micros(day.as_micros() + 1);
    assert_eq!(idempotency::forget(&database.db, later).await.unwrap(), 1);
    assert_eq!(request.made(&database.db).await.unwrap(), None);
    assert_eq!(count(&database).await, 1);
}
