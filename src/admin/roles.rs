//! Who may ask for what at the operators' socket.

use std::fmt;
use std::str::FromStr;

/// What somebody may do there; each includes those before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Ask how things stand.
    Viewer,
    /// Have what is on file taken over, and certificates of workloads renewed.
    Editor,
    /// Everything that concerns the CA: authorities, and certificates to take away.
    Operator,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Editor => "editor",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A user, or all in a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Whom {
    /// All in the group of this number; `gid:N`.
    Gid(u32),
    /// All in the group of this name; `group:NAME`.
    Group(String),
    /// The user of this number; `uid:N`.
    Uid(u32),
    /// The user of this name; `user:NAME`.
    User(String),
}

/// The text names nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected user:NAME, group:NAME, uid:NUMBER or gid:NUMBER")]
pub struct InvalidWhom;

impl FromStr for Whom {
    type Err = InvalidWhom;

    fn from_str(text: &str) -> Result<Self, InvalidWhom> {
        let (sort, name) = text.split_once(':').ok_or(InvalidWhom)?;
        let number = || name.parse().map_err(|_| InvalidWhom);
        match sort {
            _ if name.is_empty() => Err(InvalidWhom),
            "gid" => Ok(Self::Gid(number()?)),
            "group" => Ok(Self::Group(name.to_owned())),
            "uid" => Ok(Self::Uid(number()?)),
            "user" => Ok(Self::User(name.to_owned())),
            _ => Err(InvalidWhom),
        }
    }
}

/// Somebody at the socket, by the kernel's word and the names that this host has for it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Peer {
    pub(super) uid: Option<u32>,
    pub(super) user: Option<String>,
    pub(super) groups: Vec<(u32, Option<String>)>,
}

/// Who has which role. Root and the agent's own user are operators, whatever is said here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Roles {
    /// Who may ask how things stand; `None` for whoever may open the socket.
    pub viewers: Option<Vec<Whom>>,
    /// Who may have things taken over.
    pub editors: Vec<Whom>,
    /// Who may do everything.
    pub operators: Vec<Whom>,
}

impl Roles {
    /// The role of `peer`; `None` if it may not even ask. Whom the kernel does not name is nobody in particular.
    pub(super) fn of(&self, peer: &Peer, own_uid: u32) -> Option<Role> {
        let is_in = |list: &[Whom]| list.iter().any(|whom| is(peer, whom));
        if peer.uid.is_some_and(|uid| uid == 0 || uid == own_uid) || is_in(&self.operators) {
            return Some(Role::Operator);
        }
        if is_in(&self.editors) {
            return Some(Role::Editor);
        }
        let may_view = self.viewers.as_ref().is_none_or(|viewers| is_in(viewers));
        may_view.then_some(Role::Viewer)
    }
}

fn is(peer: &Peer, whom: &Whom) -> bool {
    match whom {
        Whom::Gid(gid) => peer.groups.iter().any(|(known, _)| known == gid),
        Whom::Group(name) => peer.groups.iter().any(|(_, known)| known.as_ref() == Some(name)),
        Whom::Uid(uid) => peer.uid == Some(*uid),
        Whom::User(name) => peer.user.as_ref() == Some(name),
    }
}

impl Peer {
    /// Asks this host who that is. A name that cannot be found out is nobody's.
    pub(super) fn of(uid: Option<u32>, gid: Option<u32>) -> Self {
        use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

        let user = uid.and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
        let mut groups: Vec<u32> = gid.into_iter().collect();
        if let Some(user) = &user
            && let Ok(name) = std::ffi::CString::new(user.name.as_bytes())
        {
            let listed = getgrouplist(&name, user.gid).unwrap_or_default();
            groups.extend(listed.into_iter().map(Gid::as_raw));
        }
        groups.sort_unstable();
        groups.dedup();
        let named = |gid: u32| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
        Self {
            uid,
            user: user.map(|user| user.name),
            groups: groups.into_iter().map(|gid| (gid, named(gid))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, user: &str, groups: &[(u32, &str)]) -> Peer {
        let groups = groups.iter().map(|(gid, name)| (*gid, Some((*name).to_owned()))).collect();
        Peer { uid: Some(uid), user: Some(user.to_owned()), groups }
    }

    #[test]
    fn without_a_word_root_and_the_agent_are_operators_and_all_others_may_look() {
        let roles = Roles::default();

        assert_eq!(roles.of(&peer(0, "root", &[]), 991), Some(Role::Operator));
        assert_eq!(roles.of(&peer(991, "postern", &[]), 991), Some(Role::Operator));
        assert_eq!(roles.of(&peer(1000, "ann", &[]), 991), Some(Role::Viewer));
        assert_eq!(roles.of(&Peer::default(), 991), Some(Role::Viewer));
    }

    #[test]
    fn users_and_groups_have_the_greatest_role_that_they_are_given() {
        let whom = |text: &str| text.parse::<Whom>().unwrap();
        let roles = Roles {
            viewers: Some(vec![whom("group:ops")]),
            editors: vec![whom("user:ann"), whom("gid:44")],
            operators: vec![whom("uid:1001")],
        };

        assert_eq!(roles.of(&peer(1000, "ann", &[(5, "ops")]), 991), Some(Role::Editor));
        assert_eq!(roles.of(&peer(1001, "bob", &[]), 991), Some(Role::Operator));
        assert_eq!(roles.of(&peer(1002, "eve", &[(44, "x")]), 991), Some(Role::Editor));
        assert_eq!(roles.of(&peer(1003, "joe", &[(5, "ops")]), 991), Some(Role::Viewer));
        assert_eq!(roles.of(&peer(1004, "mallory", &[(6, "users")]), 991), None);
        assert_eq!(roles.of(&Peer::default(), 991), None);
        assert_eq!(roles.of(&peer(0, "root", &[]), 991), Some(Role::Operator));
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for text in ["", "ann", "user:", "uid:ann", "role:x", "uid:-1"] {
            assert_eq!(text.parse::<Whom>(), Err(InvalidWhom), "{text}");
        }
    }
}
