//! `postern token`: the keys that sign tokens, and tokens to be taken back.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use super::args::{Format, RevokeTokenArgs, TokenVerb};
use super::locate;
use super::moment::moment;
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::{SecretText, WithdrawOrder};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::secret::Secret;

pub(super) async fn run(config: &Path, verb: TokenVerb) -> anyhow::Result<Verdict> {
    match verb {
        TokenVerb::Keys(format) => keys(config, format).await?,
        TokenVerb::KillKey { key } => {
            locate::client(config)?.kill_token_key(&key).await?;
            output::print(&format!(
                "{key} is killed: no token by it is taken any more, and another key signs.\n"
            ))?;
        }
        TokenVerb::Revoke(args) => {
            let withdrawn = locate::client(config)?.withdraw_tokens(&order(args)?).await?;
            output::print(&format!("{}\n", withdrawn.what))?;
        }
    }
    Ok(Verdict::Yes)
}

async fn keys(config: &Path, format: Format) -> anyhow::Result<()> {
    let keys = locate::client(config)?.token_keys().await?;
    if format.json {
        return output::print_json(&keys);
    }
    let now = SystemClock.now();
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| moment(at, now));
    let mut table = Table::new(["KEY", "ALGORITHM", "SLOT", "MADE", "UNTIL"]);
    for key in keys {
        table.row([key.id, key.algorithm, key.slot, time(key.created), time(key.until)]);
    }
    Ok(output::print(&table.to_string())?)
}

fn order(args: RevokeTokenArgs) -> anyhow::Result<WithdrawOrder> {
    Ok(match args {
        RevokeTokenArgs { file: Some(file), .. } => WithdrawOrder::Token(token(&file)?),
        RevokeTokenArgs { jti: Some(jti), .. } => WithdrawOrder::Jti(jti),
        RevokeTokenArgs { credential: Some(credential), .. } => WithdrawOrder::Credential(credential),
        RevokeTokenArgs { app: Some(app), .. } => WithdrawOrder::App(app),
        RevokeTokenArgs { file: None, jti: None, credential: None, app: None } => {
            bail!("which? give --file, --jti, --credential or --app")
        }
    })
}

/// The token in a file, or in what comes by standard input.
fn token(file: &Path) -> anyhow::Result<SecretText> {
    let mut text = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        io::stdin().lock().take(LONGEST).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(SecretText::new(Secret::new(text.trim().as_bytes().to_vec())))
}

/// Bytes that are read of a file; no token is longer.
const LONGEST: u64 = 16 * 1024;
