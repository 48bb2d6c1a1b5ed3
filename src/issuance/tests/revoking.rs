//! What is revoked is in the lists, signs never again, and takes along only what it has signed.

use std::path::PathBuf;

use webpki::OwnedCertRevocationList;

use super::*;
use crate::pki::{ForeignCrl, Revocation, Revoked};
use crate::store::{pem, revocation_file};

impl World {
    async fn revoke(
        &self,
        level: Level,
        id: &AuthorityId,
        insistence: Insistence,
    ) -> Result<Changed, IssuanceError> {
        let (id, reason) = (id.clone(), "key compromise".to_owned());
        let order = AuthorityRevocation { level, id, reason, insistence, run: Run::Real };
        self.ask(|reply| Command::Revoke { order, reply }).await
    }

    /// Revokes as an operator's command does, and tells the owner of the CA as the agent does.
    async fn revoke_certificate(&self, what: &str) {
        let because = Revocation { at: self.now().to_whole_second(), reason: "superseded".to_owned() };
        let list =
            revocation_file::update(self.state.path(), |list| list.with(what.parse().unwrap(), because));
        list.unwrap();
        self.commands.send(Command::Revoked).await.unwrap();
        // The answer to the next command comes after it.
        self.change(Verb::Discard(Some("0123456789abcdef".parse().unwrap()))).await.unwrap();
    }

    /// The lists as they are published, by the certificate of whoever has signed them.
    fn lists(&self) -> Vec<(AuthorityId, OwnedCertRevocationList, u64)> {
        let issued = self.issued();
        let lists = pem::crls(issued.crl.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(self.state.path().join("crl.pem")).unwrap(), *issued.crl);
        let authorities = issued.hierarchy.roots.iter().chain(&issued.hierarchy.issuing);
        assert_eq!(authorities.clone().count(), lists.len());
        let read =
            |(authority, list): (&AuthorityView, &rustls::pki_types::CertificateRevocationListDer<'_>)| {
                let number = ForeignCrl::parse(list).unwrap().number().unwrap();
                (authority.id.clone(), OwnedCertRevocationList::from_der(list).unwrap(), number)
            };
        authorities.zip(&lists).map(read).collect()
    }

    fn number(&self) -> u64 {
        let numbers: BTreeSet<u64> = self.lists().into_iter().map(|(_, _, number)| number).collect();
        assert_eq!(numbers.len(), 1, "all lists of one drawing have one number");
        *numbers.first().unwrap()
    }

    /// Whose lists have this serial number.
    fn listed_by(&self, serial: &str) -> Vec<AuthorityId> {
        let serial = data_encoding::HEXLOWER.decode(serial.as_bytes()).unwrap();
        let has = |list: &OwnedCertRevocationList| {
            webpki::CertRevocationList::from(list.clone()).find_serial(&serial).unwrap().is_some()
        };
        self.lists().into_iter().filter(|(_, list, _)| has(list)).map(|(id, _, _)| id).collect()
    }

    fn serial_of(&self, id: &AuthorityId) -> String {
        let path: PathBuf = self.state.path().join("authorities").join(id.as_str()).join("certificate.pem");
        let certificates = pem::certificates(&std::fs::read(path).unwrap()).unwrap();
        Revoked::serial_of(&certificates[0]).unwrap().to_string().replace("serial:", "")
    }

    fn verifier(&self) -> Verifier {
        let bundles = Arc::new(BundleSet::from_iter([self.issued().bundle.clone()]));
        Verifier::new(bundles, Arc::new(revocation_file::load(self.state.path()).unwrap())).unwrap()
    }

    fn believes(&self, svid: &X509Svid) -> bool {
        self.verifier().verify(&svid.chain, Usage::Client, self.now()).is_ok()
    }
}

fn weekly() -> Settings {
    Settings { distribute: Duration::ZERO, ..settings(&["agent", "orders"], HOUR, DAY * 7) }
}

#[tokio::test(start_paused = true)]
async fn every_authority_has_a_list_from_the_start_and_a_new_one_at_half_of_its_span() {
    let world = World::start(weekly());
    let first = world.number();
    assert_eq!(world.lists().len(), 2);

    pass(HOUR * 11).await;
    assert_eq!(world.number(), first);
    pass(HOUR * 2).await;
    assert!(world.number() > first);

    let before = world.number();
    world.change(Verb::Prepare).await.unwrap();
    assert_eq!(world.lists().len(), 3, "also the prepared one, ahead of its first leaf");
    assert!(world.number() > before);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_replaced_within_its_own_span_also_when_a_longer_one_is_configured() {
    let world = World::start(Settings { crl_ttl: HOUR, ..weekly() });
    let first = world.number();
    let settings = Box::new(weekly());

    world.ask(|reply| Command::Configure { settings, reply }).await.unwrap();
    pass(MINUTE * 31).await;

    assert!(world.number() > first);
}

#[tokio::test(start_paused = true)]
async fn the_number_falls_neither_with_the_clock_nor_over_a_restart() {
    let world = World::start(weekly());
    let first = world.number();
    world.clock.step_back(MINUTE * 3);
    pass(SECOND * 3).await;
    let second = world.number();
    assert!(second > first, "drawn anew, for the first was of the future");
    let World { state, clock, mut tasks, .. } = world;
    tasks.shutdown().await;

    let world = World::start_in(Arc::clone(&state), weekly(), Arc::clone(&clock)).unwrap();
    let third = world.number();
    assert!(third > second);
    let World { mut tasks, .. } = world;
    tasks.shutdown().await;
    std::fs::remove_file(state.path().join("crl.pem")).unwrap();
    pass(HOUR * 2).await;

    let world = World::start_in(state, weekly(), clock).unwrap();
    assert!(world.number() > third, "the time is ahead again");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_certificate_is_in_the_list_of_its_issuer_until_one_span_after_its_end() {
    let world = World::start(weekly());
    let (agent, orders) = (world.svid("agent"), world.svid("orders"));
    assert_eq!(world.listed_by(&agent.serial), []);

    world.revoke_certificate(&format!("serial:{}", agent.serial)).await;
    assert_eq!(world.listed_by(&agent.serial), std::slice::from_ref(&agent.authority));
    assert_eq!(world.listed_by(&orders.serial), []);

    pass(HOUR * 13).await;
    assert_eq!(
        world.listed_by(&agent.serial),
        std::slice::from_ref(&agent.authority),
        "one list after its end at least"
    );
    pass(HOUR * 13).await;
    assert_eq!(world.listed_by(&agent.serial), []);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_identity_is_in_the_list_with_all_its_certificates_also_those_to_come() {
    let world = World::start(weekly());
    let first = world.svid("agent");

    world.revoke_certificate("spiffe://postern.test/agent").await;
    let second = world.ask(|reply| Command::IssueNow { workload: workload("agent"), reply }).await.unwrap();

    assert_ne!(first.serial, second.serial);
    for serial in [&first.serial, &second.serial] {
        assert_eq!(world.listed_by(serial), std::slice::from_ref(&first.authority));
    }
    assert_eq!(world.listed_by(&world.svid("orders").serial), []);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_in_the_list_also_after_a_restart() {
    let world = World::start(weekly());
    let former = world.svid("agent");
    let subject = crate::identity::Subject::from_der(&former.chain[0]).unwrap();
    let World { state, clock, mut tasks, .. } = world;
    tasks.shutdown().await;
    let world = World::start_in(state, weekly(), clock).unwrap();

    world.revoke_certificate(&Revoked::Spki(subject.spki_sha256).to_string()).await;

    assert_eq!(world.listed_by(&former.serial), std::slice::from_ref(&former.authority));
}

#[tokio::test(start_paused = true)]
async fn a_serial_number_of_unknown_origin_is_in_every_list_for_as_long_as_it_can_be_valid() {
    let world = World::start(Settings { crl_ttl: MINUTE, ..settings(&[], MINUTE, HOUR * 2) });
    world.revoke_certificate("serial:0abc").await;
    assert_eq!(world.listed_by("0abc").len(), 2);

    pass(MINUTE * 42).await;

    let root = world.roots()[0].1.clone();
    assert_eq!(world.listed_by("0abc"), [root], "a leaf would have expired, an issuing authority not");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_down_does_not_keep_anything_from_being_issued_and_is_told() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    for name in ["issued.journal", "crl.pem"] {
        std::fs::create_dir(state.path().join(name)).unwrap();
    }
    let world = World::start_in(Arc::clone(&state), weekly(), PausedClock::start()).unwrap();
    let troubles = world.issued().troubles.clone();
    assert_eq!(troubles.len(), 2, "{troubles:?}");
    assert!(troubles[0].contains("issued.journal") && troubles[1].contains("crl.pem"), "{troubles:?}");
    let first = world.svid("agent");
    assert!(world.issued().crl.starts_with("-----BEGIN X509 CRL"));
    pass(HOUR).await;
    assert_ne!(world.svid("agent").serial, first.serial);

    for name in ["issued.journal", "crl.pem"] {
        std::fs::remove_dir(state.path().join(name)).unwrap();
    }
    pass(MINUTE).await;

    assert_eq!(world.issued().troubles, [""; 0]);
    assert_eq!(world.lists().len(), 2, "it is in the file");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_last_leaf_is_known_exactly_after_a_restart() {
    let world = World::start(weekly());
    let end = world.svid("agent").not_after;
    let World { state, clock, mut tasks, .. } = world;
    tasks.shutdown().await;
    let none = Settings { workloads: BTreeMap::new(), ..weekly() };
    let world = World::start_in(state, none, clock).unwrap();

    world.change(Verb::Rotate).await.unwrap();

    assert_eq!(world.issued().hierarchy.issuing[1].drained_at, Some(end));
}

#[tokio::test(start_paused = true)]
async fn a_retired_authority_is_revoked_and_never_signs_again() {
    let world = World::start(weekly());
    let (former, old) = (world.active(), world.svid("agent"));
    world.change(Verb::Rotate).await.unwrap();
    assert!(world.believes(&old));

    world.revoke(Level::Issuing, &former, Insistence::Heed).await.unwrap();

    assert!(!world.believes(&old) && world.believes(&world.svid("agent")));
    assert!(world.issued().hierarchy.issuing[1].is_revoked, "its list still needs its key");
    assert_eq!(world.listed_by(&world.serial_of(&former)), [world.roots()[0].1.clone()]);
    for id in [None, Some(former.clone())] {
        let refused = world.change(Verb::RollBack(id)).await.unwrap_err();
        assert!(matches!(&refused, IssuanceError::Revoked { id, .. } if *id == former), "{refused}");
    }
    world.revoke(Level::Issuing, &former, Insistence::Heed).await.unwrap();
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn the_authority_that_signs_is_revoked_after_another_one_took_over() {
    let world = World::start(weekly());
    let (former, old) = (world.active(), world.svid("agent"));

    world.revoke(Level::Issuing, &former, Insistence::Heed).await.unwrap();

    assert_ne!(world.active(), former);
    assert_eq!(world.svid("agent").authority, world.active());
    assert!(
        !world.believes(&old)
            && world.believes(&world.svid("agent"))
            && world.believes(&world.svid("orders"))
    );
    pass(HOUR * 2).await;
    assert!(
        world.issued().hierarchy.issuing.iter().all(|one| !one.is_revoked),
        "it is gone with its last leaf"
    );
    world.revoke(Level::Issuing, &former, Insistence::Heed).await.unwrap();
    let unknown: AuthorityId = "0123456789abcdef".parse().unwrap();
    let error = world.revoke(Level::Issuing, &unknown, Insistence::Heed).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no issuing authority 0123456789abcdef");
}

#[tokio::test(start_paused = true)]
async fn a_prepared_authority_that_is_revoked_is_never_activated() {
    let world = World::start(weekly());
    let first = world.change(Verb::Prepare).await.unwrap();
    world.revoke(Level::Issuing, &first, Insistence::Heed).await.unwrap();
    assert!(matches!(world.change(Verb::Activate(Some(first))).await, Err(IssuanceError::Hierarchy(_))));

    let second = world.change(Verb::Prepare).await.unwrap();
    let serial = world.serial_of(&second);
    world.revoke_certificate(&format!("serial:{serial}")).await;
    let refused = world.change(Verb::Activate(Some(second.clone()))).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("{second} cannot sign again: serial:{serial} is revoked"));
    assert_ne!(world.change(Verb::Rotate).await.unwrap(), second, "another one is made");
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_revoked_leaves_the_bundle_with_all_below_it() {
    let world = World::start(weekly());
    let reader = world.expect("orders");
    world.acknowledge(&reader);
    let (root, issuing, old) = (world.roots()[0].1.clone(), world.active(), world.svid("agent"));

    let refused = world.revoke(Level::Root, &root, Insistence::Heed).await.unwrap_err();
    assert!(matches!(refused, IssuanceError::NotAcknowledged { .. }), "{refused}");
    assert!(world.believes(&old));

    let revoked = world.revoke(Level::Root, &root, Insistence::Force).await.unwrap();
    assert!(revoked.left_behind[0].starts_with("the files of orders"), "{revoked:?}");
    assert_eq!(world.issued().bundle.roots.len(), 1);
    assert!(world.roots().iter().all(|(_, id)| *id != root));
    assert!(world.issued().hierarchy.issuing.iter().all(|one| one.id != issuing));
    assert!(!world.believes(&old) && world.believes(&world.svid("agent")));
    let list = revocation_file::load(world.state.path()).unwrap();
    let mut reasons: Vec<&str> = list.iter().map(|(_, revocation)| revocation.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [format!("issuing authority {issuing}: key compromise"), format!("root {root}: key compromise")]
    );
    assert!(world.change_root(Verb::RollBack(Some(root.clone())), Insistence::Force).await.is_err());
    world.revoke(Level::Root, &root, Insistence::Heed).await.unwrap();
    world.check_history();
}

#[tokio::test(start_paused = true)]
async fn a_root_that_signs_and_is_revoked_like_a_certificate_is_replaced_at_once() {
    let world = World::start(weekly());
    let reader = world.expect("orders");
    let (root, old) = (world.roots()[0].1.clone(), world.svid("agent"));

    world.revoke_certificate(&format!("serial:{}", world.serial_of(&root))).await;

    assert_ne!(world.roots()[0], (Slot::Active, root.clone()), "{:?}", world.roots());
    assert!(!world.believes(&old) && world.believes(&world.svid("agent")));
    world.acknowledge(&reader);
    let refused = world.change_root(Verb::RollBack(Some(root)), Insistence::Heed).await.unwrap_err();
    assert!(matches!(refused, IssuanceError::Revoked { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_rehearsed_revocation_changes_nothing() {
    let world = World::start(weekly());
    let before = world.issued();
    for (level, id) in [(Level::Issuing, world.active()), (Level::Root, world.roots()[0].1.clone())] {
        let order = AuthorityRevocation {
            level,
            id,
            reason: String::new(),
            insistence: Insistence::Heed,
            run: Run::Rehearsal,
        };
        world.ask(|reply| Command::Revoke { order, reply }).await.unwrap();
    }

    assert_eq!(world.issued().hierarchy, before.hierarchy);
    assert_eq!(world.issued().crl, before.crl);
    assert!(revocation_file::load(world.state.path()).unwrap().is_empty());
}
