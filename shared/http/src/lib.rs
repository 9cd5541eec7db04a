//! What every REST surface of Yakumo shares, on axum.
//!
//! A service builds plain routes whose handlers return [`HttpResult`], and
//! wraps them once by [`surface`]. That gives them request ids, trace spans,
//! metrics, bounds on time and size, and errors in the shape that the clients
//! of that API expect: handlers only ever speak of `Fault`s. [`serve`] then
//! listens.

mod auth;
mod base_url;
mod fault;
mod json;
mod keyed;
mod microversion;
mod paging;
mod path;
mod serve;
mod strict;
mod surface;
pub mod trace;

pub use auth::{Auth, MaybeAuth};
pub use base_url::BaseUrl;
pub use fault::{HttpFault, HttpResult, Surface, status_of};
pub use json::{StrictJson, accepted, created, empty, json_response, ok};
pub use keyed::{Key, KeyedJson, NoKey};
pub use microversion::{Microversion, MicroversionRange, microversions};
pub use paging::{Paging, QueryPairs, SortDirection};
pub use path::Path;
pub use serve::{PeerAddress, Served, serve, serve_bounded};
pub use strict::{parse_json, parse_json_value};
pub use surface::{RequestIds, SurfaceOptions, surface};

// Services name axum through here where they can, so that one version is in use.
pub use axum;
