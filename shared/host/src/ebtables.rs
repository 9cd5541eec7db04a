//! Applying bridge rules: `ebtables-save`, compare, `ebtables-restore --noflush`.

use crate::command::{Cmd, CommandError, CommandRunner};
use crate::rules::{Family, Table, plan};

/// Brings our chains of these tables to what is wanted. Returns whether
/// anything had to change.
pub async fn apply(runner: &dyn CommandRunner, tables: &[Table]) -> Result<bool, CommandError> {
    let saved = runner
        .run(Cmd::new("ebtables-save", [] as [&str; 0]))
        .await?
        .text();
    let Some(text) = plan(Family::Bridge, tables, &saved) else {
        return Ok(false);
    };
    tracing::debug!(%text, "changing bridge rules");
    // Unlike its IPv4 sister this program has no word for the end of a table.
    let text = text.replace("COMMIT\n", "");
    runner
        .run(Cmd::new("ebtables-restore", ["--noflush"]).stdin(text))
        .await?;
    Ok(true)
}
