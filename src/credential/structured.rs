//! Reading structured fields (RFC 9651) more strictly than they must be: nothing may stand twice.

use std::convert::Infallible;

use sfv::visitor::{DictionaryVisitor, EntryVisitor};
use sfv::{Dictionary, KeyRef, Parser};

/// A dictionary in which no key stands twice; `None` for everything else.
///
/// > When duplicate Dictionary keys are encountered, all but the last instance are ignored. — RFC 9651 §4.2.2
///
/// Two values for one key are an attempt to have two readers see two things, so neither is taken here.
pub(super) fn dictionary(text: &[u8]) -> Option<Dictionary> {
    let visitor = Unique { members: Dictionary::new(), repeated: false };
    Parser::new(text).parse_dictionary_with_visitor(visitor).ok().flatten()
}

struct Unique {
    members: Dictionary,
    repeated: bool,
}

impl<'de> DictionaryVisitor<'de> for Unique {
    type Out = Option<Dictionary>;
    type Error = Infallible;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Infallible> {
        self.repeated |= self.members.contains_key(key);
        DictionaryVisitor::entry(&mut self.members, key)
    }

    fn finish(self) -> Result<Self::Out, Infallible> {
        Ok((!self.repeated).then_some(self.members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_stand_twice() {
        assert_eq!(dictionary(b"a=1, b=2").map(|members| members.len()), Some(2));
        assert!(dictionary(b"a=1, b=2, a=1").is_none());
        assert!(dictionary(b"a=1;").is_none());
    }
}
