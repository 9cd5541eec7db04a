//! Asking the network service what the host should be like: everything, or what
//! became of what is here.

use std::sync::atomic::Ordering;

use yakumo_contracts::network::{GroupRevision, HostDelta, HostState, Known, PullStateRequest};
use yakumo_types::Fault;

use super::Agent;
use super::desired::Missing;
use super::wanted::Wanted;

/// How often a change is asked for again with what it lacked.
const MAX_LACKING: usize = 3;

/// What a pull brought.
pub(super) enum Pulled {
    Nothing,
    State(HostState),
    Delta(HostDelta),
}

impl Agent {
    /// The groups whose members are here.
    pub(super) async fn groups(&self) -> Vec<GroupRevision> {
        let wanted = self.wanted.lock().await;
        wanted
            .as_ref()
            .map(|wanted| wanted.desired.groups())
            .unwrap_or_default()
    }

    /// What is new: everything, or what became of what is here.
    pub(super) async fn pull(&self) -> Result<Pulled, Fault> {
        // What becomes stale from here on is asked for the next time.
        let groups_stale = self.groups_stale.swap(false, Ordering::AcqRel);
        let pulled = self.pull_with(groups_stale).await;
        if pulled.is_err() {
            self.groups_stale.fetch_or(groups_stale, Ordering::AcqRel);
        }
        pulled
    }

    async fn pull_with(&self, groups_stale: bool) -> Result<Pulled, Fault> {
        let groups = if groups_stale {
            self.groups().await
        } else {
            Vec::new()
        };
        let mut lacking = Missing::default();
        for _ in 0..MAX_LACKING {
            let Some((since, known)) = self.changeable().await else {
                break;
            };
            let request = PullStateRequest {
                since_revision: since,
                deltas: true,
                network_ids: lacking.networks.iter().cloned().collect(),
                group_ids: lacking.groups.iter().cloned().collect(),
                groups: groups.clone(),
                known: Some(known),
                ..PullStateRequest::default()
            };
            let delta: HostDelta = match self.fetch(request).await? {
                None => return Ok(Pulled::Nothing),
                Some((false, bytes)) => return Ok(Pulled::State(decode(&bytes)?)),
                Some((true, bytes)) => decode(&bytes)?,
            };
            let wanted = self.wanted.lock().await;
            let missing = wanted.as_ref().map(|wanted| wanted.desired.missing(&delta));
            match missing {
                Some(Ok(missing)) if missing.is_empty() => return Ok(Pulled::Delta(delta)),
                Some(Ok(missing)) => {
                    lacking.networks.extend(missing.networks);
                    lacking.groups.extend(missing.groups);
                }
                _ => {
                    tracing::warn!("what became of the state does not fit: pulling everything");
                    break;
                }
            }
        }
        let request = PullStateRequest {
            groups: self.trusted_groups().await,
            ..PullStateRequest::default()
        };
        Ok(match self.fetch(request).await? {
            None => Pulled::Nothing,
            Some((_, bytes)) => Pulled::State(decode(&bytes)?),
        })
    }

    /// The groups whose members need not be told again with everything else: none
    /// of what an earlier process kept.
    async fn trusted_groups(&self) -> Vec<GroupRevision> {
        let wanted = self.wanted.lock().await;
        wanted
            .as_ref()
            .filter(|wanted| wanted.pulled.is_some() && wanted.desired.is_changeable())
            .map(|wanted| wanted.desired.groups())
            .unwrap_or_default()
    }

    /// Whether changes of what is here may be taken.
    pub(super) async fn is_changeable(&self) -> bool {
        let wanted = self.wanted.lock().await;
        wanted
            .as_ref()
            .is_some_and(|wanted| self.may_change(wanted))
    }

    /// The revision and the parts of what is here, if changes of it may be taken.
    pub(super) async fn changeable(&self) -> Option<(u64, Known)> {
        let wanted = self.wanted.lock().await;
        let wanted = wanted.as_ref().filter(|wanted| self.may_change(wanted))?;
        Some((wanted.desired.revision(), wanted.desired.known()))
    }

    fn may_change(&self, wanted: &Wanted) -> bool {
        let now = self.process.env.clock.monotonic();
        let lately = |pulled| now.saturating_sub(pulled) < self.pull_all;
        wanted.desired.is_changeable() && wanted.pulled.is_some_and(lately)
    }

    /// Asks for a state or what became of one, to its end: whether it is the
    /// latter, and its bytes. `None` when what is here is still right.
    async fn fetch(&self, request: PullStateRequest) -> Result<Option<(bool, Vec<u8>)>, Fault> {
        let mut request = PullStateRequest {
            host: self.settings.host.clone(),
            ..request
        };
        let mut bytes = Vec::new();
        // A state that changes faster than it can be read is read at the next nudge.
        for _ in 0..10_000 {
            request.offset = u64::try_from(bytes.len()).unwrap_or(0);
            let asked = request.clone();
            let reply = self.client.pull_state(&self.context(), asked).await?;
            if reply.start_again {
                bytes.clear();
                (request.revision, request.tag) = (0, Vec::new());
                continue;
            }
            if reply.total_bytes == 0 {
                return Ok(None);
            }
            (request.revision, request.tag) = (reply.revision, reply.tag);
            if reply.chunk.is_empty() {
                return Err(Fault::internal("The network service sent an empty part."));
            }
            bytes.extend_from_slice(&reply.chunk);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) >= reply.total_bytes {
                return Ok(Some((reply.delta, bytes)));
            }
        }
        Err(Fault::unavailable("The state changes too fast."))
    }
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Fault> {
    M::decode(bytes).map_err(|error| Fault::internal(format!("The state cannot be read: {error}.")))
}
