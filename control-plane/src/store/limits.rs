//! Limits that admins set, and what live clusters hold of them.

use super::{Doing, Store, StoreError, id_of, number, signed};
use crate::usage::limits::{Amount, Held, Ledger, Limit, Resource, Subject};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use towline_protocol::ids::WorkspaceId;

/// A change of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitChange {
    /// Forget it: the next wider one or the settings decide.
    Forget,
    /// Set it; none: no limit.
    Set(Option<u64>),
}

/// The limits of a workspace and what is held of them, within a transaction.
pub(super) async fn ledger(connection: &mut SqliteConnection, workspace: &WorkspaceId) -> Result<Ledger, StoreError> {
    let rows =
        sqlx::query("SELECT subject, resource, most FROM limits WHERE workspace = $1 ORDER BY subject, resource")
            .bind(workspace.as_str())
            .fetch_all(&mut *connection)
            .await
            .doing("read limits")?;
    let limits = rows.iter().filter_map(read_limit).collect();
    let rows = sqlx::query(
        "SELECT c.id, c.person, c.wanted_hosts, c.worker_cores,
             (SELECT COUNT(*) FROM hosts h WHERE h.cluster = c.id AND h.live = 1) AS live_hosts
         FROM clusters c WHERE c.workspace = $1 AND c.live = 1",
    )
    .bind(workspace.as_str())
    .fetch_all(connection)
    .await
    .doing("count what clusters hold")?;
    Ok(Ledger { limits, held: rows.iter().filter_map(read_held).collect() })
}

fn read_limit(row: &SqliteRow) -> Option<Limit> {
    let subject = Subject::parse(row.get("subject"))?;
    // A resource of a newer version binds nobody here.
    let resource = Resource::parse(row.get("resource"))?;
    let most = row.get::<Option<i64>, _>("most").map(|most| u64::try_from(most).unwrap_or_default());
    Some(Limit { subject, resource, most })
}

fn read_held(row: &SqliteRow) -> Option<Held> {
    // Hosts that are on their way out cost as much as others until they are gone.
    let hosts = number(row, "wanted_hosts").max(number(row, "live_hosts"));
    let amount = Amount::of(hosts, number(row, "worker_cores"));
    Some(Held { cluster: id_of("cluster", row, "id")?, person: row.get("person"), amount })
}

impl Store {
    /// The limits of a workspace and what is held of them. Only a look: what makes or scales a cluster judges by its own.
    pub async fn ledger(&self, workspace: &WorkspaceId) -> Result<Ledger, StoreError> {
        let mut transaction = self.readers.begin().await.doing("begin to read limits")?;
        ledger(&mut transaction, workspace).await
    }

    /// Change limits of one subject.
    pub async fn change_limits(
        &self,
        workspace: &WorkspaceId,
        subject: &Subject,
        changes: &[(Resource, LimitChange)],
    ) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a change of limits")?;
        let text = subject.to_text();
        for (resource, change) in changes {
            sqlx::query("DELETE FROM limits WHERE workspace = $1 AND subject = $2 AND resource = $3")
                .bind(workspace.as_str())
                .bind(&text)
                .bind(resource.as_str())
                .execute(&mut *transaction)
                .await
                .doing("forget a limit")?;
            let LimitChange::Set(most) = change else { continue };
            sqlx::query("INSERT INTO limits (workspace, subject, resource, most) VALUES ($1, $2, $3, $4)")
                .bind(workspace.as_str())
                .bind(&text)
                .bind(resource.as_str())
                .bind(most.map(signed).transpose()?)
                .execute(&mut *transaction)
                .await
                .doing("set a limit")?;
        }
        transaction.commit().await.doing("commit a change of limits")
    }
}
