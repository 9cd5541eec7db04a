//! The console log, asked of the server's host.

use yakumo_contracts::compute_host::ConsoleLogRequest;
use yakumo_types::{Fault, FaultCode, RequestContext, ServerId};

use super::App;

impl App {
    /// The last `lines` lines of a server's console, all that is kept for
    /// `None`.
    pub async fn console_log(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        lines: Option<u32>,
    ) -> Result<String, Fault> {
        ctx.require_member()?;
        let row = self.server_of(ctx, id).await?;
        let not_ready = || Fault::conflict(format!("Instance {id} is not ready"));
        let host = row.host.as_deref().ok_or_else(not_ready)?;
        if lines == Some(0) {
            // To a host, 0 means everything.
            return Ok(String::new());
        }
        let request = ConsoleLogRequest {
            server_id: row.id.clone(),
            lines: lines.unwrap_or(0),
        };
        let reply = self
            .compute_host(host)
            .get_console_log(&self.internal(), request)
            .await
            .map_err(|fault| match fault.code {
                FaultCode::NotFound => not_ready(),
                // What went wrong names the host, which is not the caller's to know.
                FaultCode::Unavailable | FaultCode::Timeout => {
                    Fault::unavailable(format!("The host of instance {id} does not answer."))
                }
                _ => fault,
            })?;
        Ok(reply.output)
    }
}
