//! The keys that tokens and contexts are signed with: Ed25519, 32 bytes each.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use yakumo_types::{Env, Fault};
use zeroize::Zeroizing;

/// What PKCS #8 puts before the 32 bytes of an Ed25519 private key (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A private key that signs.
#[derive(Clone)]
pub struct SigningKey {
    id: String,
    seed: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    encoding: EncodingKey,
}

impl SigningKey {
    /// A new key, from the process's own chance.
    pub fn generate(env: &Env) -> Result<Self, Fault> {
        let mut seed = Zeroizing::new([0; 32]);
        env.rng.fill(&mut *seed);
        Self::from_seed(seed)
    }

    /// The key of a seed of 32 bytes.
    pub fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<Self, Fault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed)
            .map_err(|_| Fault::internal("A signing key is unusable."))?;
        let public: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| Fault::internal("A signing key is unusable."))?;
        let mut document = Zeroizing::new(PKCS8_PREFIX.to_vec());
        document.extend_from_slice(&*seed);
        Ok(Self {
            id: key_id(&public),
            encoding: EncodingKey::from_ed_der(&document),
            public,
            seed,
        })
    }

    /// The key of a seed in base64, as `openssl rand -base64 32` prints one.
    pub fn from_text(text: &str) -> Result<Self, Fault> {
        let bytes = Zeroizing::new(
            STANDARD
                .decode(text.trim())
                .map_err(|_| Fault::invalid("A signing key must be 32 bytes in base64."))?,
        );
        let seed: [u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| Fault::invalid("A signing key must be 32 bytes in base64."))?;
        Self::from_seed(Zeroizing::new(seed))
    }

    /// The seed in base64; to be kept secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.seed))
    }

    /// The name under which verifiers know the key (`kid`).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What verifiers need.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey {
            id: self.id.clone(),
            public: self.public,
            decoding: DecodingKey::from_ed_der(&self.public),
        }
    }

    /// Signs `claims` as a compact JWS.
    pub fn sign<T: Serialize>(&self, claims: &T) -> Result<String, Fault> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|error| {
            tracing::error!(%error, "signing failed");
            Fault::internal("Signing failed.")
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SigningKey({})", self.id)
    }
}

/// A public key that verifies.
#[derive(Clone)]
pub struct VerifyingKey {
    id: String,
    public: [u8; 32],
    decoding: DecodingKey,
}

impl VerifyingKey {
    /// From the 32 bytes of the key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let public: [u8; 32] = bytes
            .try_into()
            .map_err(|_| Fault::invalid("A public key must be 32 bytes."))?;
        Ok(Self {
            id: key_id(&public),
            public,
            decoding: DecodingKey::from_ed_der(&public),
        })
    }

    /// From base64.
    pub fn from_text(text: &str) -> Result<Self, Fault> {
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|_| Fault::invalid("A public key must be 32 bytes in base64."))?;
        Self::from_bytes(&bytes)
    }

    /// In base64.
    pub fn to_text(&self) -> String {
        STANDARD.encode(self.public)
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.public
    }

    /// The key's name (`kid`).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The claims of a compact JWS that this key has signed. Times in it are
    /// for the caller to check, by the process's own clock.
    pub(crate) fn verify<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode(token, &self.decoding, &validation)
            .ok()
            .map(|data| data.claims)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "VerifyingKey({})", self.id)
    }
}

fn key_id(public: &[u8; 32]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public);
    hex::encode(digest.as_ref().get(..8).unwrap_or_default())
}

/// The `kid` of a compact JWS, if it has one and is signed by EdDSA.
pub(crate) fn signer_of(token: &str) -> Option<String> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    (header.alg == Algorithm::EdDSA).then_some(header.kid?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_seed(Zeroizing::new([byte; 32])).unwrap()
    }

    #[test]
    fn what_a_key_signs_only_its_own_public_key_verifies() {
        let token = key(1).sign(&json!({"a": 1})).unwrap();
        assert_eq!(signer_of(&token).as_deref(), Some(key(1).id()));
        let claims: Option<Value> = key(1).verifying_key().verify(&token);
        assert_eq!(claims, Some(json!({"a": 1})));
        assert_eq!(key(2).verifying_key().verify::<Value>(&token), None);
        let tampered = format!("{}A", &token[..token.len() - 1]);
        if tampered != token {
            assert_eq!(key(1).verifying_key().verify::<Value>(&tampered), None);
        }
    }

    #[test]
    fn a_key_survives_being_written_down() {
        let text = key(3).to_text();
        assert_eq!(SigningKey::from_text(&text).unwrap().id(), key(3).id());
        let public = key(3).verifying_key().to_text();
        assert_eq!(VerifyingKey::from_text(&public).unwrap().id(), key(3).id());
        assert!(SigningKey::from_text("c2hvcnQ=").is_err());
    }
}
