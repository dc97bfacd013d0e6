//! Environments and the blobs that a workspace has: digests and sizes, never content.

use super::{Doing, Store, StoreError, from_body, signed, to_body};
use crate::model::EnvironmentRecord;
use towline_protocol::ids::{Digest, WorkspaceId};

impl Store {
    /// Write an environment down, new or changed.
    pub async fn put_environment(&self, record: EnvironmentRecord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO environments (workspace, digest, created_at_ms, body) VALUES ($1, $2, $3, $4)
             ON CONFLICT (workspace, digest) DO UPDATE SET body = excluded.body",
        )
        .bind(record.workspace.as_str())
        .bind(record.digest.as_str())
        .bind(signed(record.created_at_ms)?)
        .bind(to_body(&record))
        .execute(&self.writer)
        .await
        .doing("write an environment")?;
        Ok(())
    }

    /// One environment of a workspace.
    pub async fn environment(
        &self,
        workspace: &WorkspaceId,
        digest: &Digest,
    ) -> Result<Option<EnvironmentRecord>, StoreError> {
        let row = sqlx::query("SELECT digest AS id, body FROM environments WHERE workspace = $1 AND digest = $2")
            .bind(workspace.as_str())
            .bind(digest.as_str())
            .fetch_optional(&self.readers)
            .await
            .doing("read an environment")?;
        row.as_ref().map(|row| from_body("environment", row)).transpose()
    }

    /// Every environment of a workspace, newest first.
    pub async fn environments(&self, workspace: &WorkspaceId) -> Result<Vec<EnvironmentRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT digest AS id, body FROM environments WHERE workspace = $1 ORDER BY created_at_ms DESC, digest",
        )
        .bind(workspace.as_str())
        .fetch_all(&self.readers)
        .await
        .doing("list environments")?;
        rows.iter().map(|row| from_body("environment", row)).collect()
    }

    /// Which of these blobs the workspace has not shown to have, in the order asked.
    pub async fn missing_blobs(&self, workspace: &WorkspaceId, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let mut connection = self.readers.acquire().await.doing("read blobs")?;
        let mut missing = Vec::new();
        for digest in digests {
            let row = sqlx::query("SELECT 1 FROM blobs WHERE workspace = $1 AND digest = $2")
                .bind(workspace.as_str())
                .bind(digest.as_str())
                .fetch_optional(&mut *connection)
                .await
                .doing("look up a blob")?;
            if row.is_none() {
                missing.push(digest.clone());
            }
        }
        Ok(missing)
    }

    /// Note that the workspace has these blobs.
    pub async fn mark_blobs(&self, workspace: &WorkspaceId, blobs: &[(Digest, u64)]) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin to note blobs")?;
        for (digest, size) in blobs {
            sqlx::query(
                "INSERT INTO blobs (workspace, digest, size) VALUES ($1, $2, $3)
                 ON CONFLICT (workspace, digest) DO UPDATE SET size = excluded.size",
            )
            .bind(workspace.as_str())
            .bind(digest.as_str())
            .bind(signed(*size)?)
            .execute(&mut *transaction)
            .await
            .doing("note a blob")?;
        }
        transaction.commit().await.doing("commit blobs")
    }

    /// Forget that the workspace has these blobs: the blob store says otherwise.
    pub async fn unmark_blobs(&self, workspace: &WorkspaceId, digests: &[Digest]) -> Result<(), StoreError> {
        for digest in digests {
            sqlx::query("DELETE FROM blobs WHERE workspace = $1 AND digest = $2")
                .bind(workspace.as_str())
                .bind(digest.as_str())
                .execute(&self.writer)
                .await
                .doing("forget a blob")?;
        }
        Ok(())
    }
}
