//! `postern explain`: how the running agent would decide, step by step.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use super::args::{ExplainArgs, FieldLine};
use super::locate;
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::{
    Explanation, Operation, Origin, Presented, Question, SecretText, SeenRequest, StepOutcome,
};
use crate::secret::Secret;

pub(super) async fn run(config: &Path, args: ExplainArgs) -> anyhow::Result<Verdict> {
    let format = args.format;
    let client = locate::client(config)?;
    let explanation = match &args.request_id {
        Some(id) => client.recall(id).await?,
        None => client.explain(&question(args)?).await?,
    };
    if format.json {
        output::print_json(&explanation)?;
    } else {
        output::print(&page(&explanation)?)?;
    }
    Ok(Verdict::of(explanation.allowed))
}

/// What was asked.
fn seen(page: &mut String, request: &SeenRequest) -> std::fmt::Result {
    let asked = match (&*request.method, &*request.path) {
        ("", "") => "a raw connection".to_owned(),
        (method, path) => format!("{method} {path}"),
    };
    let from = request.peer.as_ref().map(|peer| format!(" from {peer}")).unwrap_or_default();
    let way = if request.direction == "in" { "by the listener" } else { "to the remote" };
    writeln!(page, "{}  {asked}{from}, {way} {}, {}", request.at, request.door, request.protocol)?;
    let presented = match request.presented.as_slice() {
        [] => "nothing".to_owned(),
        kinds => kinds.join(", "),
    };
    let of = request.spiffe_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    let status =
        if request.status == 0 { "no status".to_owned() } else { format!("status {}", request.status) };
    writeln!(page, "presented {presented}{of}; {status} after {} µs\n", request.duration_us)
}

fn question(args: ExplainArgs) -> anyhow::Result<Question> {
    let operation = match args.tcp_service {
        Some(service) => Operation::Tcp { service: Some(service) },
        None => Operation::Http { method: args.method, host: args.host, path: args.path },
    };
    let certificate = match (args.certificate, args.spiffe_id) {
        (Some(file), _) => Some(Presented::ChainPem(chain(&file)?)),
        (None, Some(id)) => Some(Presented::SpiffeId(id.to_string())),
        (None, None) => None,
    };
    let api_key = args.api_key_file.map(|file| secret_text(&file, LONGEST_KEY)).transpose()?;
    let mut fields: Vec<_> = args.header.into_iter().map(|FieldLine { name, value }| (name, value)).collect();
    if let Some(file) = args.token_file {
        let token = secret_text(&file, LONGEST_TOKEN)?;
        let text = std::str::from_utf8(token.secret().expose_secret()).unwrap_or_default();
        fields.push(("authorization".to_owned(), format!("Bearer {text}")));
    }
    let origin = Origin { address: args.from, sni: args.sni };
    Ok(Question { listener: args.listener, operation, certificate, origin, api_key, fields })
}

/// The certificates of a file. A file that holds the key as well is welcome, but the key stays here.
fn chain(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let mut chain = String::new();
    let mut inside = false;
    for line in text.lines() {
        inside |= line.starts_with("-----BEGIN CERTIFICATE-----");
        if inside {
            chain.push_str(line);
            chain.push('\n');
        }
        inside &= !line.starts_with("-----END");
    }
    if chain.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(chain)
}

fn secret_text(file: &Path, longest: u64) -> anyhow::Result<SecretText> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = if file == Path::new("-") {
        io::stdin().lock().take(longest).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(longest).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} holds no text", file.display()))?;
    Ok(SecretText::new(Secret::new(text.trim().as_bytes().to_vec())))
}

/// More than any key, and not so much that a wrong file hurts.
const LONGEST_KEY: u64 = 4096;

/// More than any token that is read.
const LONGEST_TOKEN: u64 = 16 * 1024;

fn page(explanation: &Explanation) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    let verdict = if explanation.allowed { "ALLOWED" } else { "REFUSED" };
    let status = explanation.status.filter(|_| !explanation.allowed);
    let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
    writeln!(page, "{verdict}: {}{status}\n{}\n", explanation.code, explanation.sentence)?;
    if let Some(request) = &explanation.request {
        seen(&mut page, request)?;
    }
    let mut steps = Table::new(["STEP", "OUTCOME", "DETAIL"]);
    for step in &explanation.steps {
        let outcome = match step.outcome {
            StepOutcome::Failed => "FAILED",
            StepOutcome::NotReached => "-",
            StepOutcome::Passed => "passed",
        };
        steps.row([step.name.clone(), outcome.into(), step.detail.clone()]);
    }
    write!(page, "{steps}")?;
    if let Some(now) = &explanation.registry_now {
        writeln!(
            page,
            "\nThe registry has changed since: it was {}, and is {now}, by which grants and limits are told.",
            explanation.registry
        )?;
    }
    if !explanation.grants.is_empty() {
        let mut grants = Table::new(["GRANT", "OUTCOME", "DETAIL"]);
        for grant in &explanation.grants {
            grants.row([grant.product.to_string(), grant.code.clone(), grant.detail.clone()]);
        }
        write!(page, "\n{grants}")?;
    }
    let names = [
        ("app", explanation.app.as_ref().map(ToString::to_string)),
        ("developer", explanation.developer.as_ref().map(ToString::to_string)),
        ("credential", explanation.credential.as_ref().map(ToString::to_string)),
        ("product", explanation.product.as_ref().map(ToString::to_string)),
        ("service", explanation.service.as_ref().map(ToString::to_string)),
        ("registry", Some(explanation.registry.clone())),
    ];
    page.push('\n');
    for (name, value) in names {
        if let Some(value) = value {
            writeln!(page, "{name:10}  {value}")?;
        }
    }
    Ok(page)
}
