//! Further readers of a file beside its owner and group, as a POSIX access control list.
//!
//! The list is written in the kernel's own form: the extended attribute `system.posix_acl_access`, a version and entries of
//! tag, permissions and id, in ascending order (`posix_acl_xattr.h`; what it means: POSIX.1e draft 17 §23).

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, XattrFlags, fsetxattr};

/// Somebody who may read what is delivered, beside owner and group.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reader {
    /// Every member of a group, by its number.
    Group(u32),
    /// A user, by its number.
    User(u32),
}

/// Lets `readers` read `file`, which has just been given `mode`, as its owner may.
pub(super) fn admit(file: &OwnedFd, mode: Mode, readers: &[Reader]) -> rustix::io::Result<()> {
    if readers.is_empty() {
        return Ok(());
    }
    fsetxattr(file, c"system.posix_acl_access", &access_list(mode, readers), XattrFlags::empty())
}

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NOBODY: u32 = u32::MAX;
const READ: u16 = 4;
const ENTER: u16 = 1;

/// The list for a file of `mode`. Who may read a directory may also go into it, as its mode has it for the owner.
fn access_list(mode: Mode, readers: &[Reader]) -> Vec<u8> {
    let bits = |shift: u32| u16::try_from(mode.bits() >> shift & 7).unwrap_or_default();
    let (owner, group, other) = (bits(6), bits(3), bits(0));
    let reads = owner & (READ | ENTER);
    let mut readers = readers.to_vec();
    readers.sort_unstable();
    readers.dedup();
    let users = readers.iter().filter_map(|reader| match reader {
        Reader::User(id) => Some((USER, reads, *id)),
        Reader::Group(_) => None,
    });
    let groups = readers.iter().filter_map(|reader| match reader {
        Reader::Group(id) => Some((GROUP, reads, *id)),
        Reader::User(_) => None,
    });
    let entries = std::iter::once((USER_OBJ, owner, NOBODY))
        .chain(users)
        .chain([(GROUP_OBJ, group, NOBODY)])
        .chain(groups)
        .chain([(MASK, group | reads, NOBODY), (OTHER, other, NOBODY)]);
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stand_in_the_order_that_the_kernel_wants() {
        let readers = [Reader::Group(9), Reader::User(7), Reader::User(3), Reader::User(7)];

        let list = access_list(Mode::from_raw_mode(0o600), &readers);

        let entries: Vec<(u16, u16, u32)> = list[4..]
            .chunks(8)
            .map(|entry| {
                let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
                (half(0), half(2), u32::from_le_bytes(entry[4..].try_into().unwrap()))
            })
            .collect();
        let expected = [
            (USER_OBJ, 6, NOBODY),
            (USER, READ, 3),
            (USER, READ, 7),
            (GROUP_OBJ, 0, NOBODY),
            (GROUP, READ, 9),
            (MASK, READ, NOBODY),
            (OTHER, 0, NOBODY),
        ];
        assert_eq!(entries, expected);
        assert_eq!(list[..4], [2, 0, 0, 0]);
    }

    #[test]
    fn a_directory_can_be_entered_but_not_written_to() {
        let list = access_list(Mode::from_raw_mode(0o700), &[Reader::User(1)]);

        assert_eq!(list[12..16], [2, 0, 5, 0]);
    }
}
