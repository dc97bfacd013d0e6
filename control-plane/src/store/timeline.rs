//! What happened to each cluster: written in the transaction of the change it tells of, kept within a bound, read in pages.

use super::{Doing, Store, StoreError, id_of, number, signed, to_body};
use crate::timeline::{Event, Happening, VERDICT};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use towline_protocol::ids::{ClusterId, HostId};

/// Rows that a cluster may have.
pub const TIMELINE_LIMIT: u64 = 2000;

/// Rows dropped at once when a timeline is full, so that not every event must look for one.
const DROPPED_AT_ONCE: u64 = 100;

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    /// Its number within the cluster, from 1.
    pub sequence: u64,
    /// What, when, and to which host.
    pub event: Event,
}

/// Some of a timeline, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimelinePage {
    /// Its rows.
    pub rows: Vec<TimelineRow>,
    /// The number after which there are more; none: that was all.
    pub next: Option<u64>,
    /// Rows of the whole timeline that were dropped to keep it within its bound.
    pub dropped: u64,
}

/// Add events to a cluster's timeline, as part of the change that they tell of.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    cluster: &ClusterId,
    events: Vec<Event>,
) -> Result<(), StoreError> {
    for event in events {
        if !says_the_same_again(connection, cluster, &event).await? {
            insert(connection, cluster, &event).await?;
        }
    }
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, cluster: &ClusterId, event: &Event) -> Result<(), StoreError> {
    let row = sqlx::query(
        "INSERT INTO timeline (cluster, sequence, at_ms, kind, host, body)
         SELECT $1, COALESCE(MAX(sequence), 0) + 1, $2, $3, $4, $5 FROM timeline WHERE cluster = $1
         RETURNING sequence",
    )
    .bind(cluster.as_str())
    .bind(signed(event.at_ms)?)
    .bind(event.what.kind())
    .bind(event.host.as_ref().map(HostId::as_str))
    .bind(to_body(&event.what))
    .fetch_one(&mut *connection)
    .await
    .doing("add to a timeline")?;
    crate::metrics::get().happened(&event.what);
    let newest = number(&row, "sequence");
    if newest > TIMELINE_LIMIT { thin(connection, cluster, newest).await } else { Ok(()) }
}

/// A host that comes back after a silence says its verdict anew; only another one is news.
async fn says_the_same_again(
    connection: &mut SqliteConnection,
    cluster: &ClusterId,
    event: &Event,
) -> Result<bool, StoreError> {
    let (Happening::HostVerdict { verdict, .. }, Some(host)) = (&event.what, &event.host) else {
        return Ok(false);
    };
    let row = sqlx::query(
        "SELECT body FROM timeline WHERE cluster = $1 AND host = $2 AND kind = $3 ORDER BY sequence DESC LIMIT 1",
    )
    .bind(cluster.as_str())
    .bind(host.as_str())
    .bind(VERDICT)
    .fetch_optional(connection)
    .await
    .doing("read the verdict before")?;
    let before = row.and_then(|row| serde_json::from_str::<Happening>(row.get("body")).ok());
    Ok(matches!(before, Some(Happening::HostVerdict { verdict: before, .. }) if before == *verdict))
}

/// Drop what is missed least: old verdicts, then old events of hosts, then old events of the cluster. The newest stays:
/// its number tells how many there were.
async fn thin(connection: &mut SqliteConnection, cluster: &ClusterId, newest: u64) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS kept FROM timeline WHERE cluster = $1")
        .bind(cluster.as_str())
        .fetch_one(&mut *connection)
        .await
        .doing("count a timeline")?;
    let kept = number(&row, "kept");
    if kept <= TIMELINE_LIMIT {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM timeline WHERE cluster = $1 AND sequence IN (
             SELECT sequence FROM timeline WHERE cluster = $1 AND sequence < $2
             ORDER BY CASE WHEN kind = $3 THEN 0 WHEN host IS NOT NULL THEN 1 ELSE 2 END, sequence LIMIT $4)",
    )
    .bind(cluster.as_str())
    .bind(signed(newest)?)
    .bind(VERDICT)
    .bind(signed(kept - TIMELINE_LIMIT + DROPPED_AT_ONCE)?)
    .execute(connection)
    .await
    .doing("thin a timeline")?;
    Ok(())
}

/// A row that can be read. One that cannot (of a newer version) is left out: it must not hide the others.
fn read(row: &SqliteRow) -> Option<TimelineRow> {
    let what = serde_json::from_str(row.get("body")).ok()?;
    let host = match row.get::<Option<&str>, _>("host") {
        Some(_) => Some(id_of("host", row, "host")?),
        None => None,
    };
    Some(TimelineRow { sequence: number(row, "sequence"), event: Event { at_ms: number(row, "at_ms"), host, what } })
}

impl Store {
    /// At most `limit` rows of a cluster's timeline after number `after`, oldest first.
    pub async fn timeline(&self, cluster: &ClusterId, after: u64, limit: u32) -> Result<TimelinePage, StoreError> {
        let limit = limit as usize;
        let rows = sqlx::query(
            "SELECT sequence, at_ms, host, body FROM timeline WHERE cluster = $1 AND sequence > $2
             ORDER BY sequence LIMIT $3",
        )
        .bind(cluster.as_str())
        .bind(signed(after)?)
        .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await
        .doing("read a timeline")?;
        let whole =
            sqlx::query("SELECT COALESCE(MAX(sequence), 0) - COUNT(*) AS dropped FROM timeline WHERE cluster = $1")
                .bind(cluster.as_str())
                .fetch_one(&self.readers)
                .await
                .doing("count a timeline")?;
        Ok(TimelinePage {
            next: (rows.len() > limit).then(|| rows[..limit].last().map(|row| number(row, "sequence"))).flatten(),
            rows: rows.iter().take(limit).filter_map(read).collect(),
            dropped: number(&whole, "dropped"),
        })
    }

    /// Forget the timelines of ended clusters to which nothing happened since `before_ms`. Returns how many rows.
    pub async fn forget_timelines(&self, before_ms: u64) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM timeline WHERE cluster IN (
                 SELECT t.cluster FROM timeline t JOIN clusters c ON c.id = t.cluster
                 WHERE c.live = 0 GROUP BY t.cluster HAVING MAX(t.at_ms) < $1)",
        )
        .bind(signed(before_ms)?)
        .execute(&self.writer)
        .await
        .doing("forget old timelines")?;
        Ok(done.rows_affected())
    }
}
