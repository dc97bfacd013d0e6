//! How long hosts were there, from columns: no record is opened.

use super::{Doing, Store, StoreError, id_of, number, signed};
use crate::usage::hours::{Stay, Window};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::sync::Arc;
use towline_protocol::ids::WorkspaceId;

fn read_stay(row: &SqliteRow) -> Option<Stay> {
    let tags = serde_json::from_str(row.get::<&str, _>("tags")).unwrap_or_default();
    let until_ms = row.get::<Option<i64>, _>("ended_at_ms").map(|end| u64::try_from(end).unwrap_or_default());
    Some(Stay {
        cluster: id_of("cluster", row, "cluster")?,
        name: row.get("name"),
        person: row.get("person"),
        tags: Arc::new(tags),
        cores: number(row, "cores"),
        from_ms: number(row, "made_at_ms"),
        until_ms,
    })
}

impl Store {
    /// Every host of a workspace that was there at some time of the window: of one person's clusters, or of all.
    pub async fn stays(
        &self,
        workspace: &WorkspaceId,
        person: Option<&str>,
        window: Window,
    ) -> Result<Vec<Stay>, StoreError> {
        // A host that the backend never made has no `made_at_ms` and cost nothing. A scheduler's host counts as one core.
        let rows = sqlx::query(
            "SELECT h.cluster, c.name, c.person, c.tags, h.made_at_ms, h.ended_at_ms,
                 CASE WHEN h.role = 'worker' THEN c.worker_cores ELSE 1 END AS cores
             FROM hosts h JOIN clusters c ON c.id = h.cluster
             WHERE c.workspace = $1 AND (CAST($2 AS TEXT) IS NULL OR c.person = $2)
                 AND h.made_at_ms < $4 AND (h.ended_at_ms IS NULL OR h.ended_at_ms > $3)",
        )
        .bind(workspace.as_str())
        .bind(person)
        .bind(signed(window.since_ms)?)
        .bind(signed(window.until_ms)?)
        .fetch_all(&self.readers)
        .await
        .doing("list how long hosts were there")?;
        Ok(rows.iter().filter_map(read_stay).collect())
    }
}
