//! From the command line to an exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use super::args::{CommandLine, ImportVerb, RunArgs, Verb};
use super::output::{self, Verdict};
use super::{
    apply, audit, ca, cert, check, clerk, explain, import, key, registry, run, schema, sign, status, token,
    usage, who_can,
};

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    match obey(CommandLine::parse()) {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(3),
        Err(error) => {
            output::tell(&format!("postern: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn obey(line: CommandLine) -> anyhow::Result<Verdict> {
    let config = &line.config;
    match line.verb.unwrap_or_else(|| Verb::Run(RunArgs::default())) {
        Verb::Run(args) => run::run(config, args).map(|()| Verdict::Yes),
        Verb::Check(args) => check::run(config, args).map(|()| Verdict::Yes),
        Verb::Status(format) => block_on(status::run(config, format)),
        Verb::Explain(args) => block_on(explain::run(config, *args)),
        Verb::WhoCan(args) => block_on(who_can::run(config, args)),
        Verb::Usage(args) => block_on(usage::run(config, args)),
        Verb::Ca { verb } => match verb.audited() {
            Some(told) => block_on(clerk::witnessed(config, told, ca::run(config, verb))),
            None => block_on(ca::run(config, verb)),
        },
        Verb::Cert { verb } => match verb.audited() {
            Some(told) => block_on(clerk::witnessed(config, told, cert::run(config, verb))),
            None => block_on(cert::run(config, verb)),
        },
        Verb::Developer { verb } => registry::developer(config, verb).map(|()| Verdict::Yes),
        Verb::App { verb } => registry::app(config, verb).map(|()| Verdict::Yes),
        Verb::Product { verb } => registry::product(config, verb).map(|()| Verdict::Yes),
        Verb::Grant { verb } => registry::grant(config, verb).map(|()| Verdict::Yes),
        Verb::Apply(args) => apply::run(config, args),
        Verb::Import { verb: ImportVerb::Apigee(args) } => import::apigee(config, args),
        Verb::Audit { verb } => audit::run(config, verb),
        Verb::Key { verb } => key::run(config, verb),
        Verb::Token { verb } => block_on(token::run(config, verb)),
        Verb::Sign(args) => sign::run(*args),
        Verb::Schema { which } => schema::run(which).map(|()| Verdict::Yes),
        Verb::Completions { shell } => completions(shell),
    }
}

/// A command asks one thing and waits, so one thread is enough.
pub(super) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Verdict> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "postern", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(Verdict::Yes)
}
