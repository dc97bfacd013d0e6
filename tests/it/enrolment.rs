//! One token, one certificate.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use towline_protocol::enrolment::{Attestation, EnrolmentGrant};
use towline_protocol::user_data::UserData;
use towline_tests::World;
use towline_transport::enrol::{EnrolError, enrol};
use towline_transport::keys::KeyPair;

/// The user data of a host whose agent never enrols.
async fn unspent(world: &World) -> Result<UserData> {
    let begun = std::time::Instant::now();
    loop {
        for entry in fs::read_dir(world.data.join("hosts")).into_iter().flatten().flatten() {
            if let Ok(text) = fs::read(entry.path().join("user-data.json"))
                && let Ok(user_data) = serde_json::from_slice::<UserData>(&text)
                && user_data.token.is_some()
            {
                return Ok(user_data);
            }
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "no host directory appears: {}", world.server_log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const ASK: &str = r#"
import towline
if __name__ == "__main__":
    towline.Cluster(n_workers=0, name="unspent", progress=False)
"#;

async fn redeem(user_data: &UserData, key: &KeyPair) -> Result<EnrolmentGrant, EnrolError> {
    enrol(user_data, key, Attestation::Local, Duration::from_secs(30)).await
}

#[tokio::test]
async fn two_hundred_parallel_redemptions_give_one_certificate_and_the_same_key_gets_it_again() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let alarm = "a spent token was shown again with another key";
    let world = builder.waiting_agents().expect(&[alarm]).start().await?;
    let file = world.scratch("scripts")?.join("ask.py");
    fs::write(&file, ASK)?;
    let mut asking = world.python(&[&file.display().to_string()]);
    let _asking = asking.spawn()?;
    let user_data = unspent(&world).await?;

    let keys: Vec<KeyPair> = (0..200).map(|_| KeyPair::generate()).collect::<Result<_, _>>()?;
    let tries = futures_util::future::join_all(keys.iter().map(|key| redeem(&user_data, key))).await;
    let won: Vec<usize> = (0..200).filter(|index| tries[*index].is_ok()).collect();
    ensure!(
        won.len() == 1,
        "{} certificates for one token; the answers: {:?}",
        won.len(),
        tries.iter().map(|answer| format!("{answer:.0?}")).collect::<BTreeSet<_>>()
    );
    let chains: BTreeSet<&str> = tries.iter().flatten().map(|grant| grant.certificate_chain.as_str()).collect();
    ensure!(chains.len() == 1);

    let again = redeem(&user_data, &keys[won[0]]).await.context("the same key again")?;
    ensure!(chains.contains(again.certificate_chain.as_str()), "the same key must get the same certificate");
    let stranger = KeyPair::generate()?;
    ensure!(redeem(&user_data, &stranger).await.is_err(), "another key after the token was spent");
    ensure!(world.server_log().contains(alarm), "another key for a spent token raises an alarm");
    Ok(())
}

#[tokio::test]
async fn a_token_for_another_host_or_none_at_all_is_refused() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.waiting_agents().start().await?;
    let file = world.scratch("scripts")?.join("ask.py");
    fs::write(&file, ASK)?;
    let mut asking = world.python(&[&file.display().to_string()]);
    let _asking = asking.spawn()?;
    let user_data = unspent(&world).await?;
    let key = KeyPair::generate()?;

    let other_host = UserData { host: towline_protocol::ids::HostId::from_random([3; 10]), ..user_data.clone() };
    ensure!(redeem(&other_host, &key).await.is_err(), "a token of another host");
    let guessed = UserData { token: Some("0".repeat(64)), ..user_data.clone() };
    ensure!(redeem(&guessed, &key).await.is_err(), "a guessed token");
    redeem(&user_data, &key).await.context("the right token still works after wrong tries")?;
    Ok(())
}
