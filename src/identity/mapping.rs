//! From a verified subject to what is on file for it: the narrowest rule wins, and a tie is refused, not resolved.

use std::sync::Arc;

use crate::identity::name::COMMON_NAME;
use crate::identity::{CertificateRule, RelativeName, SpiffeId, Subject, TrustDomain};
use crate::shard_map::ShardMap;

/// Certificate rules, each with what it stands for, indexed so that finding one does not get slower with their number.
/// Copies share what they have in common.
#[derive(Clone, Debug)]
pub struct Mapping<T> {
    dns: ShardMap<String, T>,
    sha256: ShardMap<[u8; 32], T>,
    spki: ShardMap<[u8; 32], T>,
    uri: ShardMap<SpiffeId, T>,
    /// By the text of a SPIFFE ID cut off before a slash: `spiffe://td/ns` for the rule `spiffe://td/ns/**`.
    uri_prefix: ShardMap<String, T>,
    /// By one of the rule's relative names, so that only rules with that one are looked at.
    subject: ShardMap<RelativeName, Arc<Vec<CertificateRule>>>,
    /// By the whole rule.
    by_subject: ShardMap<CertificateRule, T>,
}

/// What the rules say of a subject.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Match<'a, T> {
    /// Equally narrow rules for different things match.
    Ambiguous,
    /// The one thing that the narrowest matching rules stand for.
    Found(&'a T),
    /// No rule matches.
    NotFound,
}

impl<T: Clone + Eq> Mapping<T> {
    /// Adds a rule and what it stands for. The same rule may be given twice for the same thing.
    ///
    /// # Errors
    /// The other thing that this very rule stands for.
    pub fn insert(&mut self, rule: CertificateRule, value: T) -> Result<(), T> {
        let given = value.clone();
        let inserted = match canonical(rule) {
            CertificateRule::Dns(name) => self.dns.insert(name, value),
            CertificateRule::Sha256(digest) => self.sha256.insert(digest, value),
            CertificateRule::Spki(digest) => self.spki.insert(digest, value),
            CertificateRule::Subject(names) => self.insert_by_subject(names, value),
            CertificateRule::Uri(id) => self.uri.insert(id, value),
            CertificateRule::UriPrefix { domain, segments } => {
                self.uri_prefix.insert(prefix(&domain, &segments), value)
            }
        };
        inserted.or_else(|taken| if taken == given { Ok(()) } else { Err(taken) })
    }

    /// Takes a rule out.
    pub fn remove(&mut self, rule: &CertificateRule) {
        match canonical(rule.clone()) {
            CertificateRule::Dns(name) => drop(self.dns.remove(&name)),
            CertificateRule::Sha256(digest) => drop(self.sha256.remove(&digest)),
            CertificateRule::Spki(digest) => drop(self.spki.remove(&digest)),
            CertificateRule::Subject(names) => self.remove_by_subject(names),
            CertificateRule::Uri(id) => drop(self.uri.remove(&id)),
            CertificateRule::UriPrefix { domain, segments } => {
                drop(self.uri_prefix.remove(&prefix(&domain, &segments)));
            }
        }
    }

    fn insert_by_subject(&mut self, names: Vec<RelativeName>, value: T) -> Result<(), T> {
        // A rule without names matches nobody.
        let Some(index) = key_name(&names).cloned() else { return Ok(()) };
        let rule = CertificateRule::Subject(names);
        self.by_subject.insert(rule.clone(), value)?;
        let mut rules = self.subject.remove(&index).unwrap_or_default();
        Arc::make_mut(&mut rules).push(rule);
        // It has just been taken out.
        drop(self.subject.insert(index, rules));
        Ok(())
    }

    fn remove_by_subject(&mut self, names: Vec<RelativeName>) {
        let Some(index) = key_name(&names).cloned() else { return };
        let rule = CertificateRule::Subject(names);
        drop(self.by_subject.remove(&rule));
        let Some(mut rules) = self.subject.remove(&index) else { return };
        Arc::make_mut(&mut rules).retain(|other| *other != rule);
        if !rules.is_empty() {
            drop(self.subject.insert(index, rules));
        }
    }

    /// What the narrowest rules that `subject` meets stand for: certificate, then public key, then SPIFFE ID, then
    /// its longest prefix, then DNS name, then the most attributes of the distinguished name.
    pub fn find(&self, subject: &Subject) -> Match<'_, T> {
        let exact = self
            .sha256
            .get(&subject.sha256)
            .or_else(|| self.spki.get(&subject.spki_sha256))
            .or_else(|| self.uri.get(&subject.spiffe_id))
            .or_else(|| self.longest_prefix(subject.spiffe_id.as_str()));
        if let Some(value) = exact {
            return Match::Found(value);
        }
        match unanimous(subject.dns.iter().filter_map(|name| self.dns.get(name))) {
            Match::NotFound => self.most_attributes(subject),
            found @ (Match::Ambiguous | Match::Found(_)) => found,
        }
    }

    fn longest_prefix(&self, id: &str) -> Option<&T> {
        if self.uri_prefix.is_empty() {
            return None;
        }
        // The two slashes of the scheme are cut at last, where no rule can be.
        id.rmatch_indices('/').find_map(|(end, _)| self.uri_prefix.get(id.get(..end)?))
    }

    fn most_attributes(&self, subject: &Subject) -> Match<'_, T> {
        let matching = || {
            let names = subject.attributes.iter();
            let candidates = names.filter_map(|one| self.subject.get(one)).flat_map(|rules| rules.iter());
            candidates.filter(|rule| rule.matches(subject))
        };
        let narrowest = matching().map(CertificateRule::specificity).max();
        let matching = matching().filter(|rule| Some(rule.specificity()) == narrowest);
        unanimous(matching.filter_map(|rule| self.by_subject.get(rule)))
    }
}

/// The text of the SPIFFE IDs that a prefix stands for, cut off before a slash.
fn prefix(domain: &TrustDomain, segments: &[String]) -> String {
    segments.iter().fold(domain.id_text(), |text, segment| text + "/" + segment)
}

/// The relative name by which a rule is looked for.
fn key_name(names: &[RelativeName]) -> Option<&RelativeName> {
    names.iter().find(|name| name.has(COMMON_NAME)).or_else(|| names.first())
}

/// The order of relative names means nothing between those that share no type, so one rule has one spelling: the least of
/// those that come behind nothing that they share a type with, again and again.
fn canonical(rule: CertificateRule) -> CertificateRule {
    match rule {
        CertificateRule::Subject(mut names) => {
            let mut ordered = Vec::with_capacity(names.len());
            while let Some(next) = least_of_the_free(&names) {
                ordered.push(names.remove(next));
            }
            CertificateRule::Subject(ordered)
        }
        CertificateRule::Dns(_)
        | CertificateRule::Sha256(_)
        | CertificateRule::Spki(_)
        | CertificateRule::Uri(_)
        | CertificateRule::UriPrefix { .. } => rule,
    }
}

fn least_of_the_free(names: &[RelativeName]) -> Option<usize> {
    let share_a_type =
        |one: &RelativeName, other: &RelativeName| one.attributes().iter().any(|part| other.has(&part.oid));
    let is_free = |(position, name): &(usize, &RelativeName)| {
        !names.iter().take(*position).any(|earlier| share_a_type(earlier, name))
    };
    let free = names.iter().enumerate().filter(is_free);
    free.min_by_key(|(_, name)| *name).map(|(position, _)| position)
}

fn unanimous<'a, T: Eq>(mut values: impl Iterator<Item = &'a T>) -> Match<'a, T> {
    match values.next() {
        None => Match::NotFound,
        Some(first) if values.all(|other| other == first) => Match::Found(first),
        Some(_) => Match::Ambiguous,
    }
}

impl<T> Default for Mapping<T> {
    /// No rules: nothing is found.
    fn default() -> Self {
        Self {
            dns: ShardMap::default(),
            sha256: ShardMap::default(),
            spki: ShardMap::default(),
            uri: ShardMap::default(),
            uri_prefix: ShardMap::default(),
            subject: ShardMap::default(),
            by_subject: ShardMap::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::clock::Timestamp;
    use crate::identity::Attribute;

    use super::*;

    fn subject(id: &str) -> Subject {
        Subject {
            spiffe_id: id.parse().unwrap(),
            dns: vec!["a.test".to_owned(), "b.test".to_owned()],
            attributes: vec![alone("O", "Acme"), alone("CN", "orders")],
            distinguished_name: "CN=orders,O=Acme".to_owned(),
            serial: "01".to_owned(),
            issuer: String::new(),
            not_before: Timestamp::FLOOR,
            not_after: Timestamp::FLOOR,
            sha256: [1; 32],
            spki_sha256: [2; 32],
        }
    }

    fn attribute(short: &str, value: &str) -> Attribute {
        Attribute { oid: Attribute::oid_of(short).unwrap().to_owned(), value: value.to_owned() }
    }

    fn alone(short: &str, value: &str) -> RelativeName {
        attribute(short, value).into()
    }

    fn together(parts: &[(&str, &str)]) -> RelativeName {
        RelativeName::new(parts.iter().map(|(short, value)| attribute(short, value)).collect()).unwrap()
    }

    fn by_subject(attributes: &[(&str, &str)]) -> CertificateRule {
        CertificateRule::Subject(attributes.iter().map(|(short, value)| alone(short, value)).collect())
    }

    fn named(names: &[RelativeName]) -> Subject {
        Subject { attributes: names.to_vec(), ..subject("spiffe://td/a") }
    }

    fn uri(text: &str) -> CertificateRule {
        CertificateRule::uri(text).unwrap()
    }

    fn dns(text: &str) -> CertificateRule {
        CertificateRule::dns(text).unwrap()
    }

    fn build<T: Clone + Eq>(rules: impl IntoIterator<Item = (CertificateRule, T)>) -> Result<Mapping<T>, T> {
        let mut mapping = Mapping::default();
        rules.into_iter().try_for_each(|(rule, value)| mapping.insert(rule, value))?;
        Ok(mapping)
    }

    /// From the narrowest to the widest; all match [`subject`] of `spiffe://td/ns/prod/orders`.
    fn ladder() -> Vec<CertificateRule> {
        vec![
            CertificateRule::Sha256([1; 32]),
            CertificateRule::Spki([2; 32]),
            uri("spiffe://td/ns/prod/orders"),
            uri("spiffe://td/ns/prod/**"),
            uri("spiffe://td/ns/**"),
            uri("spiffe://td/**"),
            dns("a.test"),
            by_subject(&[("CN", "orders"), ("O", "Acme")]),
            by_subject(&[("CN", "orders")]),
        ]
    }

    #[test]
    fn the_narrowest_rule_wins_at_every_step_of_the_ladder() {
        let subject = subject("spiffe://td/ns/prod/orders");

        for first in 0..ladder().len() {
            let rules = ladder().into_iter().enumerate().skip(first).rev().map(|(step, rule)| (rule, step));
            let mapping = build(rules).unwrap();

            assert_eq!(mapping.find(&subject), Match::Found(&first));
        }
    }

    #[test]
    fn specificity_falls_along_the_ladder() {
        let ranks: Vec<_> = ladder().iter().map(CertificateRule::specificity).collect();

        assert!(ranks.windows(2).all(|pair| pair[0] > pair[1]), "{ranks:?}");
    }

    #[test]
    fn a_prefix_ends_at_a_segment_and_leaves_one_over() {
        let mapping = build([(uri("spiffe://td/ns/prod/**"), "prod")]).unwrap();

        assert_eq!(mapping.find(&subject("spiffe://td/ns/prod/x")), Match::Found(&"prod"));
        for id in [
            "spiffe://td/ns/prod",
            "spiffe://td/ns/production/x",
            "spiffe://tda/ns/prod/x",
            "spiffe://td/NS/prod/x",
        ] {
            assert_eq!(mapping.find(&subject(id)), Match::NotFound, "{id}");
        }
    }

    #[test]
    fn the_same_rule_for_two_things_is_refused_and_changes_nothing() {
        let spellings = [
            [uri("spiffe://td/a"), uri("spiffe://td/a")],
            [by_subject(&[("CN", "orders"), ("O", "Acme")]), by_subject(&[("O", "Acme"), ("CN", "orders")])],
        ];
        for [first, second] in spellings {
            let mut mapping = build([(first, "one")]).unwrap();

            assert_eq!(mapping.insert(second, "two"), Err("one"));
            assert_eq!(mapping.find(&subject("spiffe://td/a")), Match::Found(&"one"));
        }
    }

    #[test]
    fn a_rule_that_was_taken_out_matches_nobody() {
        let subject = subject("spiffe://td/ns/prod/orders");
        for taken in 0..ladder().len() {
            let mut mapping = build(ladder().into_iter().map(|rule| (rule.clone(), rule))).unwrap();
            for rule in ladder().into_iter().take(taken) {
                mapping.remove(&rule);
            }

            assert_eq!(mapping.find(&subject), Match::Found(&ladder()[taken]));
            ladder().iter().for_each(|rule| mapping.remove(rule));
            assert_eq!(mapping.find(&subject), Match::NotFound);
        }
    }

    #[test]
    fn the_same_rule_twice_for_one_thing_is_harmless() {
        let mapping = build([(dns("a.test"), "one"), (dns("A.TEST"), "one")]).unwrap();

        assert_eq!(mapping.find(&subject("spiffe://td/a")), Match::Found(&"one"));
    }

    #[test]
    fn equally_narrow_rules_for_two_things_are_ambiguous() {
        let by_name = build([(dns("a.test"), "one"), (dns("b.test"), "two")]).unwrap();
        let by_attribute =
            build([(by_subject(&[("CN", "orders")]), "one"), (by_subject(&[("O", "Acme")]), "two")]).unwrap();

        assert_eq!(by_name.find(&subject("spiffe://td/a")), Match::Ambiguous);
        assert_eq!(by_attribute.find(&subject("spiffe://td/a")), Match::Ambiguous);
    }

    #[test]
    fn a_narrower_rule_ends_the_doubt() {
        let mapping =
            build([(dns("a.test"), "one"), (dns("b.test"), "two"), (uri("spiffe://td/**"), "three")])
                .unwrap();

        assert_eq!(mapping.find(&subject("spiffe://td/a")), Match::Found(&"three"));
    }

    #[test]
    fn a_second_common_name_is_no_match_for_a_rule_that_names_one() {
        let mapping = build([
            (by_subject(&[("CN", "orders")]), "one"),
            (by_subject(&[("CN", "admin"), ("CN", "orders")]), "both"),
        ])
        .unwrap();
        let both = named(&[alone("CN", "admin"), alone("CN", "orders")]);
        let reversed = named(&[alone("CN", "orders"), alone("CN", "admin")]);

        assert_eq!(mapping.find(&both), Match::Found(&"both"));
        assert_eq!(mapping.find(&reversed), Match::NotFound);
    }

    #[test]
    fn attributes_that_share_a_relative_name_match_all_together_or_not_at_all() {
        let rule = CertificateRule::Subject(vec![together(&[("O", "a"), ("O", "b")])]);
        let meets = |names: &[RelativeName]| rule.matches(&named(names));

        assert!(meets(&[together(&[("O", "a"), ("O", "b")])]));
        assert!(meets(&[together(&[("O", "b"), ("O", "a")])]), "it is a set");
        assert!(meets(&[together(&[("O", "a"), ("O", "b")]), alone("CN", "jane")]), "no other type is named");
        assert!(meets(&[alone("CN", "jane"), together(&[("O", "a"), ("O", "b")])]));
        assert!(meets(&[together(&[("O", "a"), ("O", "b")]), together(&[("CN", "x"), ("UID", "y")])]));
        for names in [
            vec![alone("O", "a"), alone("O", "b")],
            vec![alone("O", "a")],
            vec![alone("O", "a+O=b")],
            vec![together(&[("O", "a"), ("OU", "b")])],
            vec![together(&[("O", "a"), ("O", "b"), ("O", "c")])],
            vec![together(&[("O", "a"), ("O", "b"), ("O", "b")])],
            vec![together(&[("O", "a"), ("O", "b"), ("CN", "x")])],
            vec![together(&[("O", "a"), ("O", "b")]), alone("O", "c")],
            vec![together(&[("O", "a"), ("O", "b")]), together(&[("O", "a"), ("O", "b")])],
        ] {
            assert!(!meets(&names), "{names:?}");
        }
    }

    #[test]
    fn a_rule_for_one_attribute_never_matches_inside_a_relative_name_of_several() {
        let mapping = build([(by_subject(&[("CN", "orders")]), "one")]).unwrap();

        assert_eq!(mapping.find(&named(&[alone("CN", "orders")])), Match::Found(&"one"));
        for names in [
            vec![together(&[("CN", "orders"), ("O", "Acme")])],
            vec![together(&[("CN", "orders"), ("CN", "admin")])],
            vec![alone("CN", "orders"), together(&[("CN", "admin"), ("O", "Acme")])],
        ] {
            assert_eq!(mapping.find(&named(&names)), Match::NotFound, "{names:?}");
        }
    }

    #[test]
    fn a_rule_of_relative_names_is_found_wherever_they_stand_and_its_attributes_all_count() {
        let several =
            CertificateRule::Subject(vec![together(&[("O", "a"), ("O", "b")]), alone("CN", "jane")]);
        let mapping =
            build([(several, "several"), (by_subject(&[("CN", "jane"), ("C", "CH")]), "two")]).unwrap();

        let jane = named(&[alone("C", "CH"), together(&[("O", "b"), ("O", "a")]), alone("CN", "jane")]);

        assert_eq!(mapping.find(&jane), Match::Found(&"several"));
    }

    #[test]
    fn a_rule_of_relative_names_has_one_spelling() {
        let (both, unit) = (together(&[("O", "a"), ("OU", "x")]), alone("OU", "y"));
        let (name, country) = (alone("CN", "jane"), alone("C", "CH"));
        let spell = |names: &[&RelativeName]| {
            canonical(CertificateRule::Subject(names.iter().map(|&name| name.clone()).collect()))
        };

        let one = spell(&[&both, &unit, &name, &country]);

        assert_eq!(spell(&[&name, &country, &both, &unit]), one);
        assert_eq!(spell(&[&both, &name, &unit, &country]), one);
        assert_ne!(spell(&[&unit, &both, &name, &country]), one, "the order within a type means something");
    }

    #[test]
    fn a_rule_without_attributes_matches_nobody() {
        let mapping = build([(by_subject(&[]), "all")]).unwrap();

        assert_eq!(mapping.find(&subject("spiffe://td/a")), Match::NotFound);
        assert!(!by_subject(&[]).matches(&subject("spiffe://td/a")));
    }

    #[test]
    fn an_empty_mapping_finds_nobody() {
        assert_eq!(Mapping::<u8>::default().find(&subject("spiffe://td/a")), Match::NotFound);
    }

    proptest! {
        /// The index answers as looking at every rule would.
        #[test]
        fn the_index_agrees_with_the_rules(
            chosen in proptest::collection::vec((0..13_usize, 0..3_u8), 0..8),
            path in proptest::collection::vec("[ab]", 1..4),
        ) {
            let several = CertificateRule::Subject(vec![together(&[("OU", "a"), ("OU", "b")])]);
            let pool = [
                ladder(),
                vec![uri("spiffe://td/a/**"), uri("spiffe://td/a/b/**"), uri("spiffe://td/a"), several],
            ].concat();
            let rules: Vec<_> = chosen.iter().map(|&(rule, value)| (pool[rule].clone(), value)).collect();
            let mut subject = subject(&format!("spiffe://td/{}", path.join("/")));
            subject.attributes.push(together(&[("OU", "b"), ("OU", "a")]));
            let Ok(mapping) = build(rules.clone()) else { return Ok(()) };

            let narrowest = rules.iter().filter(|(rule, _)| rule.matches(&subject)).map(|(rule, _)| rule.specificity()).max();
            let expected = unanimous(
                rules.iter()
                    .filter(|(rule, _)| rule.matches(&subject) && Some(rule.specificity()) == narrowest)
                    .map(|(_, value)| value),
            );

            prop_assert_eq!(mapping.find(&subject), expected);
        }
    }
}
