//! One-time enrolment tokens: kept as hashes, each spent for exactly one key.

use super::{Doing, Store, StoreError, number, signed};
use sqlx::Row as _;
use towline_protocol::ids::{Digest, HostId, Spki};
use towline_protocol::time::UnixSeconds;

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// SHA-256 of the token.
    pub hash: Digest,
    /// The one host it was made for.
    pub host: HostId,
    /// After this it can no longer be spent.
    pub expires_at: UnixSeconds,
}

/// What became of a redemption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// Spent before, for the same key: a reply was lost, answer as before.
    Again,
    /// Not spent in time.
    Expired,
    /// Spent now, for this key.
    First,
    /// Spent before, for another key: an alarm.
    OtherKey,
    /// No such token for this host.
    Unknown,
}

impl Store {
    /// Keep a new token.
    pub async fn put_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO enrolment_tokens (hash, host, expires_at_ms) VALUES ($1, $2, $3)")
            .bind(token.hash.as_str())
            .bind(token.host.as_str())
            .bind(signed(token.expires_at.0.saturating_mul(1000))?)
            .execute(&self.writer)
            .await
            .doing("keep an enrolment token")?;
        Ok(())
    }

    /// Spend a token for a key. Of any number of parallel calls with different keys exactly one gets
    /// [`Redemption::First`]: the update's own condition decides.
    pub async fn redeem_token(
        &self,
        hash: &Digest,
        host: &HostId,
        key: &Spki,
        now: UnixSeconds,
    ) -> Result<Redemption, StoreError> {
        let now_ms = signed(now.0.saturating_mul(1000))?;
        let spent = sqlx::query(
            "UPDATE enrolment_tokens SET spki = $3
             WHERE hash = $1 AND host = $2 AND spki IS NULL AND expires_at_ms >= $4",
        )
        .bind(hash.as_str())
        .bind(host.as_str())
        .bind(key.as_str())
        .bind(now_ms)
        .execute(&self.writer)
        .await
        .doing("spend an enrolment token")?;
        if spent.rows_affected() == 1 {
            return Ok(Redemption::First);
        }
        let row = sqlx::query("SELECT spki FROM enrolment_tokens WHERE hash = $1 AND host = $2")
            .bind(hash.as_str())
            .bind(host.as_str())
            .fetch_optional(&self.readers)
            .await
            .doing("read an enrolment token")?;
        Ok(match row.map(|row| row.get::<Option<String>, _>("spki")) {
            None => Redemption::Unknown,
            Some(None) => Redemption::Expired,
            // A lost reply may be asked for again after the token's end: the key is the proof.
            Some(Some(spki)) if spki == key.as_str() => Redemption::Again,
            Some(Some(_)) => Redemption::OtherKey,
        })
    }

    /// Until when a host's newest token may be spent; none when it never had one.
    pub async fn token_expiry(&self, host: &HostId) -> Result<Option<UnixSeconds>, StoreError> {
        let row = sqlx::query(
            "SELECT expires_at_ms FROM enrolment_tokens WHERE host = $1 ORDER BY expires_at_ms DESC LIMIT 1",
        )
        .bind(host.as_str())
        .fetch_optional(&self.readers)
        .await
        .doing("read a token's end")?;
        Ok(row.map(|row| UnixSeconds(number(&row, "expires_at_ms") / 1000)))
    }
}
