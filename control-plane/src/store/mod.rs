//! The control plane's memory: SQLite behind one set of queries.
//!
//! Owns every read and write of records, the uniqueness rules (names, idempotency keys, one key per enrolment token) and
//! the stream of "this cluster changed". Must not decide anything about clusters: callers pass closures that do.
//! Driven by `api`, `fleet`, `sessions` and `enrolment`. SQL is kept to what PostgreSQL speaks too.

mod admissions;
mod clusters;
mod enrolment;
mod environments;
mod hosts;
mod limits;
mod people;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;
mod usage;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, SqlSafeStr as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::broadcast;
use towline_protocol::ids::{ClusterId, Epoch, HostId};
use towline_protocol::time::UnixSeconds;

pub use clusters::{Idempotency, Inserted};
pub use enrolment::{Redemption, TokenRecord};
pub use limits::LimitChange;
pub use people::{PersonToken, Role, Standing, WorkspaceRecord};
pub use timeline::{TIMELINE_LIMIT, TimelinePage, TimelineRow};

/// How many changes a slow reader may fall behind before it must read everything again.
const CHANGES_CAPACITY: usize = 1024;

/// Longest wait for a connection: the one writer is never held across anything but SQL.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Readers at once; writes go through one connection, so that they queue here instead of failing as "database is locked".
const READERS: u32 = 4;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database of an existing server is gone.
    #[error("the database {path} is missing or empty; restore it from a backup, or begin anew with `towline server reset`",
        path = path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The database file could not be made or opened.
    #[error("cannot open the database {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The database file could not be made.
    #[error("cannot create the database {path}", path = path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The tables could not be brought up to date. A database of a newer version is refused here.
    #[error("cannot bring the database up to date; was it written by a newer towline?")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A query failed.
    #[error("the database failed at: {doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A stored record cannot be read.
    #[error("the stored {kind} {id} cannot be read")]
    Corrupt {
        /// What kind of record.
        kind: &'static str,
        /// Which one.
        id: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// No such cluster.
    #[error("there is no cluster {0}")]
    UnknownCluster(ClusterId),
    /// No such host.
    #[error("there is no host {0}")]
    UnknownHost(HostId),
    /// A number does not fit the database's 64 signed bits.
    #[error("the number {0} is too large to be stored")]
    TooLarge(u64),
}

/// A handle on the database; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    changes: broadcast::Sender<ClusterId>,
}

impl Store {
    /// Open the database at `path`, made 0600 if it is not there, and bring its tables up to date.
    ///
    /// For a server that exists already: [`Self::open_existing`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives its side files the mode of the main file, so making that one 0600 covers all three.
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A host must be on disk before a backend makes it, or a power cut leaks it: commits are synced.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let pool = || SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
        migrator().run(&writer).await.map_err(StoreError::Migrate)?;
        let readers =
            pool().max_connections(READERS).connect_with(options.pragma("query_only", "true")).await.map_err(open)?;
        Ok(Self { writer, readers, changes: broadcast::Sender::new(CHANGES_CAPACITY) })
    }

    /// Open the database of a server that exists. One that is missing or empty is not made anew: every token, cluster and
    /// host of the server would silently be forgotten.
    pub async fn open_existing(path: &Path) -> Result<Self, StoreError> {
        if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) {
            return Self::open(path).await;
        }
        Err(StoreError::Missing { path: path.to_owned() })
    }

    /// Close every connection; what was committed is on disk.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Ids of clusters that changed (hosts and members count). A reader that lags reads everything again.
    ///
    /// A notice can be lost when the caller of an update is cancelled right after its commit: readers also look by
    /// themselves now and then.
    pub fn changes(&self) -> broadcast::Receiver<ClusterId> {
        self.changes.subscribe()
    }

    /// The term of this run of the control plane.
    pub async fn epoch(&self) -> Result<Epoch, StoreError> {
        let row = sqlx::query("SELECT value FROM numbers WHERE name = 'epoch'")
            .fetch_optional(&self.readers)
            .await
            .doing("read the epoch")?;
        Ok(Epoch(row.map_or(0, |row| number(&row, "value"))))
    }

    /// Take the next term: higher than every one before, and at least the time, so that a restored backup outbids
    /// whatever was signed after it was made.
    pub async fn bump_epoch(&self, now: UnixSeconds) -> Result<Epoch, StoreError> {
        let row = sqlx::query(
            "INSERT INTO numbers (name, value) VALUES ('epoch', $1)
             ON CONFLICT (name) DO UPDATE SET value = CASE
                 WHEN numbers.value + 1 > excluded.value THEN numbers.value + 1 ELSE excluded.value END
             RETURNING value",
        )
        .bind(signed(now.0)?)
        .fetch_one(&self.writer)
        .await
        .doing("take the next epoch")?;
        Ok(Epoch(number(&row, "value")))
    }

    fn changed(&self, cluster: &ClusterId) {
        // Nobody listening is fine: a new reader starts by reading everything.
        let _ = self.changes.send(cluster.clone());
    }
}

/// The newest version of the tables that this program knows.
pub fn newest_schema() -> i64 {
    migrator().iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// Copy the database at `from`, which a server may be using, to the new file `to`. Returns the version of its tables.
///
/// The copy is what one moment's commits left; writers go on meanwhile.
pub async fn copy_database(from: &Path, to: &Path) -> Result<i64, StoreError> {
    let options = SqliteConnectOptions::new().filename(from).busy_timeout(ACQUIRE_TIMEOUT);
    let open = |source| StoreError::Open { path: from.to_owned(), source };
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(open)?;
    let schema = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations").fetch_one(&pool).await;
    let schema = schema.doing("read the version of the tables")?.get::<i64, _>("version");
    let copied = sqlx::query("VACUUM INTO $1").bind(to.to_string_lossy()).execute(&pool).await;
    pool.close().await;
    copied.doing("copy the database")?;
    Ok(schema)
}

/// Every step of the tables, oldest first. A step that was released is never edited.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "first light", include_str!("migrations/sqlite/0001_first_light.sql")),
    (2, "tokens", include_str!("migrations/sqlite/0002_tokens.sql")),
    (3, "limits and usage", include_str!("migrations/sqlite/0003_limits_and_usage.sql")),
    (4, "timeline", include_str!("migrations/sqlite/0004_timeline.sql")),
    (5, "admission requests", include_str!("migrations/sqlite/0005_admission_requests.sql")),
];

fn migrator() -> Migrator {
    migrator_up_to(i64::MAX)
}

/// Only the steps up to this one: a test makes the database of an older version.
fn migrator_up_to(last: i64) -> Migrator {
    let steps = MIGRATIONS.into_iter().filter(|(version, ..)| *version <= last).map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.collect())
}

/// Says what was being done when a query failed.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| {
            crate::metrics::get().store_error(doing);
            StoreError::Query { doing, source }
        })
    }
}

fn signed(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::TooLarge(value))
}

/// Read a number that we wrote ourselves through [`signed`].
fn number(row: &sqlx::sqlite::SqliteRow, column: &str) -> u64 {
    u64::try_from(row.get::<i64, _>(column)).unwrap_or_default()
}

/// Read an id that we wrote ourselves. Whoever looks over all rows leaves one out that cannot be read, and says so.
fn id_of<T: FromStr>(kind: &'static str, row: &sqlx::sqlite::SqliteRow, column: &str) -> Option<T> {
    let text: &str = row.get(column);
    let id = text.parse().ok();
    if id.is_none() {
        tracing::error!(component = "store", kind, id = text, "a stored id cannot be read; its row is left out");
    }
    id
}

fn to_body<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("records hold only strings, integers, lists and maps with text keys")
}

fn from_body<T: DeserializeOwned>(kind: &'static str, row: &sqlx::sqlite::SqliteRow) -> Result<T, StoreError> {
    let body: &str = row.get("body");
    serde_json::from_str(body).map_err(|source| StoreError::Corrupt { kind, id: row.get("id"), source })
}
