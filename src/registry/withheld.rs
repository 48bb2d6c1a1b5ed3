//! What somebody else has revoked: credentials, apps and tokens that are refused whatever the registry says of them.
//!
//! ```toml
//! [[revoked]]
//! credential = "0000000000A1"     # or app = "billing", or token = "the jti of a token"
//! reason = "seen in a chat"
//! ```
//!
//! **Invariant:** it only refuses. What it does not name is as the registry says.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::{AppId, CredentialId};
use crate::registry::{Credential, Source};
use crate::toml_text::{Document, Problem, Value};

/// All that is withheld, and which file says what.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Withheld {
    files: BTreeMap<PathBuf, Arc<[Named]>>,
    all: HashSet<Named>,
}

/// What an entry names.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Named {
    /// All credentials of an app.
    App(AppId),
    /// A credential of any kind, with the tokens that were got by it.
    Credential(CredentialId),
    /// A token, by its `jti`, whoever has issued it.
    Token(Arc<str>),
}

impl Withheld {
    /// What the files say, understood one by one: of a file that is wrong, what it said `before` stays, for the others must
    /// not wait until it is mended.
    ///
    /// Beside it stands every problem of every file.
    #[must_use]
    pub fn read(sources: &[Source], before: &Self) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut files = BTreeMap::new();
        for source in sources {
            match parse(source) {
                Ok(said) => drop(files.insert(source.path.clone(), said.into())),
                Err(found) => {
                    problems.extend(found);
                    if let Some(said) = before.files.get(&source.path) {
                        files.insert(source.path.clone(), Arc::clone(said));
                    }
                }
            }
        }
        (Self::of(files), problems)
    }

    /// The same, with all that `before` had of files for which `stays` holds.
    #[must_use]
    pub fn keeping(self, before: &Self, stays: impl Fn(&PathBuf) -> bool) -> Self {
        let mut files = self.files;
        let kept = before.files.iter().filter(|(path, _)| stays(path));
        files.extend(kept.map(|(path, said)| (path.clone(), Arc::clone(said))));
        Self::of(files)
    }

    fn of(files: BTreeMap<PathBuf, Arc<[Named]>>) -> Self {
        let all = files.values().flat_map(|said| said.iter().cloned()).collect();
        Self { files, all }
    }

    /// How many different things are withheld.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether nothing is withheld.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether `credential` is withheld, or its app is.
    #[must_use]
    pub fn has(&self, credential: &Credential) -> bool {
        !self.is_empty()
            && (self.all.contains(&Named::Credential(credential.id.clone()))
                || self.all.contains(&Named::App(credential.app.id.clone())))
    }

    /// Whether the token with this `jti` is withheld.
    #[must_use]
    pub fn has_token(&self, id: &str) -> bool {
        !self.is_empty() && self.all.contains(&Named::Token(id.into()))
    }
}

fn parse(source: &Source) -> Result<Vec<Named>, Vec<Problem>> {
    let document = Document::parse(&source.path, &source.text)?;
    let mut root = document.root();
    let mut said = Vec::new();
    for mut entry in root.tables("revoked") {
        let named: Vec<Named> = [
            entry.optional("app", Value::parse).map(Named::App),
            entry.optional("credential", Value::parse).map(Named::Credential),
            entry.optional("token", jti).map(Named::Token),
        ]
        .into_iter()
        .flatten()
        .collect();
        // For whoever reads the file.
        let _reason = entry.optional("reason", Value::text);
        if named.len() != 1 {
            entry.problem("expected one of `app`, `credential` and `token`: what is revoked");
        }
        said.extend(named);
        entry.finish();
    }
    root.finish();
    match document.into_problems() {
        problems if problems.is_empty() => Ok(said),
        problems => Err(problems),
    }
}

fn jti(value: &Value<'_>) -> Option<Arc<str>> {
    let text = value.text()?;
    if text.is_empty() {
        value.problem("expected the `jti` of a token");
        return None;
    }
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    fn credential(id: &str) -> Named {
        Named::Credential(id.parse().unwrap())
    }

    #[test]
    fn each_file_is_understood_by_itself_and_a_bad_one_goes_on_saying_what_it_said() {
        let one = source("one.toml", "[[revoked]]\ncredential = 'a'\n");
        let two = source("two.toml", "[[revoked]]\napp = 'b'\nreason = 'gone'\n[[revoked]]\ntoken = 'j'\n");
        let (good, problems) = Withheld::read(&[one, two], &Withheld::default());
        assert_eq!((problems.len(), good.len()), (0, 3));

        let bad = source("one.toml", "[[revoked]]\ncredential = 'a'\ncredentail = 'c'\n");
        let more = source("three.toml", "[[revoked]]\ncredential = 'd'\n");
        let (next, problems) = Withheld::read(&[bad, more], &good);

        assert!(problems[0].to_string().starts_with("one.toml:3"), "{}", problems[0]);
        assert!(next.all.contains(&credential("a")) && next.all.contains(&credential("d")));
        assert!(!next.has_token("j") && good.has_token("j"), "a file that is gone says nothing");
        assert!(next.keeping(&good, |path| path.ends_with("two.toml")).has_token("j"));
    }

    #[test]
    fn an_entry_names_one_thing() {
        for text in [
            "[[revoked]]\nreason = 'x'\n",
            "[[revoked]]\napp = 'a'\ncredential = 'b'\n",
            "[[revoked]]\ntoken = ''\n",
            "[[revoked]]\ncredential = '../x'\n",
            "revoked = 1\n",
            "[[revokd]]\ncredential = 'a'\n",
        ] {
            let (withheld, problems) = Withheld::read(&[source("x.toml", text)], &Withheld::default());
            assert!(withheld.is_empty() && !problems.is_empty(), "{text}");
        }
    }
}
