//! The door of a cluster: requests to join it, and admissions.
//!
//! A request counts until its time is over, its token is revoked or its cluster ends; every read here leaves out those
//! that do not count, so that no caller can forget one of the three.

use super::clusters::{read_to_change, touch};
use super::{Doing, Store, StoreError, from_body, number, signed, timeline, to_body};
use crate::clock::unix_ms;
use crate::model::{AdmissionRequest, ClusterRecord, Doorway, MemberRecord, RequestState};
use crate::timeline as events;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use towline_protocol::ids::ClusterId;

fn read(row: &SqliteRow) -> Option<AdmissionRequest> {
    let text = |column: &str| row.get::<&str, _>(column);
    let request = (|| {
        Some(AdmissionRequest {
            cluster: text("cluster").parse().ok()?,
            client: text("client").to_owned(),
            spki: text("spki").parse().ok()?,
            person: text("person").to_owned(),
            token: text("token").parse().ok()?,
            state: RequestState::parse(text("state"))?,
            asked_at_ms: number(row, "asked_at_ms"),
            expires_at_ms: number(row, "expires_at_ms"),
        })
    })();
    if request.is_none() {
        let (cluster_id, client) = (text("cluster"), text("client"));
        tracing::error!(
            component = "store",
            cluster_id,
            client,
            "a stored request to join cannot be read; it is left out"
        );
    }
    request
}

async fn requests(
    connection: &mut SqliteConnection,
    cluster: &ClusterId,
    now_ms: u64,
) -> Result<Vec<AdmissionRequest>, StoreError> {
    let rows = sqlx::query(
        "SELECT r.cluster, r.client, r.spki, r.person, r.token, r.state, r.asked_at_ms, r.expires_at_ms
         FROM admission_requests r JOIN person_tokens t ON t.id = r.token
         WHERE r.cluster = $1 AND r.expires_at_ms > $2 AND t.revoked_at_ms IS NULL ORDER BY r.asked_at_ms, r.client",
    )
    .bind(cluster.as_str())
    .bind(signed(now_ms)?)
    .fetch_all(connection)
    .await
    .doing("list who asks to join a cluster")?;
    Ok(rows.iter().filter_map(read).collect())
}

async fn members(connection: &mut SqliteConnection, cluster: &ClusterId) -> Result<Vec<MemberRecord>, StoreError> {
    let rows = sqlx::query("SELECT id, body FROM members WHERE cluster = $1 ORDER BY id")
        .bind(cluster.as_str())
        .fetch_all(connection)
        .await
        .doing("list a cluster's members")?;
    rows.iter().map(|row| from_body("member", row)).collect()
}

async fn doorway(connection: &mut SqliteConnection, cluster: &ClusterId, now_ms: u64) -> Result<Doorway, StoreError> {
    // In this order, as an admission turns the one into the other: whoever reads in between sees both, never neither.
    let requests = requests(connection, cluster, now_ms).await?;
    Ok(Doorway { members: members(connection, cluster).await?, requests })
}

async fn put(connection: &mut SqliteConnection, request: &AdmissionRequest) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO admission_requests (cluster, client, spki, person, token, state, asked_at_ms, expires_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (cluster, client) DO UPDATE SET spki = excluded.spki, person = excluded.person,
             token = excluded.token, state = excluded.state, asked_at_ms = excluded.asked_at_ms,
             expires_at_ms = excluded.expires_at_ms",
    )
    .bind(request.cluster.as_str())
    .bind(&request.client)
    .bind(request.spki.as_str())
    .bind(&request.person)
    .bind(request.token.as_str())
    .bind(request.state.as_str())
    .bind(signed(request.asked_at_ms)?)
    .bind(signed(request.expires_at_ms)?)
    .execute(connection)
    .await
    .doing("write a request to join down")?;
    Ok(())
}

/// Forget everybody who asks to join a cluster: it ends.
pub(super) async fn forget_requests(connection: &mut SqliteConnection, cluster: &ClusterId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM admission_requests WHERE cluster = $1")
        .bind(cluster.as_str())
        .execute(connection)
        .await
        .doing("forget who asks to join a cluster")?;
    Ok(())
}

impl Store {
    /// Who is in a cluster, and who asks to be.
    pub async fn doorway(&self, cluster: &ClusterId, now_ms: u64) -> Result<Doorway, StoreError> {
        let mut connection = self.readers.acquire().await.doing("read who asks to join a cluster")?;
        doorway(&mut connection, cluster, now_ms).await
    }

    /// Change what is asked of a cluster's owner. `judge` is shown the cluster and its door and gives the request as it
    /// is to be; none: as it is. One transaction: of two requests at once the second is judged with the first in its place.
    pub async fn change_request<E>(
        &self,
        cluster: &ClusterId,
        by: &str,
        now_ms: u64,
        judge: impl FnOnce(&ClusterRecord, &Doorway) -> Result<Option<AdmissionRequest>, E> + Send,
    ) -> Result<Result<(), E>, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin a change of a request to join")?;
        let record = read_to_change(&mut transaction, cluster).await?;
        let door = doorway(&mut transaction, cluster, now_ms).await?;
        let request = match judge(&record, &door) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(Ok(())),
            Err(refused) => return Ok(Err(refused)),
        };
        put(&mut transaction, &request).await?;
        touch(&mut transaction, cluster).await?;
        let told = events::of_request(door.request(&request.client), &request, by, now_ms);
        timeline::append(&mut transaction, cluster, told.into_iter().collect()).await?;
        transaction.commit().await.doing("commit a change of a request to join")?;
        self.changed(cluster);
        Ok(Ok(()))
    }

    /// Write a client down if `judge`, who is shown the cluster's door, says that it is new; it may say whose it is. The
    /// request that this answers is gone with it. One transaction: of two clients at once the second is judged with the
    /// first one in its place. False: nothing was written.
    pub async fn admit_member<E>(
        &self,
        mut record: MemberRecord,
        now_ms: u64,
        judge: impl FnOnce(&mut MemberRecord, &Doorway) -> Result<bool, E> + Send,
    ) -> Result<Result<bool, E>, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin an admission")?;
        let door = doorway(&mut transaction, &record.cluster, now_ms).await?;
        match judge(&mut record, &door) {
            Ok(true) => {}
            other => return Ok(other),
        }
        sqlx::query("INSERT INTO members (cluster, id, body) VALUES ($1, $2, $3)")
            .bind(record.cluster.as_str())
            .bind(&record.id)
            .bind(to_body(&record))
            .execute(&mut *transaction)
            .await
            .doing("write a new member")?;
        sqlx::query("DELETE FROM admission_requests WHERE cluster = $1 AND client = $2")
            .bind(record.cluster.as_str())
            .bind(&record.id)
            .execute(&mut *transaction)
            .await
            .doing("answer a request to join")?;
        touch(&mut transaction, &record.cluster).await?;
        timeline::append(&mut transaction, &record.cluster, vec![events::of_admission(&record, unix_ms())]).await?;
        transaction.commit().await.doing("commit an admission")?;
        self.changed(&record.cluster);
        Ok(Ok(true))
    }

    /// Forget requests whose time was over at `now_ms`. Returns how many.
    pub async fn forget_expired_requests(&self, now_ms: u64) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM admission_requests WHERE expires_at_ms <= $1")
            .bind(signed(now_ms)?)
            .execute(&self.writer)
            .await
            .doing("forget old requests to join")?;
        Ok(done.rows_affected())
    }
}
