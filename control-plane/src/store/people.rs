//! Workspaces, and people's bearer tokens as hashes.

use super::{Doing, Store, StoreError, id_of, number, signed};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use towline_protocol::ids::{Digest, TokenId, WorkspaceId};
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

/// What a token allows in its workspace. Each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See clusters, hosts and environments; their own usage and tokens.
    Viewer,
    /// Make and end their own clusters, admit clients.
    Member,
    /// Everything: other people's clusters, tokens, limits.
    Admin,
}

impl Role {
    /// The word in the API, in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Member, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// Whether a token still opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its time is over.
    Expired,
    /// It does.
    Live,
    /// Somebody took it back.
    Revoked,
}

/// A person's token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonToken {
    /// What it is called by; tells nothing about the secret.
    pub id: TokenId,
    /// SHA-256 of the token.
    pub hash: Digest,
    /// The workspace it opens.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub person: String,
    /// What it is for, in a person's words.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
    /// Its end, Unix milliseconds; none: until it is revoked.
    pub expires_at_ms: Option<u64>,
    /// When it was last used, Unix milliseconds, to the hour.
    pub last_used_at_ms: Option<u64>,
    /// When it was revoked, Unix milliseconds.
    pub revoked_at_ms: Option<u64>,
}

impl PersonToken {
    /// Whether it opens anything at this time.
    pub fn standing(&self, now_ms: u64) -> Standing {
        match (self.revoked_at_ms, self.expires_at_ms) {
            (Some(_), _) => Standing::Revoked,
            (None, Some(end)) if now_ms >= end => Standing::Expired,
            (None, _) => Standing::Live,
        }
    }
}

macro_rules! select_tokens {
    ($rest:literal) => {
        concat!(
            "SELECT id, hash, workspace, person, name, role, created_at_ms, expires_at_ms, last_used_at_ms, revoked_at_ms
             FROM person_tokens ",
            $rest
        )
    };
}

/// A token that can be read; one that cannot opens nothing.
fn read_token(row: &SqliteRow) -> Option<PersonToken> {
    let role = row.get::<&str, _>("role");
    // A role of a newer version may allow less than any of ours.
    let Some(role) = Role::parse(role) else {
        tracing::error!(
            component = "store",
            token_id = row.get::<&str, _>("id"),
            role,
            "a token has an unknown role; it is refused"
        );
        return None;
    };
    let time = |column: &str| row.get::<Option<i64>, _>(column).map(|value| u64::try_from(value).unwrap_or_default());
    Some(PersonToken {
        id: id_of("token", row, "id")?,
        hash: row.get::<&str, _>("hash").parse().ok()?,
        workspace: row.get::<&str, _>("workspace").parse().ok()?,
        person: row.get("person"),
        name: row.get("name"),
        role,
        created_at_ms: number(row, "created_at_ms"),
        expires_at_ms: time("expires_at_ms"),
        last_used_at_ms: time("last_used_at_ms"),
        revoked_at_ms: time("revoked_at_ms"),
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
            "INSERT INTO person_tokens (id, hash, workspace, person, name, role, created_at_ms, expires_at_ms,
                 last_used_at_ms, revoked_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(token.id.as_str())
        .bind(token.hash.as_str())
        .bind(token.workspace.as_str())
        .bind(&token.person)
        .bind(&token.name)
        .bind(token.role.as_str())
        .bind(signed(token.created_at_ms)?)
        .bind(token.expires_at_ms.map(signed).transpose()?)
        .bind(token.last_used_at_ms.map(signed).transpose()?)
        .bind(token.revoked_at_ms.map(signed).transpose()?)
        .execute(&self.writer)
        .await
        .doing("keep a person's token")?;
        Ok(())
    }

    /// Whose token this is, by its hash. The caller judges its standing.
    pub async fn person_by_token(&self, hash: &Digest) -> Result<Option<PersonToken>, StoreError> {
        let row = sqlx::query(select_tokens!("WHERE hash = $1"))
            .bind(hash.as_str())
            .fetch_optional(&self.readers)
            .await
            .doing("look up a person's token")?;
        Ok(row.as_ref().and_then(read_token))
    }

    /// Every token of a workspace, newest first. One that cannot be read is left out, and said so.
    pub async fn person_tokens(&self, workspace: &WorkspaceId) -> Result<Vec<PersonToken>, StoreError> {
        let mut connection = self.readers.acquire().await.doing("list tokens")?;
        tokens_of(&mut connection, workspace).await
    }

    /// Note a use of a token. Kept to the hour: a write for every request would serve nobody.
    pub async fn note_use(&self, token: &PersonToken, now_ms: u64) -> Result<(), StoreError> {
        let stale = |used: u64| now_ms.saturating_sub(used) >= USE_NOTED_EVERY_MS;
        if !token.last_used_at_ms.is_none_or(stale) {
            return Ok(());
        }
        sqlx::query("UPDATE person_tokens SET last_used_at_ms = $2 WHERE id = $1")
            .bind(token.id.as_str())
            .bind(signed(now_ms)?)
            .execute(&self.writer)
            .await
            .doing("note the use of a token")?;
        Ok(())
    }

    /// Forget tokens that have opened nothing since `before_ms`: revoked or expired by then. How many.
    pub async fn forget_dead_tokens(&self, before_ms: u64) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM person_tokens WHERE revoked_at_ms < $1 OR expires_at_ms < $1")
            .bind(signed(before_ms)?)
            .execute(&self.writer)
            .await
            .doing("forget dead tokens")?;
        Ok(done.rows_affected())
    }

    /// Revoke a token if `judge`, who is shown it and every token of its workspace, lets it happen. One transaction: of
    /// two at once the second is judged with the first one revoked. None: the workspace has no such token.
    pub async fn revoke_token<E>(
        &self,
        workspace: &WorkspaceId,
        id: &TokenId,
        now_ms: u64,
        judge: impl FnOnce(&PersonToken, &[PersonToken]) -> Result<(), E> + Send,
    ) -> Result<Result<Option<PersonToken>, E>, StoreError> {
        let mut transaction = self.writer.begin().await.doing("begin to revoke a token")?;
        let all = tokens_of(&mut transaction, workspace).await?;
        let Some(token) = all.iter().find(|token| token.id == *id) else { return Ok(Ok(None)) };
        if let Err(refused) = judge(token, &all) {
            return Ok(Err(refused));
        }
        // Revoking it again keeps the first time.
        let revoked_at_ms = token.revoked_at_ms.unwrap_or(now_ms);
        sqlx::query("UPDATE person_tokens SET revoked_at_ms = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(signed(revoked_at_ms)?)
            .execute(&mut *transaction)
            .await
            .doing("revoke a token")?;
        transaction.commit().await.doing("commit a revoked token")?;
        Ok(Ok(Some(PersonToken { revoked_at_ms: Some(revoked_at_ms), ..token.clone() })))
    }
}

/// A use is written down when the last one is this old.
const USE_NOTED_EVERY_MS: u64 = 3_600_000;

async fn tokens_of(connection: &mut SqliteConnection, workspace: &WorkspaceId) -> Result<Vec<PersonToken>, StoreError> {
    let rows = sqlx::query(select_tokens!("WHERE workspace = $1 ORDER BY created_at_ms DESC, id"))
        .bind(workspace.as_str())
        .fetch_all(connection)
        .await
        .doing("list tokens")?;
    Ok(rows.iter().filter_map(read_token).collect())
}
