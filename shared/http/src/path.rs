//! Path parameters whose refusal is the API's own.

use axum::extract::FromRequestParts;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use yakumo_types::Fault;

use crate::fault::HttpFault;

/// The parameters of a route, as axum's extractor of the same name reads
/// them. What is not UTF-8 or no `T` names nothing, and is refused as every
/// other resource that is not there: 404, in the words of the surface's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = HttpFault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpFault> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(refused(&rejection).into()),
        }
    }
}

fn refused(rejection: &PathRejection) -> Fault {
    let is_defect = match rejection {
        PathRejection::FailedToDeserializePathParams(failed) => matches!(
            failed.kind(),
            ErrorKind::WrongNumberOfParameters { .. } | ErrorKind::UnsupportedType { .. }
        ),
        _ => true,
    };
    if is_defect {
        tracing::error!(%rejection, "a handler asks for other parameters than its route has");
        return Fault::internal("The server made a mistake.");
    }
    Fault::not_found("The resource could not be found.")
}
