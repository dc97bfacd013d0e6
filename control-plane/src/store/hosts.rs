//! Hosts and admitted clients of clusters. Admitting is `admissions`'.

use super::clusters::touch;
use super::{Doing, Store, StoreError, from_body, id_of, signed, timeline, to_body};
use crate::clock::unix_ms;
use crate::model::{HostRecord, MemberRecord, StartPhase};
use crate::timeline as events;
use sqlx::sqlite::SqliteRow;
use towline_protocol::ids::{ClusterId, HostId};

/// When the backend made a host; none: it has not.
fn made_at_ms(host: &HostRecord) -> Option<u64> {
    host.phases.iter().find(|timing| timing.phase == StartPhase::Created).map(|timing| timing.reached_at_ms)
}

impl Store {
    /// Write a new host down. Must be done before a backend is asked for it.
    pub async fn insert_host(&self, record: HostRecord) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a new host")?;
        sqlx::query(
            "INSERT INTO hosts (id, cluster, live, created_at_ms, body, role, made_at_ms, ended_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(record.id.as_str())
        .bind(record.cluster.as_str())
        .bind(i64::from(record.state.is_live()))
        .bind(signed(record.created_at_ms)?)
        .bind(to_body(&record))
        .bind(record.role.as_str())
        .bind(made_at_ms(&record).map(signed).transpose()?)
        .bind(record.ended_at_ms.map(signed).transpose()?)
        .execute(&mut *transaction)
        .await
        .doing("insert a host")?;
        touch(&mut transaction, &record.cluster).await?;
        timeline::append(&mut transaction, &record.cluster, vec![events::of_new_host(&record)]).await?;
        transaction.commit().await.doing("commit a new host")?;
        self.changed(&record.cluster);
        Ok(())
    }

    /// One host.
    pub async fn host(&self, id: &HostId) -> Result<Option<HostRecord>, StoreError> {
        let row = sqlx::query("SELECT id, body FROM hosts WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .doing("read a host")?;
        row.as_ref().map(|row| from_body("host", row)).transpose()
    }

    /// Every host of a cluster, ended ones too, oldest first. All or none: to miss one is to make it again.
    pub async fn hosts_of(&self, cluster: &ClusterId) -> Result<Vec<HostRecord>, StoreError> {
        let rows = sqlx::query("SELECT id, body FROM hosts WHERE cluster = $1 ORDER BY created_at_ms, id")
            .bind(cluster.as_str())
            .fetch_all(&self.readers)
            .await
            .doing("list a cluster's hosts")?;
        rows.iter().map(|row| from_body("host", row)).collect()
    }

    /// Every host for which a backend may still hold something, oldest first, with its cluster. Opens no record, so that
    /// one that cannot be read still counts as live.
    pub async fn live_hosts(&self) -> Result<Vec<(HostId, ClusterId)>, StoreError> {
        let rows = sqlx::query("SELECT id, cluster FROM hosts WHERE live = 1 ORDER BY created_at_ms, id")
            .fetch_all(&self.readers)
            .await
            .doing("list live hosts")?;
        let place = |row: &SqliteRow| Some((id_of("host", row, "id")?, id_of("cluster", row, "cluster")?));
        Ok(rows.iter().filter_map(place).collect())
    }

    /// The record of every host for which a backend may still hold something. One that cannot be read is left out.
    pub async fn live_host_records(&self) -> Result<Vec<HostRecord>, StoreError> {
        let rows = sqlx::query("SELECT id, body FROM hosts WHERE live = 1")
            .fetch_all(&self.readers)
            .await
            .doing("read live hosts")?;
        Ok(rows.iter().filter_map(|row| from_body("host", row).ok()).collect())
    }

    /// Change a host in one transaction. Counts and announces it as a change of its cluster, unless `change` left it
    /// as it was. Id and cluster of a host never change.
    pub async fn update_host(
        &self,
        id: &HostId,
        change: impl FnOnce(&mut HostRecord) + Send,
    ) -> Result<HostRecord, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a change of a host")?;
        let row = sqlx::query("SELECT id, body FROM hosts WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .doing("read a host to change it")?
            .ok_or_else(|| StoreError::UnknownHost(id.clone()))?;
        let before: HostRecord = from_body("host", &row)?;
        let mut record = before.clone();
        change(&mut record);
        if record == before {
            return Ok(record);
        }
        sqlx::query("UPDATE hosts SET live = $2, body = $3, made_at_ms = $4, ended_at_ms = $5 WHERE id = $1")
            .bind(id.as_str())
            .bind(i64::from(record.state.is_live()))
            .bind(to_body(&record))
            .bind(made_at_ms(&record).map(signed).transpose()?)
            .bind(record.ended_at_ms.map(signed).transpose()?)
            .execute(&mut *transaction)
            .await
            .doing("change a host")?;
        touch(&mut transaction, &record.cluster).await?;
        timeline::append(&mut transaction, &record.cluster, events::of_host(&before, &record, unix_ms())).await?;
        transaction.commit().await.doing("commit a change of a host")?;
        self.changed(&record.cluster);
        Ok(record)
    }

    /// Admitted clients of a cluster, by id.
    pub async fn members_of(&self, cluster: &ClusterId) -> Result<Vec<MemberRecord>, StoreError> {
        let rows = sqlx::query("SELECT id, body FROM members WHERE cluster = $1 ORDER BY id")
            .bind(cluster.as_str())
            .fetch_all(&self.readers)
            .await
            .doing("list a cluster's members")?;
        rows.iter().map(|row| from_body("member", row)).collect()
    }

    /// Write an admitted client down, new or changed. Says nothing to anybody when it is as it was.
    pub async fn put_member(&self, record: MemberRecord) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a change of a member")?;
        let done = sqlx::query(
            "INSERT INTO members (cluster, id, body) VALUES ($1, $2, $3)
             ON CONFLICT (cluster, id) DO UPDATE SET body = excluded.body WHERE members.body <> excluded.body",
        )
        .bind(record.cluster.as_str())
        .bind(&record.id)
        .bind(to_body(&record))
        .execute(&mut *transaction)
        .await
        .doing("write a member")?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        touch(&mut transaction, &record.cluster).await?;
        transaction.commit().await.doing("commit a change of a member")?;
        self.changed(&record.cluster);
        Ok(())
    }
}
