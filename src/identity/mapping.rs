//! From a verified subject to what is on file for it: the narrowest rule wins, and a tie is refused, not resolved.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::identity::{CertificateRule, RelativeName, SpiffeId, Subject};

/// Certificate rules, each with what it stands for, indexed so that finding one does not get slower with their number.
#[derive(Clone, Debug)]
pub struct Mapping<T> {
    dns: HashMap<String, T>,
    sha256: HashMap<[u8; 32], T>,
    spki: HashMap<[u8; 32], T>,
    uri: HashMap<SpiffeId, T>,
    /// By the text of a SPIFFE ID cut off before a slash: `spiffe://td/ns` for the rule `spiffe://td/ns/**`.
    uri_prefix: HashMap<String, T>,
    /// By one of the rule's relative names, so that only rules with that one are looked at.
    subject: HashMap<RelativeName, Vec<(CertificateRule, T)>>,
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

/// The same rule stands for two different things.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} certificate rules stand for two things each", .0.len())]
pub struct AmbiguousRules(pub Vec<Clash>);

/// One rule that was given twice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clash {
    /// The rule.
    pub rule: CertificateRule,
    /// Where it came first, counted from zero in the order of the rules given.
    pub first: usize,
    /// Where it came again.
    pub second: usize,
}

impl<T: Clone + Eq> Mapping<T> {
    /// Indexes `rules`. The same rule may be given twice for the same thing.
    ///
    /// # Errors
    /// All rules that are given for two different things.
    pub fn build(rules: impl IntoIterator<Item = (CertificateRule, T)>) -> Result<Self, AmbiguousRules> {
        let mut seen: HashMap<CertificateRule, (usize, T)> = HashMap::new();
        let mut clashes = Vec::new();
        let mut mapping = Self::default();
        for (position, (rule, value)) in rules.into_iter().enumerate() {
            match seen.entry(canonical(rule)) {
                Entry::Vacant(slot) => {
                    mapping.insert(slot.key().clone(), value.clone());
                    slot.insert((position, value));
                }
                Entry::Occupied(slot) if slot.get().1 != value => {
                    clashes.push(Clash { rule: slot.key().clone(), first: slot.get().0, second: position });
                }
                Entry::Occupied(_) => (),
            }
        }
        if clashes.is_empty() { Ok(mapping) } else { Err(AmbiguousRules(clashes)) }
    }

    fn insert(&mut self, rule: CertificateRule, value: T) {
        match rule {
            CertificateRule::Dns(name) => drop(self.dns.insert(name, value)),
            CertificateRule::Sha256(digest) => drop(self.sha256.insert(digest, value)),
            CertificateRule::Spki(digest) => drop(self.spki.insert(digest, value)),
            CertificateRule::Subject(ref names) => {
                let common_name = names.iter().find(|name| name.has(COMMON_NAME));
                if let Some(index) = common_name.or_else(|| names.first()).cloned() {
                    self.subject.entry(index).or_default().push((rule, value));
                }
            }
            CertificateRule::Uri(id) => drop(self.uri.insert(id, value)),
            CertificateRule::UriPrefix { domain, segments } => {
                let text = segments.iter().fold(domain.id_text(), |text, segment| text + "/" + segment);
                self.uri_prefix.insert(text, value);
            }
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
            let candidates = subject.attributes.iter().filter_map(|one| self.subject.get(one)).flatten();
            candidates.filter(|(rule, _)| rule.matches(subject))
        };
        let narrowest = matching().map(|(rule, _)| rule.specificity()).max();
        unanimous(
            matching().filter(|(rule, _)| Some(rule.specificity()) == narrowest).map(|(_, value)| value),
        )
    }
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
            dns: HashMap::new(),
            sha256: HashMap::new(),
            spki: HashMap::new(),
            uri: HashMap::new(),
            uri_prefix: HashMap::new(),
            subject: HashMap::new(),
        }
    }
}

const COMMON_NAME: &str = "2.5.4.3";

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
            let mapping = Mapping::build(rules).unwrap();

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
        let mapping = Mapping::build([(uri("spiffe://td/ns/prod/**"), "prod")]).unwrap();

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
    fn the_same_rule_for_two_things_is_refused_wherever_it_stands() {
        let rules = [
            (uri("spiffe://td/a"), "one"),
            (by_subject(&[("CN", "x"), ("O", "y")]), "one"),
            (uri("spiffe://td/a"), "two"),
            (by_subject(&[("O", "y"), ("CN", "x")]), "two"),
        ];

        let AmbiguousRules(clashes) = Mapping::build(rules).unwrap_err();

        let places: Vec<_> = clashes.iter().map(|clash| (clash.first, clash.second)).collect();
        assert_eq!(places, [(0, 2), (1, 3)]);
    }

    #[test]
    fn the_same_rule_twice_for_one_thing_is_harmless() {
        let mapping = Mapping::build([(dns("a.test"), "one"), (dns("A.TEST"), "one")]).unwrap();

        assert_eq!(mapping.find(&subject("spiffe://td/a")), Match::Found(&"one"));
    }

    #[test]
    fn equally_narrow_rules_for_two_things_are_ambiguous() {
        let by_name = Mapping::build([(dns("a.test"), "one"), (dns("b.test"), "two")]).unwrap();
        let by_attribute =
            Mapping::build([(by_subject(&[("CN", "orders")]), "one"), (by_subject(&[("O", "Acme")]), "two")])
                .unwrap();

        assert_eq!(by_name.find(&subject("spiffe://td/a")), Match::Ambiguous);
        assert_eq!(by_attribute.find(&subject("spiffe://td/a")), Match::Ambiguous);
    }

    #[test]
    fn a_narrower_rule_ends_the_doubt() {
        let mapping = Mapping::build([
            (dns("a.test"), "one"),
            (dns("b.test"), "two"),
            (uri("spiffe://td/**"), "three"),
        ])
        .unwrap();

        assert_eq!(mapping.find(&subject("spiffe://td/a")), Match::Found(&"three"));
    }

    #[test]
    fn a_second_common_name_is_no_match_for_a_rule_that_names_one() {
        let mapping = Mapping::build([
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
        let mapping = Mapping::build([(by_subject(&[("CN", "orders")]), "one")]).unwrap();

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
            Mapping::build([(several, "several"), (by_subject(&[("CN", "jane"), ("C", "CH")]), "two")])
                .unwrap();

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
        let mapping = Mapping::build([(by_subject(&[]), "all")]).unwrap();

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
            let Ok(mapping) = Mapping::build(rules.clone()) else { return Ok(()) };

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
