//! Workspaces, and people's bearer tokens as hashes.

use super::{Doing, Store, StoreError, number, signed};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use towline_protocol::ids::{Digest, WorkspaceId};
use utoipa::ToSchema;

/// A team's space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceRecord {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
}

/// What a person may do in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, people and limits included.
    Admin,
    /// Their own clusters and environments.
    Member,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Admin, Self::Member].into_iter().find(|role| role.as_str() == text)
    }
}

/// A person's token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonToken {
    /// SHA-256 of the token.
    pub hash: Digest,
    /// The workspace it opens.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub person: String,
    /// What it allows.
    pub role: Role,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
    /// Its end, Unix milliseconds; none: until it is taken back.
    pub expires_at_ms: Option<u64>,
}

/// A token that can be read; one that cannot opens nothing.
fn read_token(row: &SqliteRow) -> Option<PersonToken> {
    let role = row.get::<&str, _>("role");
    // A role of a newer version may allow less than any of ours.
    let Some(role) = Role::parse(role) else {
        tracing::error!(
            component = "store",
            person = row.get::<&str, _>("person"),
            role,
            "a token has an unknown role; it is refused"
        );
        return None;
    };
    Some(PersonToken {
        hash: row.get::<&str, _>("hash").parse().ok()?,
        workspace: row.get::<&str, _>("workspace").parse().ok()?,
        person: row.get("person"),
        role,
        created_at_ms: number(row, "created_at_ms"),
        expires_at_ms: row.get::<Option<i64>, _>("expires_at_ms").map(|value| u64::try_from(value).unwrap_or_default()),
    })
}

impl Store {
    /// Write a new workspace down.
    pub async fn put_workspace(&self, record: WorkspaceRecord) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO workspaces (id, name, created_at_ms) VALUES ($1, $2, $3)")
            .bind(record.id.as_str())
            .bind(&record.name)
            .bind(signed(record.created_at_ms)?)
            .execute(&self.writer)
            .await
            .doing("write a workspace")?;
        Ok(())
    }

    /// Every workspace, oldest first.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, StoreError> {
        let rows = sqlx::query("SELECT id, name, created_at_ms FROM workspaces ORDER BY created_at_ms, id")
            .fetch_all(&self.readers)
            .await
            .doing("list workspaces")?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let id = row.get::<&str, _>("id").parse().ok()?;
                Some(WorkspaceRecord { id, name: row.get("name"), created_at_ms: number(row, "created_at_ms") })
            })
            .collect())
    }

    /// Keep a person's token.
    pub async fn put_person_token(&self, token: PersonToken) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO person_tokens (hash, workspace, person, role, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token.hash.as_str())
        .bind(token.workspace.as_str())
        .bind(&token.person)
        .bind(token.role.as_str())
        .bind(signed(token.created_at_ms)?)
        .bind(token.expires_at_ms.map(signed).transpose()?)
        .execute(&self.writer)
        .await
        .doing("keep a person's token")?;
        Ok(())
    }

    /// Whose token this is, by its hash. The caller judges its end.
    pub async fn person_by_token(&self, hash: &Digest) -> Result<Option<PersonToken>, StoreError> {
        let row = sqlx::query(
            "SELECT hash, workspace, person, role, created_at_ms, expires_at_ms FROM person_tokens WHERE hash = $1",
        )
        .bind(hash.as_str())
        .fetch_optional(&self.readers)
        .await
        .doing("look up a person's token")?;
        Ok(row.as_ref().and_then(read_token))
    }
}
