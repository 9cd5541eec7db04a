//! Who is it, and may they: tokens, their revocation, and contexts that cannot
//! be forged on the bus.
//!
//! A token is a JWT that the identity service signs with one of its rotating
//! EdDSA keys ([`SigningKey`], [`TokenClaims`]). Everybody else verifies it
//! where it is used ([`TokenVerifier`]), with keys and a revocation log that
//! are pulled by revision; no request waits for the identity service. The log
//! decides without any clock: a token carries the revision that held *before*
//! its rights were read, and an entry hits the tokens with a lower one, so a
//! token made from outdated rights cannot slip through.
//!
//! [`JwsContextSeal`] signs the request context that travels with messages.

mod claims;
mod keys;
pub mod policy;
mod revocations;
mod seal;
mod source;
mod verifier;

pub use claims::{ProjectScope, TokenClaims};
pub use keys::{SigningKey, VerifyingKey};
pub use revocations::{RevocationIndex, RevocationKind};
pub use seal::{JwsContextSeal, SealConfig};
pub use source::{BusSource, VERIFIERS_TOPIC, VerificationSource};
pub use verifier::{TokenVerifier, VerifierConfig};
