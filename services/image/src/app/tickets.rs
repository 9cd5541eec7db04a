//! The right of one host to fetch one image.
//!
//! Hosts have no token and no database. Whoever boots a server asks for a
//! ticket in the name of the server's owner, so the question whether that
//! project may use the image is answered there; the host shows the ticket and
//! gets exactly those bytes. A ticket names image, host and SHA-512, holds for
//! an hour unless configured otherwise, and is a JWS over a secret that only
//! the instances of this service have, in their database.
//!
//! A ticket outlives a change of mind about who may use the image, and is
//! worthless once the image is deleted or deactivated.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use yakumo_contracts::image::Ticket;
use yakumo_types::{Env, Fault, FaultCode, ImageId, RequestContext, Timestamp};

use super::Images;
use super::download::Data;
use super::images::not_found;
use super::model::Status;
use crate::store::{Viewer, images as rows};

/// For whom tickets are made.
const AUDIENCE: &str = "yakumo-image-data";

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Always the same, so that no other signed text is taken for a ticket.
    aud: String,
    /// The image.
    pub image_id: ImageId,
    /// The host that fetches it.
    pub host: String,
    /// The bytes that it is about.
    pub sha512: String,
    /// Seconds since the epoch.
    pub exp: i64,
}

/// Signs and checks tickets.
pub struct TicketKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    env: Env,
}

impl TicketKey {
    /// By this secret.
    pub fn new(secret: &[u8], env: Env) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        // Time comes from the process's clock, so it is checked in `open`.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "aud"]);
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            env,
        }
    }

    /// A ticket and when it runs out.
    pub fn issue(
        &self,
        image_id: ImageId,
        host: &str,
        sha512: &str,
        lifetime: Duration,
    ) -> Result<(String, Timestamp), Fault> {
        let expires_at = Timestamp::from_secs(self.env.now().plus(lifetime).as_secs());
        let claim = Claim {
            aud: AUDIENCE.to_owned(),
            image_id,
            host: host.to_owned(),
            sha512: sha512.to_owned(),
            exp: expires_at.as_secs(),
        };
        let ticket = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claim, &self.encoding)
            .map_err(|error| {
            tracing::error!(%error, "a ticket cannot be signed");
            Fault::internal("A ticket cannot be signed.")
        })?;
        Ok((ticket, expires_at))
    }

    /// What a ticket says; 401 if it is none of ours or has run out.
    pub fn open(&self, ticket: &str) -> Result<Claim, Fault> {
        let claim = jsonwebtoken::decode::<Claim>(ticket, &self.decoding, &self.validation)
            .map_err(|_| Fault::unauthorized("The ticket does not hold."))?
            .claims;
        if claim.exp <= self.env.now().as_secs() {
            return Err(Fault::unauthorized("The ticket has run out."));
        }
        Ok(claim)
    }
}

impl Images {
    /// The right of `host` to fetch an image that the caller may use.
    pub async fn issue_ticket(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        host: &str,
    ) -> Result<Ticket, Fault> {
        let image = self.show(ctx, id).await?;
        let stored = match (image.status, image.stored) {
            (Status::Active, Some(stored)) => stored,
            (status, _) => {
                return Err(Fault::conflict(format!(
                    "Image {id} is {status}; only an active one can be used."
                )));
            }
        };
        let lifetime = Duration::from_secs(self.config.grpc.ticket_seconds.max(1));
        let (ticket, expires_at) = self.tickets.issue(id, host, &stored.sha512, lifetime)?;
        Ok(Ticket {
            endpoint: self.endpoint.to_string(),
            ticket,
            size: stored.size,
            sha512: stored.sha512,
            disk_format: image.disk_format.unwrap_or_default(),
            min_disk: image.min_disk,
            min_ram: image.min_ram,
            virtual_size: stored.virtual_size,
            properties: image.properties.into_iter().collect(),
            expires_at: expires_at.as_micros(),
        })
    }

    /// The data that a ticket gives a right to.
    pub async fn redeem_ticket(&self, id: ImageId, ticket: &str) -> Result<(Claim, Data), Fault> {
        let claim = self.tickets.open(ticket)?;
        if claim.image_id != id {
            return Err(Fault::forbidden("The ticket is for another image."));
        }
        // The ticket stands for whoever might see the image when it was made.
        let image = rows::find(&self.db, Viewer::Admin(None), id)
            .await?
            .ok_or_else(|| not_found(id))?
            .image;
        let (Status::Active, Some(stored), Some(blob)) = (image.status, image.stored, image.blob)
        else {
            return Err(not_found(id));
        };
        if stored.sha512 != claim.sha512 {
            return Err(Fault::new(FaultCode::NotFound, "The image's data changed."));
        }
        let data = self.open(blob, stored).await?;
        Ok((claim, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> ImageId {
        ImageId::from_uuid(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn a_ticket_holds_for_its_time_and_its_key() {
        let env = yakumo_service::system_env();
        let key = TicketKey::new(b"one secret of some thirty-two by", env.clone());
        let hour = Duration::from_secs(3_600);
        let (ticket, _) = key.issue(id(1), "node-1", "abc", hour).unwrap();
        let claim = key.open(&ticket).unwrap();
        assert_eq!((claim.image_id, claim.host.as_str()), (id(1), "node-1"));

        let other = TicketKey::new(b"another secret of thirty-two byt", env);
        assert_eq!(
            other.open(&ticket).unwrap_err().code,
            FaultCode::Unauthorized
        );
        let (expired, _) = key.issue(id(1), "node-1", "abc", Duration::ZERO).unwrap();
        assert_eq!(
            key.open(&expired).unwrap_err().code,
            FaultCode::Unauthorized
        );
        for bad in ["", "x", "a.b.c", &ticket[..ticket.len() - 2]] {
            assert!(key.open(bad).is_err(), "{bad}");
        }
    }
}
