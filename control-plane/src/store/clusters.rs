//! Clusters: insertion with names and idempotency keys, reads, transactional updates.

use super::admissions::forget_requests;
use super::limits::ledger;
use super::{Doing, Store, StoreError, from_body, id_of, number, signed, timeline, to_body};
use crate::model::ClusterRecord;
use crate::timeline as events;
use crate::usage::limits::{self, Ledger};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};
use towline_protocol::ids::{ClusterId, Digest, WorkspaceId};

/// A client's own name for one request, and the hash of what it asked under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The `Idempotency-Key` header.
    pub key: String,
    /// SHA-256 of the request's meaning.
    pub body_hash: Digest,
}

/// What became of an insertion.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "made once per request and taken apart at once")]
pub enum Inserted {
    /// The same request came before; this is its cluster.
    Existing(ClusterRecord),
    /// The key was used for another request.
    KeyReused,
    /// A live cluster of the workspace has this name.
    NameTaken,
    /// It is there now.
    New,
}

fn read(row: &SqliteRow) -> Result<ClusterRecord, StoreError> {
    let mut record: ClusterRecord = from_body("cluster", row)?;
    // The column is the truth: hosts and members raise it too, without rewriting the body.
    record.revision = number(row, "revision");
    Ok(record)
}

fn read_or_leave_out(row: &SqliteRow) -> Option<ClusterRecord> {
    read(row)
        .inspect_err(|error| {
            let id: &str = row.get("id");
            let error = crate::api::chain(error);
            tracing::error!(component = "store", cluster_id = id, error, "a cluster is left out of a list");
        })
        .ok()
}

/// Count a change of something that belongs to the cluster.
pub(super) async fn touch(connection: &mut SqliteConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query("UPDATE clusters SET revision = revision + 1 WHERE id = $1")
        .bind(cluster.as_str())
        .execute(connection)
        .await
        .doing("count a change of a cluster")?;
    Ok(())
}

pub(super) async fn read_to_change(
    connection: &mut SqliteConnection,
    id: &ClusterId,
) -> Result<ClusterRecord, StoreError> {
    let row = sqlx::query("SELECT id, revision, body FROM clusters WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await
        .doing("read a cluster to change it")?
        .ok_or_else(|| StoreError::UnknownCluster(id.clone()))?;
    read(&row)
}

/// What an earlier request under this key was, if there was one.
async fn seen(
    connection: &mut SqliteConnection,
    workspace: &WorkspaceId,
    person: &str,
    idempotency: &Idempotency,
) -> Result<Option<Inserted>, StoreError> {
    let row = sqlx::query(
        "SELECT i.body_hash, c.id, c.revision, c.body FROM idempotency i JOIN clusters c ON c.id = i.cluster
         WHERE i.workspace = $1 AND i.person = $2 AND i.key = $3",
    )
    .bind(workspace.as_str())
    .bind(person)
    .bind(&idempotency.key)
    .fetch_optional(connection)
    .await
    .doing("look up an idempotency key")?;
    let Some(row) = row else { return Ok(None) };
    let same = row.get::<&str, _>("body_hash") == idempotency.body_hash.as_str();
    Ok(Some(if same { Inserted::Existing(read(&row)?) } else { Inserted::KeyReused }))
}

impl Store {
    /// Whether this request was seen before: its cluster, or that its key was used for another request.
    /// Only a look: [`Store::insert_cluster`] decides.
    pub async fn seen_request(
        &self,
        workspace: &WorkspaceId,
        person: &str,
        idempotency: &Idempotency,
    ) -> Result<Option<Inserted>, StoreError> {
        let mut connection = self.readers.acquire().await.doing("look up an idempotency key")?;
        seen(&mut connection, workspace, person, idempotency).await
    }

    /// Write a new cluster down, unless its name is taken, the request was seen before, or `judge`, who is shown the
    /// limits of its workspace and what is held of them, refuses. One transaction: of two requests at once the second
    /// is judged with the first one in its place.
    pub async fn insert_cluster_within<E>(
        &self,
        record: ClusterRecord,
        idempotency: Option<Idempotency>,
        judge: impl FnOnce(&Ledger) -> Result<(), E> + Send,
    ) -> Result<Result<Inserted, E>, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a new cluster")?;
        if let Some(idempotency) = &idempotency
            && let Some(seen) = seen(&mut transaction, &record.workspace, &record.person, idempotency).await?
        {
            return Ok(Ok(seen));
        }
        if let Err(refused) = judge(&ledger(&mut transaction, &record.workspace).await?) {
            return Ok(Err(refused));
        }
        let inserted = sqlx::query(
            "INSERT INTO clusters (id, workspace, name, live, revision, created_at_ms, body, person, wanted_hosts,
                 worker_cores, tags)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(record.id.as_str())
        .bind(record.workspace.as_str())
        .bind(&record.name)
        .bind(i64::from(!record.state.is_terminal()))
        .bind(signed(record.revision)?)
        .bind(signed(record.created_at_ms)?)
        .bind(to_body(&record))
        .bind(&record.person)
        .bind(signed(limits::wanted_hosts(&record))?)
        .bind(signed(limits::worker_cores(&record))?)
        .bind(to_body(&record.terms.tags))
        .execute(&mut *transaction)
        .await;
        match inserted {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => return Ok(Ok(Inserted::NameTaken)),
            other => other.doing("insert a cluster")?,
        };
        if let Some(idempotency) = idempotency {
            sqlx::query(
                "INSERT INTO idempotency (workspace, person, key, body_hash, cluster, created_at_ms)
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(record.workspace.as_str())
            .bind(&record.person)
            .bind(&idempotency.key)
            .bind(idempotency.body_hash.as_str())
            .bind(record.id.as_str())
            .bind(signed(record.created_at_ms)?)
            .execute(&mut *transaction)
            .await
            .doing("keep an idempotency key")?;
        }
        timeline::append(&mut transaction, &record.id, vec![events::of_new_cluster(&record)]).await?;
        transaction.commit().await.doing("commit a new cluster")?;
        self.changed(&record.id);
        Ok(Ok(Inserted::New))
    }

    /// Write a new cluster down, whatever the limits say: for tests, so that nothing else can forget to ask.
    #[cfg(test)]
    pub async fn insert_cluster(
        &self,
        record: ClusterRecord,
        idempotency: Option<Idempotency>,
    ) -> Result<Inserted, StoreError> {
        let yes = |_: &Ledger| Ok::<_, std::convert::Infallible>(());
        self.insert_cluster_within(record, idempotency, yes).await.map(|Ok(inserted)| inserted)
    }

    /// One cluster.
    pub async fn cluster(&self, id: &ClusterId) -> Result<Option<ClusterRecord>, StoreError> {
        let row = sqlx::query("SELECT id, revision, body FROM clusters WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .doing("read a cluster")?;
        row.as_ref().map(read).transpose()
    }

    /// A cluster of a workspace by id or name: of several with one name the live one, else the newest.
    pub async fn find_cluster(
        &self,
        workspace: &WorkspaceId,
        id_or_name: &str,
    ) -> Result<Option<ClusterRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT id, revision, body FROM clusters WHERE workspace = $1 AND (id = $2 OR name = $2)
             ORDER BY CASE WHEN id = $2 THEN 0 ELSE 1 END, live DESC, created_at_ms DESC LIMIT 1",
        )
        .bind(workspace.as_str())
        .bind(id_or_name)
        .fetch_optional(&self.readers)
        .await
        .doing("find a cluster")?;
        row.as_ref().map(read).transpose()
    }

    /// Every cluster that has not ended. Opens no record, so that one that cannot be read holds up no other.
    pub async fn live_clusters(&self) -> Result<Vec<ClusterId>, StoreError> {
        let rows = sqlx::query("SELECT id FROM clusters WHERE live = 1 ORDER BY created_at_ms, id")
            .fetch_all(&self.readers)
            .await
            .doing("list live clusters")?;
        Ok(rows.iter().filter_map(|row| id_of("cluster", row, "id")).collect())
    }

    /// Clusters, newest first: of one workspace or of all, ended ones too or not. One that cannot be read is left out,
    /// and said so: it must not hide the others.
    pub async fn clusters(
        &self,
        workspace: Option<&WorkspaceId>,
        include_ended: bool,
    ) -> Result<Vec<ClusterRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, revision, body FROM clusters
             WHERE (CAST($1 AS TEXT) IS NULL OR workspace = $1) AND (live = 1 OR $2 = 1)
             ORDER BY created_at_ms DESC, id",
        )
        .bind(workspace.map(WorkspaceId::as_str))
        .bind(i64::from(include_ended))
        .fetch_all(&self.readers)
        .await
        .doing("list clusters")?;
        Ok(rows.iter().filter_map(read_or_leave_out).collect())
    }

    /// Change a cluster in one transaction. Counts and announces the change, unless `change` left it as it was. One that
    /// makes it want more hosts is for [`Store::update_cluster_within`].
    pub async fn update_cluster(
        &self,
        id: &ClusterId,
        change: impl FnOnce(&mut ClusterRecord) + Send,
    ) -> Result<ClusterRecord, StoreError> {
        self.update_cluster_by(None, id, change).await
    }

    /// The same, asked for by a person: the timeline says who.
    pub async fn update_cluster_by(
        &self,
        person: Option<&str>,
        id: &ClusterId,
        change: impl FnOnce(&mut ClusterRecord) + Send,
    ) -> Result<ClusterRecord, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a change of a cluster")?;
        let before = read_to_change(&mut transaction, id).await?;
        let mut record = before.clone();
        change(&mut record);
        self.write_changed(transaction, person, &before, record).await
    }

    /// Change a cluster in one transaction if `change`, who is shown the limits of its workspace and what is held of them
    /// (this cluster's part included), does not refuse. What is changed by then is forgotten with it.
    pub async fn update_cluster_within<E>(
        &self,
        person: Option<&str>,
        id: &ClusterId,
        change: impl FnOnce(&mut ClusterRecord, &Ledger) -> Result<(), E> + Send,
    ) -> Result<Result<ClusterRecord, E>, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a change of a cluster within limits")?;
        let before = read_to_change(&mut transaction, id).await?;
        let ledger = ledger(&mut transaction, &before.workspace).await?;
        let mut record = before.clone();
        if let Err(refused) = change(&mut record, &ledger) {
            return Ok(Err(refused));
        }
        self.write_changed(transaction, person, &before, record).await.map(Ok)
    }

    async fn write_changed(
        &self,
        mut transaction: Transaction<'_, Sqlite>,
        person: Option<&str>,
        before: &ClusterRecord,
        mut record: ClusterRecord,
    ) -> Result<ClusterRecord, StoreError> {
        if record == *before {
            return Ok(record);
        }
        record.revision = before.revision + 1;
        sqlx::query("UPDATE clusters SET live = $2, revision = $3, body = $4, wanted_hosts = $5 WHERE id = $1")
            .bind(record.id.as_str())
            .bind(i64::from(!record.state.is_terminal()))
            .bind(signed(record.revision)?)
            .bind(to_body(&record))
            .bind(signed(limits::wanted_hosts(&record))?)
            .execute(&mut *transaction)
            .await
            .doing("change a cluster")?;
        let told = events::of_cluster(before, &record, person, crate::clock::unix_ms());
        timeline::append(&mut transaction, &record.id, told).await?;
        if record.is_ending() {
            forget_requests(&mut transaction, &record.id).await?;
        }
        transaction.commit().await.doing("commit a change of a cluster")?;
        self.changed(&record.id);
        Ok(record)
    }

    /// Forget idempotency keys older than `before_ms`. Returns how many.
    pub async fn forget_idempotency_keys(&self, before_ms: u64) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM idempotency WHERE created_at_ms < $1")
            .bind(signed(before_ms)?)
            .execute(&self.writer)
            .await
            .doing("forget old idempotency keys")?;
        Ok(done.rows_affected())
    }
}
